"""Plugins are told of the course of a training by hooks; one that fails is named, and the run goes on."""

import json
import time

import pytest
import torch
import train_parts
from train_parts import config, losses, same, weights
from training_plugin import install

from dense_ctx import plugins
from dense_ctx.errors import ConfigError, NonFiniteError, PluginError, PluginWarning, StoppedError
from dense_ctx.train import train
from dense_ctx.train.callbacks import Callbacks


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The plugin's package: what it was told, and what it is to raise."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    return install(tmp_path / "site", monkeypatch)[0]


def test_a_plugin_is_told_of_each_part_of_a_run(told, tmp_path):
    out = tmp_path / "run"
    every = {"validate": {"every": 2}, "save": {"every": 2}, "steps": 3}
    folder = train(config(out, **every), validate=lambda model, step: {"score": step / 4})
    names = [(name, item["step"]) for name, item in told.seen]
    assert names == [
        ("training_start", 0), ("training_step", 1),
        ("training_step", 2), ("training_evaluation", 2), ("training_checkpoint", 2),
        ("training_step", 3), ("training_evaluation", 3), ("training_checkpoint", 3), ("training_end", 3),
    ]  # fmt: skip
    start = told.seen[0][1]
    assert (start["config"].out, start["config"].steps) == (str(out), 3)
    assert start["config"].optimizer.weight_decay == 0.01  # as it holds, not as it was given
    assert same(start["model"].state_dict(), weights(folder))  # the model itself: it has trained since
    steps = [item["values"] for name, item in told.seen if name == "training_step"]
    rows = train_parts.rows(out)
    assert [(v["loss"], v["mse"], v["lr"], v["grad_norm"]) for v in steps] == [
        (row["loss"], row["losses"]["mse"], row["lr"], row["grad_norm"]) for row in rows
    ]
    assert [item for name, item in told.seen if name == "training_evaluation"] == [
        {"step": step, "scores": {"score": step / 4}, "training": False} for step in (2, 3)
    ]
    assert [item["folder"] for name, item in told.seen if "check" in name] == [out / f"state/step_{n}" for n in (2, 3)]
    assert told.seen[-1][1] == {"step": 3, "folder": folder, "error": None}


def test_a_run_that_goes_on_starts_where_it_was(told, tmp_path):
    train(config(tmp_path / "run", steps=2))
    told.seen.clear()
    train(config(tmp_path / "run", steps=3))
    assert [(n, i["step"]) for n, i in told.seen if n != "training_checkpoint"] == [
        ("training_start", 2), ("training_step", 3), ("training_end", 3),
    ]  # fmt: skip


def test_the_end_of_a_run_that_is_stopped_or_fails_is_told_with_its_error(told, tmp_path):
    with pytest.raises(StoppedError) as stopped:
        train(config(tmp_path / "stopped", objective={"name": "sandbox", "args": {"signal_at": 2}}))
    assert told.seen[-1] == ("training_end", {"step": 2, "folder": None, "error": stopped.value})
    with pytest.raises(NonFiniteError) as failed:
        train(config(tmp_path / "failed", data={"samples": 7, "poison": 3}))
    assert told.seen[-1][1]["error"] is failed.value
    assert told.seen[-1][1]["folder"] is None


HOOKS = ["training_start", "training_step", "training_evaluation", "training_checkpoint", "training_end"]


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_that_fails_is_named_and_the_run_is_the_same(told, tmp_path, name):
    settings = {"validate": {"every": 2}, "steps": 4}
    score = lambda model, step: {"score": 0.5}  # noqa: E731
    train(config(tmp_path / "plain", **settings), validate=score)
    told.seen.clear()
    told.fail[name] = ValueError("the disk of the dashboard is full")
    with pytest.warns(PluginWarning) as warned:
        train(config(tmp_path / "run", **settings), validate=score)
    (message,) = [str(each.message) for each in warned if each.category is PluginWarning]
    assert message.startswith(f"plugin 'listening' of listening-parts 3.2 failed in {name}, step ")
    assert "calls its hooks no more: ValueError: the disk of the dashboard is full" in message
    assert told.seen[-1][0] == name  # and none after it
    assert losses(tmp_path / "plain") == losses(tmp_path / "run")
    assert same(weights(tmp_path / "plain/model"), weights(tmp_path / "run/model"))


