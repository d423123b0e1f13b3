"""Every script in benchmarks/ runs from its beginning to its end, on small made data (minutes: -m slow)."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation_data import camvid, davis2016, rgbd, voc, vos_folder

FOLDER = Path(__file__).parents[1] / "benchmarks"
# a module that others import has no main
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text("utf-8"))
ARGUMENTS = {  # beside --quick: MODEL a saved model, CLIPS and DATA made data, OUT an empty folder
    "adapt.py": ["CLIPS", "DATA/davis2016", "--out", "OUT"],
    "bases.py": ["DATA", "--out", "OUT"],
    "bundle.py": ["MODEL", "OUT/bundle", "--command", "train", "--data", "made clips"],
    "composed.py": ["DATA", "--out", "OUT", "--seeds", "0"],
    "dip.py": ["DATA", "--out", "OUT", "batch_size=2"],
    "evaluation.py": ["DATA", "--out", "OUT"],
    "export_calibration.py": ["DATA"],
    "export_int8.py": ["DATA"],
    "fewshot.py": ["DATA"],
    "lila.py": ["CLIPS", "DATA", "--out", "OUT", "objective.args.start=8"],
    "lila_limits.py": ["DATA/davis2016", "--runs", "OUT/none", "--out", "OUT"],
    "lila_pictures.py": ["lila-lite0", "CLIPS", "--out", "OUT"],
    "maxa_floor.py": ["DATA"],
    "maxa_tasks.py": ["DATA", "--out", "OUT"],
    "session_quality.py": ["DATA"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """CLIPS, DATA and MODEL as the scripts' docstrings describe them."""
    from dense_ctx.data.video import write_video
    from dense_ctx.train import TrainConfig, train

    root = tmp_path_factory.mktemp("benchmarks")
    data, clips = root / "data", root / "data" / "clips"
    clips.mkdir(parents=True)
    for seed in range(2):
        picture = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        write_video(clips / f"clip{seed}.mp4", [np.roll(picture, 3 * t, 1) for t in range(12)])
    davis2016(data / "davis2016")
    camvid(data / "camvid")
    rgbd(data / "rgbd" / "kitchen")
    vos_folder(data / "vos_multi" / "schoolgirls")
    voc(data / "instances" / "voc3")
    model = train(TrainConfig.from_dict({
        "model": {
            "backbone": {"name": "efficientnet-lite0"}, "decoder": {"name": "dpt", "args": {"dim": 8, "width": 8}},
        },
        "objective": {"name": "lila", "args": {"cues": ["features"], "sampling": {"size": 64, "map_size": 32}}},
        "data": str(clips), "out": str(root / "run"), "steps": 1, "batch_size": 1,
    }))  # fmt: skip
    return {"CLIPS": clips, "DATA": data, "MODEL": model}


def test_the_folder_is_listed():
    assert len(SCRIPTS) > 15
    assert set(ARGUMENTS) <= set(SCRIPTS)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_quick(script, places, tmp_path):
    words = ARGUMENTS.get(script, [])
    for name, path in {**places, "OUT": tmp_path}.items():
        words = [word.replace(name, str(path)) for word in words]
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *words, "--quick"], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()


def test_differences_between_rows_of_bases(monkeypatch):
    """A row that is not trained stands beside each seed; draws of a probe are averaged; RMSE is in metres."""
    monkeypatch.syspath_prepend(FOLDER)
    import bases

    def result(**scenes):
        value = float(np.mean([np.mean([*draws.values()]) for draws in scenes.values()]))
        return SimpleNamespace(value=value, scenes=scenes)

    scores = bases.Scores([("DIP", "base")])
    frozen = result(a={"0": 0.2, "1": 0.4}, b={"0": 0.5, "1": 0.5})
    scores.add("lite", "base", None, {"mIoU": frozen, "RMSE": result(a={"0": 0.5})})
    for seed, gain in ((0, 0.1), (2, 0.3)):
        better = result(a={"0": 0.3 + gain, "1": 0.3 + gain}, b={"0": 0.5 + gain})
        scores.add("lite", "DIP", seed, {"mIoU": better, "RMSE": result(a={"0": 0.5 - gain})})
    assert scores.scenes("lite", "base", "mIoU", [0, 2])["a"] == {"0": pytest.approx(30), "2": pytest.approx(30)}
    assert scores.cell("lite", "DIP", "mIoU") == "60.0 ± 14.1"
    assert scores.difference("lite", "DIP", "base", "mIoU") == "+20.0 (+10.0 to +30.0)"
    assert scores.difference("lite", "DIP", "base", "RMSE") == "-0.200 (-0.300 to -0.100)"
    assert "DIP - base" in scores.lines()


def test_what_prints_a_ratio_checks_that_its_sides_agree():
    """Each script that compares two sides in time or memory calls `same`, before it prints."""
    for script in SCRIPTS:
        tree = ast.parse((FOLDER / script).read_text("utf-8"))
        calls = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if "ratio" in calls or "in_turn" in calls:
            assert "same" in calls, script


def test_sides_that_differ_end_a_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from common import same

    same(1e-6, 1e-5, "sums")
    for difference in (2e-5, float("nan")):
        with pytest.raises(SystemExit, match=r"sums: the sides differ by .*; there is no ratio"):
            same(difference, 1e-5, "sums")
