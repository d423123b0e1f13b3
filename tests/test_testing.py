"""Each contract check passes a right part, and fails one that breaks a single clause, naming that clause."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from dense_ctx import DenseFeatures, Features, Losses, Objective, Probe
from dense_ctx.errors import ContractError, InputError, NotFittedError
from dense_ctx.persistence.tensors import require_state
from dense_ctx.testing import (
    TinyBackbone,
    TinyDecoder,
    check_backbone,
    check_decoder,
    check_objective,
    check_probe,
    tiny_model,
)
from dense_ctx.train import TrainStep


def changed(features, **new):
    return Features(**{"maps": features.maps, "cls": features.cls, "image_size": features.image_size, **new})


class BadBackbone(TinyBackbone):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.hidden = [torch.zeros(())]
        if fault == "attributes":
            self.strides = (8, 4)
        if fault == "state_dict":
            self.hidden = [self.shallow.weight.detach()]

    def blocks(self):
        return ["deep", "top"] if self.fault == "blocks" else super().blocks()

    def forward(self, images):
        fault = self.fault
        if fault == "input":
            images.add_(1.0)
        if fault == "gradients":
            with torch.no_grad():
                return super().forward(images)
        out = super().forward(images)
        if fault == "shapes":
            return changed(out, maps=out.maps[:1])
        if fault == "finite":
            return changed(out, maps=(out.maps[0] / 0, out.maps[1]))
        if fault == "deterministic":
            return changed(out, maps=tuple(functional.dropout(m, 0.5) for m in out.maps))
        if fault == "batch":
            return changed(out, maps=tuple(m - m.mean(dim=0) for m in out.maps))
        if fault == "bfloat16":
            return changed(out, maps=tuple(m.float() for m in out.maps))
        if fault == "state_dict":
            self.hidden[0] = self.hidden[0] if len(self.hidden) == 1 else self.hidden[1]
            return changed(out, maps=tuple(m + self.hidden[0].to(m.dtype).sum() for m in out.maps))
        return out


BACKBONE = [
    "attributes",
    "blocks",
    "shapes",
    "finite",
    "input",
    "deterministic",
    "batch",
    "gradients",
    "bfloat16",
]


def test_backbone_passes_every_clause():
    assert set(check_backbone(TinyBackbone())) == {*BACKBONE, "state_dict"}


@pytest.mark.parametrize("fault", BACKBONE)
def test_backbone_fault_is_named(fault):
    with pytest.raises(ContractError, match=rf"\[{fault}\] backbone BadBackbone") as error:
        check_backbone(BadBackbone(fault))
    assert error.value.clause == fault


def test_backbone_weights_outside_the_state_dict():
    class Outside(TinyBackbone):
        def __deepcopy__(self, memo):  # as a weight kept elsewhere would, it differs between instances
            other = Outside()
            other.load_state_dict(self.state_dict())
            other.scale = self.scale + 1
            return other

        scale = 1

        def forward(self, images):
            out = super().forward(images)
            return changed(out, maps=tuple(m * self.scale for m in out.maps))

    with pytest.raises(ContractError, match=r"\[state_dict\]"):
        check_backbone(Outside())


def test_backbone_structure_on_the_meta_device():
    with torch.device("meta"):
        backbone = TinyBackbone()
    assert check_backbone(backbone, structure_only=True) == ("attributes", "blocks", "shapes")


class BadDecoder(TinyDecoder):
    def __init__(self, dims, strides, fault):
        super().__init__(dims, strides)
        self.fault = fault
        self.calls = 0
        self.unused = nn.Parameter(torch.zeros(3)) if fault == "gradients" else None
        self.offset = torch.randn(()) if fault == "state_dict" else 0.0
        if fault == "construction":
            self.dim = 0

    def forward(self, features, images, size):
        self.calls += 1
        if self.fault == "input":
            features.maps[0].mul_(2.0)
        if self.fault == "shapes":
            size = features.image_size
        out = super().forward(features, images, size)
        if self.fault == "finite":
            return out / 0
        if self.fault == "batch":
            return out - out.mean(dim=0)
        if self.fault == "size":
            return out + (features.image_size[1] < features.image_size[0] or self.calls > 8) * 1.0
        if self.fault == "bfloat16":
            return out.float() + self.offset
        return out + self.offset

    def initialise(self, batches):
        for maps in batches if self.fault == "initialise" else ():
            self.project[0].bias.data += maps[0].mean()
        return False

    def shift(self, offset):
        self.offset = self.offset + (offset[:, None, None] if self.fault != "shift" else 1.0)
        return True

    layers = property(lambda self: (-1,) if self.fault == "layers" else None)


DECODER = [
    "construction",
    "shapes",
    "finite",
    "input",
    "batch",
    "size",
    "layers",
    "gradients",
    "state_dict",
    "initialise",
    "shift",
    "bfloat16",
]


def test_decoder_passes_every_clause():
    assert set(check_decoder(TinyDecoder)) == set(DECODER)
    assert set(check_decoder("dpt", args={"shortcut": True, "dim": 8, "width": 8})) == set(DECODER)


@pytest.mark.parametrize("fault", DECODER)
def test_decoder_fault_is_named(fault):
    with pytest.raises(ContractError) as error:
        check_decoder(BadDecoder, args={"fault": fault})
    assert error.value.clause == fault, error.value


class Centroids(Probe):
    """Nearest class mean for segmentation, least squares for regression."""

    def __init__(self, task="segmentation", fault=None):
        super().__init__(task)
        if fault == "construction" or task == "neither":
            raise InputError("no")
        self.fault = fault
        self.sums_ = None

    def partial_fit(self, features, targets):
        if self.fault == "input":
            targets.add_(1)
        x = features.pixels.movedim(1, -1)
        x = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
        if self.task == "segmentation":
            keep = targets >= 0 if self.fault != "ignored" else targets >= -9
            labels = targets[keep] % 3
            count = max(int(labels.max()) + 1, 0 if self.sums_ is None else len(self.sums_))
            if self.fault == "new_class" and self.sums_ is not None:
                return self
            new = torch.zeros(count, x.shape[-1]).index_add_(0, labels, x[keep])
            if self.sums_ is not None:
                new[: len(self.sums_)] += self.sums_
            self.sums_ = new
        else:
            y = targets.movedim(1, -1)
            keep = y.isfinite().all(dim=-1) if self.fault != "ignored" else torch.ones(y.shape[:-1]).bool()
            self.sums_ = torch.linalg.lstsq(x[keep], y[keep]).solution.T
        if self.fault == "deterministic":
            self.sums_ = self.sums_ * (1 + 0.01 * torch.rand(len(self.sums_), 1))
            self.sums_[:, -1] *= 1.01
        if self.fault == "learns":
            self.sums_ = torch.zeros_like(self.sums_)
        return None if self.fault == "fit" else self

    def predict(self, features, size=None):
        if self.sums_ is None:
            if self.fault == "unfitted":
                return features.pixels
            raise NotFittedError("call partial_fit first")
        x = features.pixels.movedim(1, -1)
        if self.task == "segmentation":
            means = self.sums_[:, :-1] / self.sums_[:, -1:].clamp_min(1e-6)
            out = (-torch.cdist(x.flatten(0, 2), means)).softmax(dim=-1).reshape(*x.shape[:3], -1)
        else:
            out = x @ self.sums_[:, :-1].T + self.sums_[:, -1]
        out = out.movedim(-1, 1)
        if size is not None and self.fault != "predict":
            out = functional.interpolate(out, size, mode="bilinear")
        return out * 2 if self.fault == "probabilities" else out

    def state_dict(self):
        return {"sums_": self.sums_ * (0.5 if self.fault == "state_dict" else 1) + (self.fault == "state_dict")}

    def load_state_dict(self, state):
        if self.fault != "strict":
            require_state(state, {"sums_": (torch.float32, ("K", "D"))}, "not a state of Centroids")
        self.sums_ = state["sums_"]


PROBE = ["construction", "unfitted", "fit", "input", "predict", "probabilities", "learns", "deterministic"]
PROBE += ["state_dict", "strict", "ignored", "new_class"]


def test_probe_passes_every_clause():
    assert set(check_probe(Centroids)) == set(PROBE)


@pytest.mark.parametrize("fault", PROBE)
def test_probe_fault_is_named(fault):
    with pytest.raises(ContractError) as error:
        check_probe(Centroids, args={"fault": fault})
    assert error.value.clause == fault, error.value


class Regress(Objective):
    """Predict the image's own colours."""

    def __init__(self, fault=None):
        super().__init__()
        self.fault = fault
        self.head = nn.Conv2d(5, 3, 1)

    def dataset(self, data):
        return [] if self.fault == "dataset" else list(data)

    def collate(self, samples):
        return samples if self.fault == "collate" else {"images": torch.stack(samples)}

    def setup(self, model, dataset, *, fresh):
        if self.fault != "step" and (fresh or self.fault == "opened"):
            model.decoder.load_state_dict({k: v + 0.1 for k, v in model.decoder.state_dict().items()})
        return [] if self.fault == "setup" else super().setup(model, dataset, fresh=fresh)

    def forward(self, model, batch):
        images = batch["images"]
        pixels = self.head(model(images).pixels)
        if self.fault == "gradients":
            pixels = pixels * 0
        loss = (pixels - images).square().mean()
        if self.fault == "losses":
            loss = loss / 0
        if self.fault == "frozen":
            with torch.no_grad():
                model.backbone.shallow.weight.mul_(0.9)
        return Losses(loss, {"mse": loss.detach()})

    def after_step(self, model, step):
        if self.fault == "after_step":
            raise RuntimeError("no teacher")
        if self.fault == "step":
            model.decoder.load_state_dict(tiny_model().decoder.state_dict())
            self.head.load_state_dict(self.first)

    @property
    def first(self):
        if not hasattr(self, "_first"):
            self._first = {k: v.clone() for k, v in self.head.state_dict().items()}
        return self._first

    def load_state_dict(self, state_dict, strict=True, assign=False):
        if self.fault == "state_dict":
            raise RuntimeError("missing key")
        return super().load_state_dict(state_dict, strict, assign)


