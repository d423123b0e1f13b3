"""What trackers have recorded, read from their own stores, as JSON; run by the interpreter that has the tracker.

    python tracker_readers.py TRACKER FOLDER

A list of records: identifier, project, name, configuration, {metric: {step: value}}, whether it ended as failed.
"""

import json
import sys
from pathlib import Path


def wandb_records(data):
    """The records of an offline file: a header of 7 bytes, then a log of LevelDB's format in blocks of 32 KB."""
    from wandb.proto import wandb_internal_pb2

    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb(folder):
    runs = []
    for file in sorted(folder.rglob("*.wandb")):
        run = {"config": {}, "metrics": {}}
        for record in wandb_records(file.read_bytes()):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run |= {"id": record.run.run_id, "project": record.run.project, "name": record.run.display_name}
                run |= {"entity": record.run.entity}
            elif kind == "config":
                for item in record.config.update:
                    run["config"][".".join(item.nested_key) or item.key] = json.loads(item.value_json)
            elif kind == "history":
                for item in record.history.item:
                    steps = run["metrics"].setdefault(".".join(item.nested_key) or item.key, {})
                    steps[record.history.step.num] = json.loads(item.value_json)
            elif kind == "exit":
                run["failed"] = bool(record.exit.exit_code)
        runs.append(run)
    return runs


def mlflow(folder):
    from mlflow import MlflowClient

    client, runs = MlflowClient(), []
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            history = {m: client.get_metric_history(run.info.run_id, m) for m in run.data.metrics}
            runs.append({
                "id": run.info.run_id, "project": experiment.name, "name": run.info.run_name,
                "failed": run.info.status == "FAILED", "config": run.data.params,
                "metrics": {name: {each.step: each.value for each in values} for name, values in history.items()},
            })  # fmt: skip
    return runs


def aim(folder):
    from aim import Repo, Run

    runs = []
    for repo in sorted(path.parent for path in folder.rglob(".aim")):
        for name in Repo(str(repo)).list_all_runs():
            # read_only shows what Aim's server has indexed
            run, metrics = Run(name, repo=str(repo), system_tracking_interval=None, capture_terminal_logs=False), {}
            for metric in run.metrics():
                table = metric.dataframe()
                metrics[metric.name] = dict(zip(map(int, table["step"]), map(float, table["value"]), strict=True))
            record = {"id": run.hash, "project": run.experiment, "name": run.name, "config": run["hparams"]}
            runs.append({**record, "metrics": metrics})
    return runs


def tensorboard(folder):
    import yaml
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root, metrics = next(folder.rglob("tensorboard")), {}
    events = EventAccumulator(str(root))
    events.Reload()
    for tag in events.Tags()["scalars"]:
        metrics[tag] = {each.step: each.value for each in events.Scalars(tag)}
    (file,) = root.glob("*/hparams.yml")
    return [{"config": yaml.safe_load(file.read_text()), "metrics": metrics}]


if __name__ == "__main__":
    found = globals()[sys.argv[1]](Path(sys.argv[2]))
    print("RECORDS " + json.dumps(found, default=str))
