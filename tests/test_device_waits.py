"""How often the host waits for a pretended device, and that what it no longer waits for is still looked at."""

import sys
from pathlib import Path

import pytest
import torch
from dense_ctx_dip.tasks import BATCH
from dense_ctx_lila.ridge import ridge_apply, ridge_fit
from dense_ctx_predict import track
from pretend_gpu.device import compiler, pretend

from dense_ctx import registry
from dense_ctx.errors import InputError, NonFiniteError
from dense_ctx.interfaces import Losses
from dense_ctx.numerics import assuming, holds, require_finite
from dense_ctx.testing.tiny import tiny_model
from dense_ctx.train import train
from dense_ctx.train.log import read_log

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import device_counts
from train_parts import config, install

pytestmark = [
    pytest.mark.pretend_gpu,
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler (c++, g++ or clang++) for the pretended device"),
]


def counts(name, tmp_path, **changes):
    """Of one step, image or frame; see benchmarks/device_counts.py."""
    args = device_counts.arguments(["--quick"])
    for key, value in changes.items():
        setattr(args, key, value)
    with pretend() as gpu:
        step = device_counts.Step(gpu)
        device_counts.CASES[name](args, step, tmp_path)
    assert step.counts["launches"]
    return {kind: sum(step.counts[kind].values()) for kind in step.counts}


@pytest.mark.parametrize("name", ["LILA, step", *(f"MAXA {task}, step" for task in ("depth", "semantic", "instances"))])
def test_a_step_waits_once(tmp_path, name):
    assert counts(name, tmp_path)["waits"] == 1


def test_a_step_of_dip_waits_once_however_many_supports_a_query_has(tmp_path):
    assert counts("DIP, step", tmp_path, batch=2)["waits"] == 1
    (tmp_path / "more").mkdir()
    assert counts("DIP, step", tmp_path / "more", batch=10)["waits"] == 1


def test_an_image_waits_for_nothing(tmp_path):
    assert counts("model(images)", tmp_path)["waits"] == 0


def test_a_frame_waits_twice_and_its_launches_do_not_grow_with_its_size(tmp_path):
    small = counts("track(), frame", tmp_path / "small", frame=(64, 112))
    large = counts("track(), frame", tmp_path / "large", frame=(480, 854))
    assert small["waits"] == large["waits"] == 2
    assert large["launches"] <= small["launches"] + 20
    assert large["launches"] <= 200


def test_a_frame_that_is_not_finite_and_one_full_of_ties(monkeypatch):
    first = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    model, frames = tiny_model().eval(), [first, *torch.zeros(2, 3, 32, 48)]
    mask = torch.zeros(32, 48, dtype=torch.int64)
    mask[:16] = 4
    # the first look in bfloat16 of some processors decides near ties otherwise, of which these frames are full
    monkeypatch.setattr("dense_ctx_probes.local_knn.multiplies_bfloat16", lambda device: False)
    expected = list(track(model, frames, mask, stride=4))
    with pretend():
        there = tiny_model().eval().to("cuda")
        for one, two in zip(track(there, frames, mask, stride=4), expected, strict=True):
            assert float((one == two).float().mean()) > 0.99
        labels = track(there, frames, mask, stride=4)
        next(labels)
        next(there.decoder.parameters()).data.fill_(torch.nan)
        with pytest.raises(NonFiniteError, match="Frame 1: The features: NaN or infinity in pixels"):
            next(labels)


def test_conditions_are_assumed_on_a_device_alone_and_within_the_context_alone():
    no, bad = torch.zeros((), dtype=torch.bool), torch.tensor([1.0, torch.nan])
    with pretend() as gpu:
        there = no.to("cuda")
        gpu.clear()
        with assuming() as conditions:
            assert holds(there)
            assert not holds(no)
            require_finite("These", bad=bad.to("cuda"))
            assert gpu.counts()["waits"] == 0
        assert [bool(each) for each in conditions] == [False, False]
        assert not holds(there)
        with pytest.raises(NonFiniteError, match="These: NaN or infinity in bad"):
            require_finite("These", bad=bad.to("cuda"))


def test_features_of_a_device_are_looked_at_before_they_are_read():
    model, image = tiny_model().eval(), torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    expected = model(image)
    with pretend() as gpu:
        there = tiny_model().eval().to("cuda")
        inside = image.to("cuda")
        gpu.clear()
        features = there(inside)
        assert gpu.counts()["waits"] == 0
        torch.testing.assert_close(features.pixels.cpu(), expected.pixels)
        waits = gpu.counts()["waits"]
        assert features.patches.shape == expected.patches.shape
        assert gpu.counts()["waits"] == waits  # once
        bright = there(inside * 300)
        for name in ("pixels", "patches", "cls"):  # each time
            with pytest.raises(InputError, match=r"A float image lies in \[0, 1\]; got \[.*divide by"):
                getattr(bright, name)
        with pytest.raises(InputError, match="NaN or infinity"):
            there(inside * torch.nan).to("cpu")
        next(there.decoder.parameters()).data.fill_(torch.nan)
        broken = there(inside)
        with pytest.raises(NonFiniteError, match=r"The features of .* NaN or infinity in pixels"):
            list(broken)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    install(tmp_path / "site", monkeypatch)


