"""Averaged weights: the mean that the configuration asks for, published, validated, and kept through a stop."""

import pytest
import torch
from safetensors.torch import load_file
from train_parts import config, install, losses, same, settings, weights

from dense_ctx.errors import ConfigError
from dense_ctx.train import TrainConfig, state, train


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)


def trained(step):
    """The decoder's parameters of every state, oldest first."""
    states = [load_file(str(folder / "state.safetensors")) for folder in reversed(state.listed(step))]
    return [{name: value for name, value in each.items() if name.startswith("module.model.decoder")} for each in states]


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_published_weights_are_the_mean(tmp_path, momentum):
    every = {"save": {"every": 1, "keep": 9}}
    train(config(tmp_path / "run", average={"start": 3, "momentum": momentum}, **every))
    train(config(tmp_path / "plain", **every))
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")  # averaging does not touch the training
    made, plain = weights(tmp_path / "run" / "model"), weights(tmp_path / "plain" / "model")
    steps = trained(tmp_path / "run")[2:]
    assert len(steps) == 4
    moved = 0
    for name in steps[0]:
        mean = steps[0][name]
        for count, each in enumerate(steps[1:], 2):
            mean = mean + (each[name] - mean) * max(1 / count, (1 - momentum) if momentum else 0)
        key = name.removeprefix("module.model.")
        torch.testing.assert_close(made[key], mean, rtol=1e-6, atol=1e-7)
        assert torch.equal(plain[key], steps[-1][name])
        moved += not torch.equal(made[key], plain[key])
    assert moved


def test_a_continued_run_has_the_same_mean(tmp_path):
    average = {"average": {"start": 2}}
    train(config(tmp_path / "straight", steps=8, **average))
    train(config(tmp_path / "halves", steps=5, **average))
    train(config(tmp_path / "halves", steps=8, **average))
    assert same(weights(tmp_path / "straight" / "model"), weights(tmp_path / "halves" / "model"))
    with pytest.raises(ConfigError, match=r"average\.start: 2 there, 3 now"):
        train(config(tmp_path / "halves", steps=9, average={"start": 3}))


def test_validation_sees_the_mean_and_leaves_the_weights(tmp_path):
    states = []

    def validate(model, step):
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return {}

    average = {"average": {"start": 1, "momentum": 0.9}}
    train(config(tmp_path / "run", validate={"every": 2}, **average), validate=validate)
    train(config(tmp_path / "alone", **average))
    assert losses(tmp_path / "run") == losses(tmp_path / "alone")
    assert len(states) == 3
    assert same(states[-1], weights(tmp_path / "run" / "model"))
    with pytest.raises(RuntimeError, match=r"^broken$"):
        train(config(tmp_path / "bad", validate={"every": 2}, **average), validate=broken)
    train(config(tmp_path / "bad", **average))  # an error within validation costs nothing
    assert same(weights(tmp_path / "bad" / "model"), weights(tmp_path / "run" / "model"))


def broken(model, step):
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("average", "message"),
    [
        ({"start": 7}, "average.start is 7, later than the last of 6 steps"),
        ({"start": -1}, "average.start is -1; expected at least 0"),
        ({"momentum": 0.9}, "average.momentum is 0.9 and average.start 0"),
        ({"start": 1, "momentum": 1.0}, "average.momentum is 1.0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, average, message):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path / "run", average=average)


def test_runs_of_versions_without_it_go_on(tmp_path):
    one = config(tmp_path / "run")
    older = {key: value for key, value in one.to_dict().items() if key != "average"}
    assert one.differences(older) == []
    late = TrainConfig.from_dict(settings(tmp_path / "run", average={"start": 5}))
    assert len(late.differences(older)) == 1
    assert late.dry(tmp_path / "dry").average.start == 2
