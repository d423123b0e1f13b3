"""`epochs` beside `steps`: resolved when the data set is open, the same run as that many steps."""

import dataclasses
import math

import pytest
from train_parts import config, install, same, weights

from dense_ctx import AutoDenseModel, cli
from dense_ctx.errors import ConfigError
from dense_ctx.train import TrainConfig, state, train

SAMPLES = 7  # of the sandbox's data set


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)


def in_epochs(out, epochs, **changes):
    return dataclasses.replace(config(out, **changes), steps=None, epochs=epochs)


@pytest.mark.parametrize(
    ("epochs", "samples", "batch_size", "steps"),
    [
        (1, 7, 2, 4),
        (2, 7, 2, 7),
        (0.5, 7, 2, 2),
        (3, 100, 100, 3),
        (1, 5, 8, 1),
        (0.1, 30, 3, 1),
        (1e-9, 7, 2, 1),
        (1.5, 6, 3, 3),
    ],
)
def test_steps_of_epochs(epochs, samples, batch_size, steps):
    values = TrainConfig("out", epochs=epochs, batch_size=batch_size).resolved(samples)
    assert (values.steps, values.epochs) == (steps, None)
    assert values.steps == math.ceil(round(epochs * samples / batch_size, 9)) or steps == 1
    assert values.resolved(3) == values


def test_a_run_of_epochs_is_the_run_of_their_steps_and_goes_on(tmp_path, capsys):
    batch = config(tmp_path).batch_size
    steps = math.ceil(2 * SAMPLES / batch)
    straight = train(config(tmp_path / "steps", steps=steps))
    train(in_epochs(tmp_path / "epochs", 1))
    first = math.ceil(SAMPLES / batch)
    assert state.newest(tmp_path / "epochs").name == f"step_{first}"
    assert f"epochs=1 of {SAMPLES} samples: {first} steps of {batch}" in capsys.readouterr().err
    resumed = train(in_epochs(tmp_path / "epochs", 2))
    assert same(weights(straight), weights(resumed))
    stored = TrainConfig.load(tmp_path / "epochs" / "config.yaml")
    assert (stored.steps, stored.epochs) == (steps, None)
    assert AutoDenseModel.from_pretrained(resumed).model_config.trained_with["steps"] == steps
    with pytest.raises(ConfigError, match=rf"has {steps} steps already, more than steps={first}"):
        train(in_epochs(tmp_path / "epochs", 1))
    assert same(weights(train(config(tmp_path / "epochs", steps=steps))), weights(straight))


def test_the_verb_takes_epochs(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    config(tmp_path / "run", steps=6).save_yaml(file)
    assert cli.main(["train", str(file), "epochs=1"]) == 2
    assert "steps is 6 and epochs is 1; give a number for one of the two" in capsys.readouterr().err
    assert cli.main(["train", str(file), "steps=null"]) == 2
    assert "steps is None and epochs is None" in capsys.readouterr().err
    assert cli.main(["train", str(file), "steps=null", "epochs=0"]) == 2
    assert "epochs is 0; expected more than 0" in capsys.readouterr().err
    assert cli.main(["train", str(file), "steps=null", "epochs=.5", "mixed_precision=no", "optimizer.lr=1e-3"]) == 0
    stored = TrainConfig.load(tmp_path / "run" / "config.yaml")
    assert (stored.mixed_precision, stored.optimizer.lr) == ("no", 1e-3)
    assert cli.main(["train", str(file), "steps=null", "epochs=1", "--dry-run"]) == 0


class Endless:
    def __getitem__(self, index):
        raise AssertionError("nothing is read")


def test_epochs_of_an_endless_data_set_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"epochs is 2, and there is no end of an epoch: Endless has no samples, or no length"
    ):
        train(in_epochs(tmp_path / "run", 2), dataset=Endless())
    assert not (tmp_path / "run" / "model").exists()


def test_what_depends_on_the_number_of_steps_is_checked_then(tmp_path):
    with pytest.raises(ConfigError, match=r"average\.start is 50, later than the last of"):
        train(in_epochs(tmp_path / "run", 1, average={"start": 50}))