class Regressed:
    """Makes the sandbox's objective one with a regression on features times `scale` that repeat a column."""

    def __new__(cls, scale):
        from sandbox_train.parts import Shift

        class Objective(Shift):
            def forward(self, model, batch):
                features, padded = model.encode(batch["image"])
                rows = model.decoder(features, padded, (16, 24)).flatten(2).mT.float()
                twice = torch.cat([rows, rows[..., :1]], -1) * scale
                self.calls = getattr(self, "calls", 0) + 1
                fitted = ridge_apply(twice, ridge_fit(twice, rows[..., :2].square(), 1e-9))
                return Losses(fitted.square().mean() + self.head.weight.sum(), {})

        return Objective()


def test_a_step_whose_assumptions_fail_is_done_again_in_double_precision(tmp_path, plugin):
    logs = {}
    for device in ("cpu", "cuda:0"):
        torch.manual_seed(0)
        objective = Regressed(1.0)
        with pretend():
            train(config(tmp_path / device, steps=3, device=device), objective=objective)
        assert objective.calls == (3 if device == "cpu" else 6)
        logs[device] = [row["loss"] for row in read_log(tmp_path / device / "log.jsonl")]
    assert logs["cuda:0"] == pytest.approx(logs["cpu"], rel=1e-4)


@pytest.mark.parametrize(("poison", "cause"), [(5, "image of clip-5 holds NaN"), (None, "the training diverges")])
def test_what_is_refused_late_names_step_and_samples(tmp_path, plugin, poison, cause):
    settings = config(tmp_path / "run", data={"samples": 40, "poison": poison}, steps=10, device="cuda:0")
    with pretend(), pytest.raises(NonFiniteError, match=r"^step \d+: A ridge regression is given .*; ") as caught:
        train(settings, objective=Regressed(1.0 if poison else torch.inf))
    assert cause in str(caught.value)
    assert "Samples of the batch: clip-" in str(caught.value)


def test_classes_that_a_batch_forgets_are_refused():
    from dense_ctx_dip.soft_labels import compact

    (labels,) = compact(torch.tensor([[3, -1], [7, 3]]), present=torch.tensor([3, 7]))
    assert labels.tolist() == [[0, -1], [1, 0]]
    for present in ([3], [7], []):
        with pytest.raises(InputError, match="its labels hold others"):
            compact(torch.tensor([[3, -1], [7, 3]]), present=torch.tensor(present, dtype=torch.int64))


def test_a_collated_batch_of_dip_says_its_classes_and_seeds_to_the_host():
    labels = torch.tensor([[[-1, 4], [4, 9]]])
    sample = {"query": torch.zeros(3, 2, 2), "positive": torch.zeros(3, 2, 2), "query_labels": labels[0],
              "positive_labels": labels[0] * 0 + 2, "seed": torch.tensor(8), "name": "a"}  # fmt: skip
    batch = registry().create("objective", "dip", size=2).collate([sample, {**sample, "seed": torch.tensor(1 << 39)}])
    assert (batch["present"], batch["seed"]) == ([2, 4, 9], [8, 1 << 39])


def test_segments_of_a_device_are_the_cpus_at_few_launches(tmp_path):
    from dense_ctx_dip.ncut_batch import ncut_segments_of

    draw = torch.Generator().manual_seed(0)
    things = torch.randn(9, 16, generator=draw)
    where = torch.randint(0, 9, (2, 4, 4), generator=draw).repeat_interleave(4, 1).repeat_interleave(4, 2)
    maps = [(things[w] + 0.3 * torch.randn(16, 16, 16, generator=draw)).movedim(-1, 0) for w in where]
    expected = ncut_segments_of(maps, [(64, 64)] * 2)
    assert max(int(each.max()) for each in expected) > 4
    with pretend():
        segments = ncut_segments_of([each.to("cuda") for each in maps], [(64, 64)] * 2)
        assert {each.device.type for each in segments} == {"cuda"}
        for one, two in zip(segments, expected, strict=True):
            assert float((one.cpu() == two).float().mean()) > 0.99
    assert counts("ncut, image", tmp_path)["launches"] <= 600 * BATCH


def test_batch_norm_sees_each_batch_once(tmp_path, monkeypatch):
    """Nothing is assumed of a step that could not be done again without it counting twice."""
    install(tmp_path / "site", monkeypatch)
    from sandbox_train.parts import Shift

    class Doubtful(Shift):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, model, batch):
            losses = super().forward(model, batch)
            held = holds(torch.zeros((), dtype=torch.bool, device=model.device))
            return Losses(losses.total + self.norm(batch["image"]).mean() * (0 if held else 1), losses.logs)

    with pretend():
        objective = Doubtful()
        train(config(tmp_path / "run", steps=3, device="cuda:1"), objective=objective)
        assert int(objective.norm.num_batches_tracked) == 3
