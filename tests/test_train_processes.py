"""Two processes (gloo) with a frozen backbone are one process with the joint batch; signals and faults reach both."""

import json
import os
import sys

import pytest
import torch
from maxa_scenes import KINDS, OUTPUTS, Boxes
from ports import free_port
from torch import multiprocessing
from train_parts import install, lay_out, settings, weights

from dense_ctx import AutoDenseModel, registry
from dense_ctx.device import end_process_group
from dense_ctx.errors import ConfigError, ContractError, InputError, NonFiniteError, StoppedError
from dense_ctx.train import TrainConfig, state, train
from dense_ctx.train.log import read_log

DATA = {"samples": 11, "seeded": True}


RANDOM = {"dropout": 0.3}
UNEVEN = ("depth", "instances", "semantic")


class Uneven(Boxes):
    """Images of which ever less is annotated, down to nothing."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        sample.target[..., : sample.target.shape[-1] * index // (len(self) - 1)] = (
            torch.nan if sample.target.is_floating_point() else -1
        )
        return sample


def uneven(out, task, **changes):
    return settings(
        out, steps=3, batch_size=4, model=f"rgb-xy+linear(dim={OUTPUTS[task]})", data=None,
        objective={"name": f"maxa-{task}", "args": {"size": [16, 24], "image_size": [24, 32]}}, **changes,
    )  # fmt: skip


def trained_on_uneven(settled, grads):
    """Train; keep the weights and the losses."""
    name = settled["objective"]["name"]
    objective = registry().create("objective", name, **settled["objective"]["args"])
    dataset = objective.dataset(Uneven(KINDS[name.removeprefix("maxa-")]))
    folder = train(TrainConfig.from_dict(settled), objective=objective, dataset=dataset)
    torch.save(AutoDenseModel.from_pretrained(folder).state_dict(), grads)


def recorded(settled, grads):
    """Train; keep the gradients of every step in a file."""
    from sandbox_train.parts import Shift

    record = {}

    class Recorded(Shift):
        def after_step(self, model, step):
            super().after_step(model, step)
            parameters = [*model.decoder.named_parameters(), *self.named_parameters()]
            record.update({f"{step} {name}": p.grad.detach().clone() for name, p in parameters})
            assert all(p.grad is None for p in model.backbone.parameters())

    torch.manual_seed(1)
    try:
        train(TrainConfig.from_dict(settled), objective=Recorded(**settled["objective"].get("args", {})))
    finally:
        torch.save(record, grads)


def worker(rank, port, folder, cases):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    sys.path[:0] = lay_out(folder / f"site{rank}")
    said = {}
    for name, settled in cases.items():
        said[name] = None
        try:
            (trained_on_uneven if "uneven" in name else recorded)(settled, folder / f"{name}-{rank}.pt")
        except (ContractError, InputError, NonFiniteError, StoppedError) as error:
            said[name] = [type(error).__name__, str(error)]
    (folder / f"said-{rank}.json").write_text(json.dumps(said))
    end_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """All runs of two processes, in one start of them."""
    folder = tmp_path_factory.mktemp("pair")
    poisoned = {"samples": 40, "seeded": True, "poison": 5}
    cases = {
        "joint": settings(folder / "joint", steps=3, data=DATA, accumulate=2, batch_size=8),
        "poisoned": settings(folder / "poisoned", steps=10, data=poisoned, save={"every": 1, "keep": 2}),
        "names": settings(folder / "names", data=DATA, objective={"name": "sandbox", "args": {"extra": True}}),
        "idle": settings(folder / "idle", objective={"name": "sandbox", "args": {"idle": True}}),
        "stopped": settings(
            folder / "stopped", steps=6, data=DATA, objective={"name": "sandbox", "args": {"signal_at": 3, **RANDOM}}
        ),
        **{f"uneven-{task}": uneven(folder / f"uneven-{task}", task, accumulate=2) for task in UNEVEN},
    }
    port = free_port()
    before = os.environ.get("ACCELERATE_USE_CPU")
    os.environ["ACCELERATE_USE_CPU"] = "1"
    try:
        multiprocessing.spawn(worker, (port, folder, cases), nprocs=2)
    finally:
        os.environ.pop("ACCELERATE_USE_CPU") if before is None else os.environ.update(ACCELERATE_USE_CPU=before)
    return folder


def said(pair, case):
    return [json.loads((pair / f"said-{rank}.json").read_text())[case] for rank in (0, 1)]


def test_gradients_and_weights_equal_those_of_the_joint_batch(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)
    recorded(settings(tmp_path / "one", steps=3, data=DATA, batch_size=8), tmp_path / "one.pt")
    one = torch.load(tmp_path / "one.pt", weights_only=True)
    first, second = (torch.load(pair / f"joint-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert len(one) == 3 * 6
    assert one.keys() == first.keys()
    for name, grad in one.items():
        assert torch.equal(first[name], second[name])
        assert (grad - first[name]).abs().max() < 1e-6, name
        assert grad.abs().max() > 1e-4, name
    ones = AutoDenseModel.from_pretrained(tmp_path / "one" / "model").state_dict()
    twos = AutoDenseModel.from_pretrained(pair / "joint" / "model").state_dict()
    assert all(torch.allclose(ones[name], twos[name], rtol=0, atol=1e-6) for name in ones)
    logs = [
        [(row["step"], row["loss"]) for row in read_log(folder / "log.jsonl")]
        for folder in (tmp_path / "one", pair / "joint")
    ]
    for (step, alone), (same, together) in zip(*logs, strict=True):
        assert step == same
        assert alone == pytest.approx(together, abs=1e-6)


def test_a_fault_in_one_process_stops_both_with_the_same_words(pair):
    first, second = said(pair, "poisoned")
    assert first == second
    assert first[0] == "NonFiniteError"
    assert "clip-5" in first[1]
    assert state.newest(pair / "poisoned") is not None


def test_a_parameter_that_no_loss_reaches_is_named(pair):
    first, second = said(pair, "idle")
    assert first == second
    assert first[0] == "InputError"
    assert "objective.unused, which no loss depends on" in first[1]


def test_losses_of_other_names_are_not_averaged(pair):
    first, second = said(pair, "names")
    assert [first, second].count(None) == 0
    assert any("ContractError" in each and "a batch logs ['clip-" in each[1] for each in (first, second))


def test_a_signal_stops_both_and_one_process_goes_on(pair, tmp_path, monkeypatch):
    first, second = said(pair, "stopped")
    assert first == second
    assert first[0] == "StoppedError"
    record = state.check(state.newest(pair / "stopped"))
    assert 3 <= record.step < 6
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)
    changes = {"steps": 6, "data": DATA, "objective": {"name": "sandbox", "args": {"signal_at": 3, **RANDOM}}}
    with pytest.raises(
        ConfigError, match=r"accumulate = 2, .*draws random numbers for each part; 1 x 1 would draw others"
    ):
        train(TrainConfig.from_dict(settings(pair / "stopped", **changes)))
    model = train(TrainConfig.from_dict(settings(pair / "stopped", accumulate=2, **changes)))
    steps = [row["step"] for row in read_log(pair / "stopped" / "log.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6]
    changes["objective"]["args"]["signal_at"] = 99
    recorded(settings(tmp_path / "straight", accumulate=2, **changes), tmp_path / "straight.pt")
    ones, twos = weights(model), weights(tmp_path / "straight" / "model")
    assert all(torch.allclose(ones[name], twos[name], rtol=0, atol=1e-6) for name in ones)


@pytest.mark.parametrize("task", UNEVEN)
def test_unevenly_annotated_images_count_as_in_the_joint_batch(pair, tmp_path, monkeypatch, task):
    assert said(pair, f"uneven-{task}") == [None, None]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    trained_on_uneven(uneven(tmp_path / "one", task), tmp_path / "one.pt")
    one, two = torch.load(tmp_path / "one.pt"), torch.load(pair / f"uneven-{task}-0.pt")
    assert one.keys() == two.keys()
    assert max(float((one[name] - two[name]).abs().max()) for name in one if one[name].is_floating_point()) < 1e-6
    logs = [[row["loss"] for row in read_log(out / "log.jsonl")] for out in (tmp_path / "one", pair / f"uneven-{task}")]
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)