@pytest.mark.parametrize("fault", [SystemExit(3), KeyboardInterrupt()])
def test_a_hook_ends_no_process(told, tmp_path, fault):
    told.fail["training_step"] = fault
    with pytest.warns(PluginWarning, match=f"failed in training_step, step 1.*{type(fault).__name__}"):
        assert train(config(tmp_path / "run", steps=2)).is_dir()


def test_strict_plugins_end_the_run(told, tmp_path, monkeypatch):
    monkeypatch.setenv("DENSE_CTX_STRICT_PLUGINS", "1")
    told.fail["training_step"] = ValueError("broken")
    with pytest.raises(PluginError, match=r"plugin 'listening' of listening-parts 3\.2 failed: ValueError: broken"):
        train(config(tmp_path / "run", steps=2))


def test_a_plugin_can_refuse_a_run_before_its_first_step_and_not_later(told, tmp_path):
    told.fail["training_start"] = ConfigError("this cluster trains with bf16 alone; set mixed_precision=bf16")
    with pytest.raises(ConfigError, match="this cluster trains"):
        train(config(tmp_path / "run", steps=2))
    assert [name for name, _ in told.seen] == ["training_start"]
    assert not (tmp_path / "run/log.jsonl").exists()
    told.fail.clear()
    told.fail["training_step"] = ConfigError("too late")
    with pytest.warns(PluginWarning, match="failed in training_step, step 1.*too late"):
        train(config(tmp_path / "run", steps=2))


def test_those_that_began_are_told_of_the_end_when_a_later_plugin_refuses(tmp_path):
    events = []

    def refuse(arguments):
        raise ConfigError("not here")

    run = Callbacks(config(tmp_path / "run"), 0, active=False)
    for owner, start in (("tracking", lambda arguments: events.append("start")), ("refusing", refuse)):
        run.plugins.append((owner, {"training_start": start, "training_end": lambda a, o=owner: events.append((o, a))}))
    with pytest.raises(ConfigError, match="not here"), run.around(torch.nn.Identity(), tmp_path):
        events.append("trained")
    assert [item if isinstance(item, str) else item[0] for item in events] == ["start", "tracking"]
    assert events[1][1]["folder"] is None
    assert isinstance(events[1][1]["error"], ConfigError)


def test_a_score_that_is_not_finite_is_null_in_the_log(told, tmp_path):
    out = tmp_path / "run"
    train(config(out, steps=1, validate={"every": 1}), validate=lambda model, step: {"score": float("nan"), "other": 1})
    last = (out / "log.jsonl").read_text().splitlines()[-1]
    assert json.loads(last, parse_constant=pytest.fail)["validation"] == {"score": None, "other": 1}


def test_other_processes_call_no_hook(told, tmp_path):
    Callbacks(config(tmp_path / "run"), 0, active=False)("training_start", 0, model=None)
    assert told.seen == []
    Callbacks(config(tmp_path / "run"), 0, active=True)("training_start", 0, model=None)
    assert [name for name, _ in told.seen] == ["training_start"]


def test_a_misspelt_hook_and_an_argument_that_there_is_not_are_refused(tmp_path, monkeypatch):
    from plugin_sandbox import HOOK, distribution

    for number, text in enumerate(("def training_stop(step):", "def training_step(step, loss):")):
        name = f"misspelt{number}"
        distribution(tmp_path, name, {f"{name}.py": f"{HOOK}\n@hookimpl\n{text}\n    pass\n"}, {name: name})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(PluginWarning) as warned:
        plugins.load_plugins(strict=False)
    texts = " ".join(str(each.message) for each in warned)
    assert "unknown hook 'training_stop'" in texts
    assert "hookimpl definition: training_step(step, loss)" in texts


def test_a_step_without_listeners_costs_microseconds(tmp_path, monkeypatch):
    monkeypatch.setattr(plugins.registry(), "callbacks", {})
    call = Callbacks(config(tmp_path), 0, active=True)
    began = time.perf_counter()
    for step in range(1000):
        call("training_step", step, values={"loss": 1.0, "lr": 0.1})
    assert (time.perf_counter() - began) / 1000 < 1e-4


def test_hooks_change_no_random_number(told, tmp_path):
    train(config(tmp_path / "plain", steps=3))
    told.note = lambda name, **item: torch.rand(7)
    train(config(tmp_path / "run", steps=3))
    assert losses(tmp_path / "plain") == losses(tmp_path / "run")