OBJECTIVE = ["dataset", "collate", "opened", "setup", "losses", "gradients", "after_step", "frozen", "state_dict"]
IMAGES = [torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(n)) for n in range(4)]


def test_objective_passes_every_clause():
    assert set(check_objective(Regress(), IMAGES)) == {*OBJECTIVE, "construction", "step"}


@pytest.mark.parametrize("fault", OBJECTIVE)
def test_objective_fault_is_named(fault):
    with pytest.raises(ContractError) as error:
        check_objective(Regress, IMAGES, args={"fault": fault})
    assert error.value.clause == fault, error.value


def test_objective_that_undoes_its_steps():
    objective = Regress("step")
    assert objective.first
    with pytest.raises(ContractError, match=r"\[step\].*changed no parameter"):
        check_objective(objective, IMAGES)


def test_train_step_freezes_what_is_not_trainable():
    class Half(Regress):
        def setup(self, model, dataset, *, fresh):
            return [{"params": [self.head.weight], "lr": 0.1}]

    model, objective = tiny_model(), Half()
    step = TrainStep(model, objective, IMAGES)
    assert [n for n, p in step.named_parameters() if p.requires_grad] == ["objective.head.weight"]
    assert step.groups[0]["lr"] == 0.1
    step.train()
    assert model.decoder.training
    assert not model.backbone.training
    losses = step({"images": torch.stack(IMAGES)})
    assert losses.total.dtype == torch.float32
    assert not losses.logs["mse"].requires_grad


@pytest.mark.parametrize(
    ("params", "message"),
    [([], "nothing to train"), ("twice", "twice"), ([nn.Parameter(torch.zeros(1))], "neither of the model")],
)
def test_train_step_refuses(params, message):
    class Wrong(Regress):
        def setup(self, model, dataset, *, fresh):
            return [{"params": [self.head.weight] * 2 if params == "twice" else params}]

    with pytest.raises(InputError, match=message):
        TrainStep(tiny_model(), Wrong(), IMAGES)


def test_dense_features_is_what_probes_see():
    assert isinstance(tiny_model()(IMAGES[0]), DenseFeatures)
