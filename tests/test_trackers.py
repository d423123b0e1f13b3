"""`log_with`: trackers record a run; W&B and its like themselves: test_trackers_own.py."""

import json
import sys

import pytest
import train_parts
from train_parts import config, losses, same, weights
from training_plugin import install

from dense_ctx import Part, cli, plugins
from dense_ctx.errors import (
    ConfigError,
    InputError,
    MissingDependencyError,
    PluginError,
    PluginWarning,
    UnknownNameError,
)  # fmt: skip
from dense_ctx.train import train
from dense_ctx.train.log import read_log

OWN = ("aim", "mlflow", "tensorboard", "wandb")


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The module of the tracker "notebook": the calls it had, and what it is to raise."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    return install(tmp_path / "site", monkeypatch)[1]


def test_configuration_and_every_row_arrive(book, tmp_path):
    out = tmp_path / "run"
    settings = {"steps": 5, "log": 2, "validate": {"every": 4}, "log_with": "notebook(title=one)"}
    train(config(out, **settings), validate=lambda model, step: {"J&F": step / 8, "worst": float("nan")})
    (name, title, folder, step, stored), *rows, close = book.calls
    assert (name, title, folder, step) == ("open", "one", out, 0)
    assert stored["optimizer.lr"] == 1e-2
    assert stored["optimizer.weight_decay"] == 0.01  # as it holds
    assert stored["optimizer.betas"] == "[0.9, 0.999]"
    assert (stored["model.backbone.name"], stored["clip_norm"], stored["steps"]) == ("sandbox", 1.0, 5)
    assert all(value is None or isinstance(value, (bool, int, float, str)) for value in stored.values())
    assert close == ("close", "one", False)
    expected = []
    for row in read_log(out / "log.jsonl"):
        if "validation" in row:
            expected.append((row["step"], {"validation/J&F": row["step"] / 8}))  # finite numbers alone
        else:
            numbers = {key: row[key] for key in ("loss", "lr", "grad_norm", "seconds")}
            expected.append((row["step"], {**numbers, **row["losses"]}))
    assert [(step, values) for _, _, step, values in rows] == expected
    assert [step for step, _ in expected] == [2, 4, 4, 5, 5]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("notebook", ["none"]),
        ("notebook(title=a)", ["a"]),
        ({"name": "notebook", "args": {"title": "b"}}, ["b"]),
        (["notebook(title=c)"], ["c"]),
        ([], []),
        (None, []),
    ],
)
def test_forms_of_the_setting(book, tmp_path, monkeypatch, value, expected):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if TensorBoard were not installed
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(train_parts.settings(tmp_path / "run", steps=1)))
    assert cli.main(["train", str(file), f"log_with={json.dumps(value)}"]) == 0
    assert [title for name, title, *_ in book.calls if name == "open"] == expected
    assert not (tmp_path / "run/tensorboard").exists()


def test_a_dry_run_is_not_recorded(book, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(train_parts.settings(tmp_path / "run", log_with="notebook")))
    assert cli.main(["train", str(file), "--dry-run"]) == 0
    assert book.calls == []


def test_a_run_that_goes_on_says_so_and_may_change_its_trackers(book, tmp_path):
    train(config(tmp_path / "run", steps=2))
    train(config(tmp_path / "run", steps=4, log_with=["notebook"]))
    assert [call[3] for call in book.calls if call[0] == "open"] == [2]
    assert [step for name, _, step, *_ in book.calls if name == "log"] == [3, 4]


@pytest.fixture
def no_model(monkeypatch):
    """Fails a test that opens a model."""
    monkeypatch.setattr("dense_ctx.train.run._model", lambda config: pytest.fail("a model was opened"))


@pytest.mark.parametrize("name", OWN)
def test_without_its_package_it_is_refused_before_any_weight_is_read(book, tmp_path, monkeypatch, no_model, name):
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    for loaded in [key for key in sys.modules if key.endswith(f"{name}_tracker") or key == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, "tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(MissingDependencyError) as error:
        train(config(tmp_path / "run", log_with=[name]))
    assert str(error.value) == f'tracker {name!r} needs the package {name!r}: pip install "dense-ctx[{name}]"'


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("wand", UnknownNameError, "Unknown tracker 'wand'. Closest: wandb. Known: aim, mlflow, notebook"),
        ("neptune", UnknownNameError, "Unknown tracker 'neptune'. Known: aim, mlflow, notebook, tensorboard, wa"),
        ("notebook(titel=a)", InputError, "unknown key.s. titel .did you mean title"),
        ("notebook(title=3)", InputError, "title is 3; expected text"),
        (["notebook", "notebook(title=b)"], ConfigError, "log_with names notebook twice"),
        (3, ConfigError, "log_with is 3; expected a list, each"),
        ("", ConfigError, "the name is missing"),
    ],
)
def test_what_it_cannot_be_is_refused_before_any_weight_is_read(book, tmp_path, no_model, value, error, message):
    with pytest.raises(error, match=message):
        train(config(tmp_path / "run", log_with=value))
    assert book.calls == []


def test_a_tracker_that_cannot_begin_refuses_the_run(book, tmp_path):
    book.fail["open"] = OSError("no route to host")
    message = r"tracker 'notebook' of plugin 'listening'.* failed: OSError: no route to host"
    with pytest.raises(PluginError, match=message):
        train(config(tmp_path / "run", log_with="notebook"))
    assert not (tmp_path / "run/model").exists()
    assert read_log(tmp_path / "run/log.jsonl") == []


@pytest.mark.parametrize(("call", "step"), [("log", 1), ("close", 6)])
def test_a_tracker_that_fails_later_ends_its_record_and_not_the_run(book, tmp_path, call, step):
    train(config(tmp_path / "plain"))
    book.fail[call] = ConnectionError("the server has gone")
    with pytest.warns(PluginWarning) as warned:
        train(config(tmp_path / "run", log_with="notebook"))
    (message,) = [str(each.message) for each in warned if each.category is PluginWarning]
    assert message.startswith(f"The tracker notebook failed at step {step}; the run goes on without it, log.jsonl has")
    assert message.endswith("ConnectionError: the server has gone")
    assert [name for name, *_ in book.calls].count(call) == 1
    assert losses(tmp_path / "plain") == losses(tmp_path / "run")
    assert same(weights(tmp_path / "plain/model"), weights(tmp_path / "run/model"))


def test_a_run_that_stops_or_fails_is_closed_as_such(book, tmp_path):
    with pytest.raises(Exception, match="stopped after step 2"):
        train(config(tmp_path / "run", log_with="notebook", objective={"name": "sandbox", "args": {"signal_at": 2}}))
    assert book.calls[-1] == ("close", "none", True)


def test_the_trackers_are_listed(book, capsys):
    assert cli.main(["plugins", "tracker"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*OWN, "notebook"))
    assert Part("notebook") == config("out", log_with="notebook").log_with[0]
    assert plugins.registry().get("tracker", "wandb")[0].extra == "wandb"
