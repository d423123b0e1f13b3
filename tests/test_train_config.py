"""The configuration, the order of the samples and the schedule: pure functions, tested by their properties."""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch

from dense_ctx.config import Part
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.interfaces import EpochDataset, SeededDataset
from dense_ctx.numerics import preserve_generators
from dense_ctx.train.config import FREE, Schedule, TrainConfig
from dense_ctx.train.data import Order, Samples, mix, seed_all

YAML = """
out: runs/a
steps: 100
model: {backbone: {name: dinov2-s14}, decoder: {name: dpt, args: {dim: 64}}}
objective: {name: lila}
data: {root: videos}
optimizer: {lr: 1e-4, betas: [0.9, 0.95]}
schedule: {name: cosine, warmup: 10}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(YAML)
    return path


def test_yaml_and_overrides(file, tmp_path):
    config = TrainConfig.load(file)
    assert config.model.decoder == Part("dpt", {"dim": 64})
    assert config.optimizer.lr == 1e-4  # 1e-4 is a string in YAML 1.1
    assert config.optimizer.betas == (0.9, 0.95)
    changed = TrainConfig.load(
        file, ["optimizer.lr=3e-5", "data.gap=4", "objective.args.cues=[flow]", "clip_norm=null", "model=runs/b/model"]
    )
    assert changed.optimizer.lr == 3e-5
    assert changed.optimizer.betas == (0.9, 0.95)
    assert changed.data == {"root": "videos", "gap": 4}
    assert changed.objective == Part("lila", {"cues": ["flow"]})
    assert changed.clip_norm is None
    assert changed.model == "runs/b/model"
    changed.save_yaml(tmp_path / "saved.yaml")
    assert TrainConfig.load(tmp_path / "saved.yaml") == changed
    text = TrainConfig.load(file, ["model=dinov2-s14+dpt", "model.decoder.args.dim=9", "objective=dip(size=64)",
                                   "objective.args.out=0"])  # fmt: skip
    assert text.model.decoder == Part("dpt", {"dim": 9})
    assert text.objective == Part("dip", {"size": 64, "out": 0})
    assert config.override(["steps=7"]) == dataclasses.replace(config, steps=7)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stps=3", "unknown key.* stps .did you mean steps.*known: .*steps"),
        ("optimizer.rl=3", "optimizer: unknown key.* rl"),
        ("optimizer.lr=fast", "optimizer.lr is 'fast'; expected a number"),
        ("steps=1.5", "steps is 1.5; expected a whole number"),
        ("steps=true", "steps is True; expected a whole number"),
        ("steps=0", "steps is 0; expected at least 1"),
        ("optimizer.lr=.nan", "optimizer.lr is nan; expected more than 0"),
        ("schedule.name=linear", "'linear'; expected one of constant, cosine"),
        ("model.backbone=[dinov2-s14]", "model.backbone is .*dinov2-s14.*; expected a mapping with name, args"),
        ("optimizer.betas=[0.9]", "optimizer.betas is .0.9.; expected a list of 2, each a number"),
        ("accumulate=3", "batch_size 8 is not a multiple of accumulate 3"),
        ("validate.protocol=davis2017-linear-grid4-v1", "give validate.data"),
        ("steps.a=3", "steps is 100, which has no keys"),
        ("epochs=3", "steps is 100 and epochs is 3; give a number for one of the two, and null"),
        ("steps=null", "steps is None and epochs is None"),
        ("optimizer.lr=.inf", "optimizer.lr is inf; expected more than 0, and finite"),
        ("optimizer.lr=1e999", "1e999 is too large a number"),
        ("mixed_precision=false", "mixed_precision is False; expected one of no, tf32, bf16, fp16, auto"),
        ("data=a #b", "begins a comment; put the value in quotes"),
        ("steps", "is not KEY=VALUE"),
        ("data={", "is not YAML.*line 1, column"),
    ],
)
def test_what_is_wrong_is_named(file, setting, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.load(file, [setting])


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(FileError, match="Cannot read the preset"):
        TrainConfig.load(tmp_path / "none.yaml")
    for text, message in {
        "- a\n": "not a mapping",
        "a: [": "is not YAML",
        "out: a\n": "steps is None and epochs is None",
        "steps: 1": "missing key.* out",
        "out: a\nsteps: 1\nsteps: 2": r"the key 'steps' is repeated \(line 3, column 1\)",
    }.items():
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            TrainConfig.load(tmp_path / "bad.yaml")


def test_keys_that_differ_are_named_and_free_ones_are_not(file):
    config = TrainConfig.load(file)
    other = config.override(["optimizer.lr=1", "data.new=1", "objective.name=dip", "seed=4"])
    keys = [text.split(":")[0] for text in config.differences(other.to_dict())]
    assert sorted(keys) == ["data.new", "objective.name", "optimizer.lr", "seed"]
    free = ["steps=null", "epochs=200", "accumulate=2", "device=cpu", "workers=3", "save.every=5", "log=3", "out=b"]
    free += ["resume=never", "wait=true", "log_with=wandb", "compile=true"]
    assert config.differences(config.override(free).to_dict()) == []
    assert {setting.split("=")[0].split(".")[0] for setting in free} | {"validate"} == set(FREE)


def test_each_epoch_sees_each_sample_once_in_its_own_order():
    order = Order(samples=7, seed=3, batch_size=4, accumulate=1, rank=0, world=1)
    keys = [key for part in order.between(0, 21) for key in part]
    assert len(keys) == 84
    epochs = [[index for epoch, index in keys if epoch == number] for number in range(12)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 9
    assert [key for part in order.between(9, 21) for key in part] == keys[36:]
    assert [i for _, i in keys] != [i for part in Order(7, 4, 4, 1, 0, 1).between(0, 21) for _, i in part]


def test_processes_and_parts_share_the_steps_samples():
    whole = Order(11, 0, 12, 1, 0, 1)
    shares = [Order(11, 0, 12, accumulate=3, rank=rank, world=2) for rank in (0, 1)]
    for step in range(9):
        keys = [key for part in range(3) for share in shares for key in share.keys(step, part)]
        assert keys == whole.keys(step, 0)
    with pytest.raises(InputError, match="make it a multiple of 10"):
        Order(11, 0, 12, accumulate=5, rank=0, world=2)


def test_a_samples_randomness_is_that_of_its_epoch_and_index():
    class Drawn(EpochDataset):
        epochs = ()

        def __getitem__(self, index):
            return index, random.random(), np.random.rand(), torch.rand([]).item()

        def set_epoch(self, epoch):
            self.epochs = (*self.epochs, epoch)

    samples = Samples(Drawn(), seed=1)
    first = samples[0, 3]
    random.random(), torch.rand(5)
    assert samples[0, 3] == first
    others = [samples[0, 4], samples[1, 3], Samples(Drawn(), seed=2)[0, 3]]
    for _, other in others:
        assert all(a != b for a, b in zip(other[1:], first[1][1:], strict=True))
    assert samples.dataset.epochs == (0, 1)

    class Unrelated(Drawn):
        def sample(self, index, seed):
            raise AssertionError("another method of this name")

    assert Samples(Unrelated(), seed=1)[0, 3] == first


def test_a_seeded_data_set_is_given_its_seed_and_asked_for_nothing_else():
    class Numbers(SeededDataset):
        def __len__(self):
            return 5

        def sample(self, index, seed):
            return index, seed

    samples = Samples(Numbers(), seed=1)
    assert samples[0, 3] == (3, (3, mix(1, "sample", 0, 3)))
    assert Numbers()[2] == (2, 2)
    with pytest.raises(TypeError, match="abstract method"):
        type("Half", (SeededDataset,), {"__len__": Numbers.__len__})()


def test_seeds_are_fixed_for_good_and_the_callers_generators_stay():
    assert mix(0, "order", 1) == mix(0, "order", 1) != mix(0, "order", 2)
    assert 0 <= min(mix(i) for i in range(100)) <= max(mix(i) for i in range(100)) < 2**63
    assert Order(5, 0, 5, 1, 0, 1).keys(0, 0) == GOLDEN  # a changed order would break the continuation of old runs
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with preserve_generators():
        seed_all(2**63 - 1)
        random.random(), np.random.rand(), torch.rand(3)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == state


GOLDEN = [(0, 3), (0, 1), (0, 0), (0, 2), (0, 4)]


def test_schedule():
    cosine = Schedule("cosine", warmup=4, floor=0.1)
    values = [cosine.factor(step, 20) for step in range(21)]
    assert values[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert values[4:] == sorted(set(values[4:]), reverse=True)
    assert values[20] == pytest.approx(0.1)
    assert values[12] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert [Schedule("constant", warmup=2).factor(step, 4) for step in range(4)] == [0.5, 1, 1, 1]
