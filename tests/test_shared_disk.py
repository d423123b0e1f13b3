"""Two machines that start on one folder of a shared file system, with delays: each is done, waits, or is refused."""

import json
import os
import re
import subprocess
import sys

import pytest
import shared_disk
from safetensors.torch import load_file

from dense_ctx.data.cache import Shard
from dense_ctx.files import read_json
from dense_ctx.images import load_mask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
]
TIMES = (0, 1, None)  # which of the two begins; None: both at once


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """All cases, in one start of what they import."""
    root = tmp_path_factory.mktemp("disk")
    words = [sys.executable, shared_disk.__file__, str(root), ",".join(shared_disk.CASES)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def both(disk, case, first):
    """The folder, and what the one that was done, or done first, and the other came to."""
    folder = disk / f"{case.replace(' ', '-')}-{first}"
    outcomes = [json.loads(path.read_text()) for path in sorted(folder.glob("outcome-*.json"))]
    for rank, words in enumerate(outcomes):
        print(case, first, rank, words["outcome"], (folder / f"log-{rank}").read_text()[-600:])
    assert len(outcomes) == 2
    outcomes.sort(key=lambda words: (words["outcome"] != "done", words["ended"]))
    assert not list(folder.rglob("*.partial*")), "half-written"
    assert not list(folder.rglob(".*.lock")), "a lock is left"
    return folder, *outcomes


REFUSED = r"FileError: {what} is in use by process {pid} on node\d since \d{{4}}-.*whether it still runs cannot be seen"


@pytest.mark.parametrize("first", TIMES)
def test_the_second_is_refused_by_name(disk, first):
    for case, what in (("lock refused", "The folder work"), ("training refused", "The run .*run")):
        folder, one, two = both(disk, case, first)
        assert one["outcome"] == "done"
        assert re.match(REFUSED.format(what=what, pid=one["pid"]), two["outcome"]), two["outcome"]
    assert [row["step"] for row in map(json.loads, (folder / "run/log.jsonl").read_text().splitlines())] == [
        *range(1, 7)
    ]


@pytest.mark.parametrize("first", TIMES)
@pytest.mark.parametrize("case", ["lock waits", "lock without links"])
def test_the_second_waits_and_never_both_are_inside(disk, case, first):
    _, one, two = both(disk, case, first)
    assert one["outcome"] == two["outcome"] == "done"
    assert abs(two["ended"] - one["ended"]) > shared_disk.HOLD - 0.1


@pytest.mark.parametrize("first", TIMES)
def test_a_training_that_waits_goes_on_from_the_end_of_the_first(disk, first):
    folder, one, two = both(disk, "training waits", first)
    assert one["outcome"] == two["outcome"] == "done"
    assert [row["step"] for row in map(json.loads, (folder / "run/log.jsonl").read_text().splitlines())] == [
        *range(1, 7)
    ]
    assert "waiting for its end" in "".join(path.read_text() for path in folder.glob("log-*"))


def test_a_lock_of_a_killed_process_is_taken_over_on_its_machine_and_named_on_another(disk):
    for case, expected in (
        ("same machine", "done"),
        ("another machine", "FileError: .* on node0 since .*remove its lock"),
    ):
        folder = disk / f"killed-on-{'the-' if 'same' in case else ''}{case.replace(' ', '-')}-0"
        assert not (folder / "outcome-0.json").exists()
        assert re.match(expected, read_json(folder / "outcome-1.json")["outcome"])


@pytest.mark.parametrize("first", TIMES)
@pytest.mark.parametrize("case", ["claim", "claim without links"])
def test_the_first_claim_stands_and_the_other_names_the_difference(disk, case, first):
    folder, one, two = both(disk, case, first)
    rank = read_json(folder / "work/manifest.json")["rank"]
    assert one["outcome"] == "done"
    assert re.match(rf"ConfigError: .*rank: {rank} there, {1 - rank} now", two["outcome"])


@pytest.mark.parametrize("first", TIMES)
def test_a_feature_cache_is_whole_and_one_of_other_settings_refused(disk, first):
    folder, one, two = both(disk, "features", first)
    assert one["outcome"] == two["outcome"] == "done"
    files = {path.name: Shard(path) for path in (folder / "cache").glob("*.safetensors")}
    assert {name: len(file.tensor("map1")) for name, file in files.items()} == {
        "features-00000.safetensors": 64, "features-00001.safetensors": 6,
    }  # fmt: skip
    _, one, two = both(disk, "features of other settings", first)
    assert one["outcome"] == "done"
    assert re.match(r"ConfigError: .*cache holds another feature cache \(.*size: ", two["outcome"])


@pytest.mark.parametrize("first", TIMES)
def test_cues_and_predictions_are_whole(disk, first):
    folder, one, two = both(disk, "cues", first)
    assert one["outcome"] == two["outcome"] == "done"  # the second finds all, or waits
    assert all(load_file(path) for path in (folder / "cues").rglob("*.safetensors"))
    folder, one, two = both(disk, "predict", first)
    assert one["outcome"] == two["outcome"] == "done"
    names = [json.loads(line)["name"] for line in (folder / "out/predictions.jsonl").read_text().splitlines()]
    assert {*names} == {"0000", "0001", "0002"}  # a mask that is not seen yet is predicted again
    masks = sorted((folder / "out/masks").glob("0*.png"))
    assert [path.stem for path in masks] == ["0000", "0001", "0002"]
    assert all(load_mask(path).shape for path in masks)


@pytest.mark.parametrize("first", TIMES)
@pytest.mark.parametrize("case", ["model", "predictor"])
def test_of_two_saves_one_stands_whole(disk, case, first):
    _, one, two = both(disk, case, first)
    assert one["outcome"] == "done"
    # the second takes over the first one's card, which it may not see yet
    assert two["outcome"] == "done" or two["outcome"].endswith("What was there is unchanged")
