"""The folder that processes share, and two real processes against one."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import yaml
from evaluation_data import camvid, davis2016

from dense_ctx import cli
from dense_ctx.errors import ConfigError, FileError
from dense_ctx.evaluate.workdir import RunFolder
from dense_ctx.files import read_json, write_json


def together(*works):
    """Run functions in threads; what each raised, or None."""
    raised = [None] * len(works)

    def run(index):
        try:
            works[index]()
        except BaseException as error:
            raised[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive(), "a process waits for one that has failed"
    return raised


def pair(path, identity=None):
    """Two functions that open the folder as processes 0 and 1, after having met."""
    meeting = threading.Barrier(2, timeout=10)
    return [lambda r=rank: RunFolder(path, identity or {"a": 1}, r, 2, meeting.wait) for rank in (0, 1)]


def test_pieces_are_shared_out_and_found_done(tmp_path):
    folders = []
    raised = together(*(lambda make=make: folders.append(make()) for make in pair(tmp_path / "out")))
    assert raised == [None, None]
    first, second = sorted(folders, key=lambda folder: folder.rank)
    pieces = {f"piece{i}": () for i in range(5)}
    assert list(first.share(pieces)) == ["piece0", "piece2", "piece4"]
    assert list(second.share(pieces)) == ["piece1", "piece3"]
    write_json(first.part("piece0"), {"x": 1.5})
    assert list(first.share(pieces)) == ["piece2", "piece4"]
    assert list(first.share({key: [tmp_path / "none"] for key in pieces})) == ["piece0", "piece2", "piece4"]
    assert read_json(second.part("piece0")) == {"x": 1.5}


def test_a_failure_reaches_the_others(tmp_path):
    zero, one = pair(tmp_path / "out")

    def fails():
        with zero().guarded():
            raise ConfigError("no such thing")

    def waits():
        one().wait([tmp_path / "out/never"])

    raised = together(fails, waits)
    assert isinstance(raised[1], FileError)
    assert "process 0 failed: ConfigError: no such thing" in str(raised[1])


def test_a_folder_that_process_0_refuses_is_refused_by_all(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    for error in together(*pair(tmp_path / "mine")):
        assert isinstance(error, FileError)
        assert "exists and holds no evaluation" in str(error)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]  # nothing is left there


def test_another_evaluation_is_refused_by_all(tmp_path):
    RunFolder(tmp_path / "out", {"a": 1})
    raised = together(*pair(tmp_path / "out", {"a": 2}))
    assert isinstance(raised[0], ConfigError)
    assert all("holds another evaluation (a: 1 there, 2 now)" in str(error) for error in raised)


def test_a_failure_of_an_earlier_run_is_forgotten(tmp_path):
    """Both failed before; process 1 is the quicker one now and must not take the old news of process 0 for new."""
    RunFolder(tmp_path / "out", {"a": 1})
    for rank in (0, 1):
        write_json(tmp_path / f"out/.failed-{os.environ.get('MASTER_PORT', '0')}-{rank}.json", {"error": "of old"})
    zero, one = pair(tmp_path / "out")

    def slow():
        time.sleep(0.5)
        write_json(zero().part("p"), 1)

    def quick():
        folder = one()
        folder.wait([folder.part("p")])

    assert together(slow, quick) == [None, None]


def test_json_is_whole_or_not_there(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="Cannot write"):
        write_json(tmp_path / "file/a.json", 1)
    with pytest.raises(FileError, match="Cannot read"):
        read_json(tmp_path / "none.json")


def test_two_processes_give_the_result_of_one(tmp_path):
    """Two protocols, on images and on clips, by the command, in one process and in two."""
    root = camvid(davis2016(tmp_path / "data"), train=3, val=30)  # more than one shard
    shared = {"grid": 4, "source": "a test"}
    images = {
        "id": "images-v1", "task": "segmentation", "metric": "miou", "train": {"steps": 3, "batch": 2},
        "data": {"name": "camvid", "train": "train", "val": "val"}, "probe": {"name": "conv"},
    }  # fmt: skip
    clips = {
        "id": "clips-v1", "task": "video", "metric": "J&F-Mean", "data": {"name": "davis2016"},
        "probe": {"name": "ridge"},
    }  # fmt: skip
    files = []
    for values in (images, clips):
        files.append(str(tmp_path / f"{values['id']}.yaml"))
        (tmp_path / f"{values['id']}.yaml").write_text(yaml.safe_dump({**values, **shared}))
    command = ["evaluate", "rgb-xy+upsample", "--protocol", *files, "--data", str(root), "--device", "cpu"]
    command += ["--seeds", "0", "1", "--keep-predictions", "--out"]
    assert cli.main([*command, str(tmp_path / "one")]) == 0
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dense_ctx.cli"]
    ran = subprocess.run(
        [sys.executable, *launch, *command, str(tmp_path / "two")],
        capture_output=True, text=True, timeout=240, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count("images-v1  rgb-xy+upsample") == 1  # only process 0 prints
    for part in ("images-v1", "clips-v1"):
        one, two = (json.loads((tmp_path / name / part / "result.json").read_text()) for name in ("one", "two"))
        assert (one["run"]["processes"], two["run"]["processes"]) == (1, 2)
        for each in (one, two):
            each.pop("run")
            each.pop("digest")
            each["environment"].pop("git")  # a commit may come in between
        assert one == two
    for path in (tmp_path / "one").rglob("predictions/**/*.png"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
