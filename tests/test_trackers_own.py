"""W&B, MLflow, Aim and TensorBoard themselves, each in an environment of its own, without a network."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from client_environments import client_python

from dense_ctx.train.log import read_log

pytestmark = pytest.mark.clients
HERE = Path(__file__).parent
STOPS = {"objective": {"name": "sandbox", "args": {"signal_at": 2}}}  # after its second step


@pytest.fixture(params=["wandb", "mlflow", "aim", "tensorboard"])
def tracker(request):
    return request.param


def run(tracker, folder, *calls, environment=None):
    """Train in the tracker's environment with each call's changes of the configuration; the records afterwards."""
    python = client_python(f"tracker-{tracker}", tracker, with_dense_ctx=True)
    settings = folder / "settings.json"
    settings.write_text(json.dumps({"runs": [{"steps": 4, "validate": {"every": 2}, **call} for call in calls]}))
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "MLFLOW", "AIM"))}
    variables |= {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})}

    def call(*words):
        done = subprocess.run([python, *words], cwd=folder, env=variables, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "CONNECTS" not in done.stdout
        assert "PluginWarning" not in done.stderr
        return done.stdout

    call(HERE / "tracked_run.py", ".", settings.name)
    printed = call(HERE / "tracker_readers.py", tracker, ".")
    return json.loads(next(line for line in printed.splitlines() if line.startswith("RECORDS "))[8:])


def expected(folder):
    """{metric: {step: value}} of log.jsonl."""
    metrics = {}
    for row in read_log(folder / "run" / "log.jsonl"):
        numbers = {f"validation/{key}": value for key, value in row.get("validation", {}).items()}
        if not numbers:
            numbers = {key: row[key] for key in ("loss", "lr", "grad_norm", "seconds")} | row["losses"]
        for name, value in numbers.items():
            metrics.setdefault(name, {})[str(row["step"])] = value
    return metrics


def test_a_run_that_was_stopped_and_went_on_is_one_complete_record(tracker, tmp_path):
    records = run(tracker, tmp_path, {"log_with": tracker, **STOPS}, {"log_with": tracker, **STOPS})
    metrics = {}
    for record in records:  # offline files of W&B are one a call; `wandb sync` joins them by their id
        for name, steps in record["metrics"].items():
            metrics.setdefault(name, {}).update(steps)
    reference = expected(tmp_path)
    for name, steps in reference.items():
        there = metrics[name.replace("&", "_") if tracker == "mlflow" else name]
        assert {step: there[step] for step in there} == pytest.approx(steps), name
    assert sorted(reference["loss"]) == ["1", "2", "3", "4"]
    assert reference["validation/J&F-Mean"] == {"2": 0.25, "4": 0.5}
    stored = records[0]["config"]
    assert [str(stored[key]) for key in ("optimizer.lr", "model.backbone.name", "steps")] == ["0.01", "sandbox", "4"]
    if tracker == "tensorboard":
        return
    (identifier,) = {record["id"] for record in records}
    assert json.loads((tmp_path / "run" / "trackers.json").read_text()) == {tracker: identifier}
    assert {(record["project"], record["name"]) for record in records} == {("dense-ctx", "run")}
    ends = {"wandb": [True, False], "mlflow": [False], "aim": [None]}[tracker]
    assert [record.get("failed") for record in records] == ends


ARGUMENTS = {
    "wandb": "wandb(project=decoders, name=one, entity=us)",
    "mlflow": "mlflow(experiment=decoders, name=one)",
    "aim": "aim(experiment=decoders, name=one, repo=records)",
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_and_a_run_that_is_stopped(name, tmp_path):
    (tmp_path / "records").mkdir()
    (record,) = run(name, tmp_path, {"log_with": ARGUMENTS[name], **STOPS})
    assert (record["project"], record["name"], record.get("entity", "us")) == ("decoders", "one", "us")
    assert record.get("failed", True)
    assert (tmp_path / "records/.aim").exists() == (name == "aim")


def test_the_users_environment_holds(tmp_path):
    (folder := tmp_path / "d").mkdir()
    names = {"WANDB_PROJECT": "mine", "WANDB_NAME": "second", "WANDB_RUN_ID": "abc123", "WANDB_DIR": str(folder)}
    (record,) = run("wandb", tmp_path, {"log_with": "wandb"}, environment=names)
    assert (record["project"], record["name"], record["id"]) == ("mine", "second", "abc123")
    assert list((tmp_path / "d").rglob("*.wandb"))
    (tmp_path / "off").mkdir()
    assert run("wandb", tmp_path / "off", {"log_with": "wandb"}, environment={"WANDB_MODE": "disabled"}) == []
    (tmp_path / "other").mkdir()
    assert run("wandb", tmp_path / "other", {"log_with": "wandb(mode=disabled)"}) == []
    store = (tmp_path / "store").as_uri()
    variables = {"MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_NAME": "mine", "MLFLOW_ALLOW_FILE_STORE": "true"}
    (tmp_path / "flow").mkdir()
    (record,) = run("mlflow", tmp_path / "flow", {"log_with": "mlflow(experiment=not)"}, environment=variables)
    assert record["project"] == "mine"
    assert (tmp_path / "store").is_dir()


def test_tensorboard_records_without_being_named_where_it_is_installed(tmp_path):
    (record,) = run("tensorboard", tmp_path, {})
    assert record["metrics"]["loss"] == pytest.approx(expected(tmp_path)["loss"])
