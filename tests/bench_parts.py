"""Parts of a third party for the tests of benchmarks: an objective that can score and can fail, a task, a backbone."""

from contextlib import contextmanager

import torch
from dense_ctx_maxa.losses import squared_error
from dense_ctx_maxa.scoring import SquaredErrors
from dense_ctx_maxa.tasks import Task
from torch.utils.data import Dataset

from dense_ctx import registry
from dense_ctx.images import nearest, resized
from dense_ctx.interfaces import Losses, Objective, ScoredObjective
from dense_ctx.kinds import Entry, Owner
from dense_ctx.testing.tiny import TinyBackbone

OWNER = Owner("benched", "bench-parts", "0.1")
NAMES = {
    ("objective", "benched-depth"): "bench_parts:Depth",
    ("objective", "benched-reader"): "bench_parts:Reader",
    ("objective", "benched-plain"): "bench_parts:plain",
    ("objective", "benched-nameless"): "bench_parts:Nameless",
    ("task", "benched-near"): "bench_parts:Near",
    ("backbone", "benched-tiny"): "bench_parts:Trained",
    ("decoder", "benched-all"): "dense_ctx.testing.tiny:TinyDecoder",
}


@contextmanager
def registered():
    """The names of this module, for as long as a test runs."""
    ours = registry()
    ours.commit({(kind, name): Entry(kind, name, target, OWNER) for (kind, name), target in NAMES.items()})
    try:
        yield
    finally:
        ours.remove(OWNER)


class Samples(Dataset):
    """Images or their cached maps, and depth."""

    def __init__(self, images, image_size, size, far=0.0):
        self.images, self.image_size, self.size, self.features = images, image_size, size, None
        self.far = far  # added to the depth: what a wrong file would do

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        sample = self.images[index]
        source = {"image": resized(sample.image, self.image_size)} if self.features is None else {}
        return {**source, "index": index, "depth": nearest(sample.target, self.size) + self.far}


class Depth(ScoredObjective):
    """Mean squared error of depth. `fault` names what goes wrong."""

    metric, unit, lower_is_better = "error", "m2", True
    size = image_size = (16, 16)

    def __init__(self, fault=None):
        super().__init__()
        self.fault, self.far = fault, 0.0
        if fault == "declarations":
            self.metric = ""
        if fault == "__init__":
            raise TypeError("a mistake in __init__")

    def dataset(self, data):
        self.fail("dataset")
        size = (16, 16) if self.fault == "sizes" else self.size
        self.samples = Samples(data, self.image_size, size, self.far)
        return self.samples

    def outputs(self, dataset):
        self.fail("outputs raise")
        return 0 if self.fault == "outputs" else 1

    def setup(self, model, dataset, *, fresh):
        self.fail("setup")
        own = {"lr": 1e-3} if self.fault == "lr" else {}
        return [{**group, **own} for group in super().setup(model, dataset, fresh=fresh)]

    def predict(self, model, batch, features):
        if features is None:
            maps, padded = model.encode(batch["image"])
        else:
            maps = features.batch((batch["index"] + (self.fault == "features")).clamp(max=len(features) - 1).tolist())
            padded = torch.full((len(maps.maps[0]), 3, *maps.image_size), torch.nan)
        return model.decode(maps, padded, self.image_size, batch["depth"].shape[-2:])

    def forward(self, model, batch):
        self.fail("forward")
        loss = squared_error(self.predict(model, batch, self.samples.features), batch["depth"])
        return Losses(loss * float("nan") if self.fault == "loss" else loss)

    def score(self, model, images, *, features=None):
        self.fail("score")
        if self.fault == "exit":
            raise SystemExit(0)
        if self.fault == "mode":
            model.train()
        samples = Samples(images, self.image_size, (16, 16) if self.fault == "sizes" else self.size)
        batch = torch.utils.data.default_collate([samples[index] for index in range(len(samples))])
        with torch.no_grad():
            error = squared_error(self.predict(model, batch, features), batch["depth"])
        answers = {
            "nothing": None,
            "no metric": {"images": 1},
            "no count": {"error": 1.0},
            "words": {"error": "small", "images": 1},
            "nan": {"error": float("nan"), "images": 1},
            "random": {"error": float(torch.rand(())), "images": 1},
        }
        return answers.get(self.fault, {"error": float(error), "images": len(samples)})

    def use_features(self, features):
        if self.fault != "use_features":
            super().use_features(features)

    def use_folder(self, folder):
        self.far = 9.0 if self.fault == "folder" else 0.0

    def fail(self, where):
        if self.fault == where:
            raise KeyError(f"a mistake in {where}")


class Reader(Depth):
    """As `Depth`, and reads features from disk."""

    reads_features = True

    def use_features(self, features):
        if self.fault != "not used":
            self.samples.features = features


class Plain(Objective):
    """An objective that cannot score."""

    def dataset(self, data):
        return data

    def forward(self, model, batch):
        return Losses(model(batch["image"]).pixels.square().mean())


def plain():
    """As a function, of which nothing is known before it is called."""
    return Plain()


class Nameless(Depth):
    """Forgets its metric."""

    metric = ""


class Near(Task):
    """Closer than so many metres, as 1 or 0; a regression, to keep it short."""

    kind, metric, lower_is_better = "depth", "mse", True

    def __init__(self, metres=2.0):
        self.metres = metres

    def target(self, annotation, classes, name):
        return torch.where(annotation.isfinite(), (annotation < self.metres).float(), torch.nan)

    def loss(self, prediction, target):
        return squared_error(prediction, target)

    def scores(self, classes):
        return SquaredErrors()


class Trained(TinyBackbone):
    """Its bias trains, whatever the objective, if `adapt`."""

    def __init__(self, adapt=False, weights=None):
        super().__init__()
        self.adapt = adapt

    def adapters(self):
        return ["deep.bias"] if self.adapt else []
