"""Every sweep of examples/sweeps/ runs from its beginning to its end with --quick, on small made data (-m slow)."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_datasets
from evaluation_data import save, scene

from dense_ctx.config import load_yaml
from dense_ctx.files import read_json

FOLDER = Path(__file__).parents[1] / "examples" / "sweeps"
SWEEPS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".sh"))
posix = pytest.mark.skipif(sys.platform == "win32", reason="a script of sh")


def sweep(name, *words, succeeds=True):
    runner = [sys.executable] if name.endswith(".py") else ["sh"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run([*runner, str(FOLDER / name), *map(str, words)], env={**os.environ, "PATH": path},
                          capture_output=True, text=True)  # fmt: skip
    assert (done.returncode == 0) == succeeds, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout if succeeds else done.stderr


def values(folder):
    return {path.parent.name: read_json(path)["value"] for path in sorted(folder.glob("*/result.json"))}


def youtube(root):
    for split in ("train", "valid"):
        for index in range(7):
            save(root / f"{split}_all_frames/JPEGImages/{split}/{index:05d}.jpg", scene(index, (160, 200))[0])
    return root


def davis(root):
    tiny_datasets.davis(root, year="2017", values=(0, 1, 2))
    return root


def test_no_sweep_is_left_out():
    assert SWEEPS == [
        "dip_memory.sh", "lila_domain.sh", "lila_gap.sh", "lila_table6.sh", "maxa_agreement.py", "maxa_imagenet.py",
        "maxa_speed.py", "quick.sh",
    ]  # fmt: skip


@posix
@pytest.mark.slow
def test_lilas_window(tmp_path):
    words = [youtube(tmp_path / "yt"), davis(tmp_path / "davis"), tmp_path / "out", "objective.args.sigma=0.2"]
    printed = sweep("lila_gap.sh", "--quick", *words)
    assert set(values(tmp_path / "out/results")) == {"gap-1", "gap-3"}
    assert printed.count("| ") > 4  # the table of both
    config = load_yaml((tmp_path / "out/gap-3/config.yaml").read_text(), "config")
    assert config["objective"]["args"]["sampling"]["gap"] == [1, 3]
    assert config["objective"]["args"]["sigma"] == 0.2
    before = values(tmp_path / "out/results")
    sweep("lila_gap.sh", "--quick", *words)  # after an interruption
    assert values(tmp_path / "out/results") == before


@posix
@pytest.mark.slow
def test_lilas_other_backbones(tmp_path):
    sweep("lila_table6.sh", "--quick", youtube(tmp_path / "yt"), davis(tmp_path / "davis"), tmp_path / "out")
    names = ("mae-b16", "dinov2-reg-b14", "dinov3-b16")
    assert set(values(tmp_path / "out/results")) == {*names, *(f"{name}-lila" for name in names)}


@posix
@pytest.mark.slow
def test_dips_memory(tmp_path):
    for split in ("training", "validation"):
        tiny_datasets.ade20k(tmp_path / "ade", split)
    sweep("dip_memory.sh", "--quick", "efficientnet-lite0+upsample", tmp_path / "ade", tmp_path / "out")
    assert set(values(tmp_path / "out")) == {"memory-40", "memory-80"}


@pytest.fixture
def bench(tmp_path):
    """A folder of records of maxa-table3, as `dense-ctx bench` writes them."""
    from test_bench_presets import written

    rows = list(written("maxa-table3")["backbones"])
    for index, row in enumerate([*rows[:2], "MAE", "CLIP", "Dino V2"]):
        record = {"status": "done", "metric": "miou", "value": 0.5 + index / 10,
                  "settings": {"preset": {"row": row, "column": "voc"}}}  # fmt: skip
        path = tmp_path / f"bench/cells/{index}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
    return tmp_path / "bench"


@pytest.mark.slow
def test_maxas_speed(bench):
    printed = sweep("maxa_speed.py", "--quick", "--bench", bench)
    head, _, mae, clip = printed.split("| backbone", 1)[1].splitlines()[:4]
    assert "voc" in head
    assert [line.split("|")[-2].strip() for line in (mae, clip)] == ["0.7", "0.8"]
    assert (bench / "speed-voc.svg").read_text().count("<circle") == 2


@pytest.mark.slow
def test_maxas_segmentation_beside_imagenet(bench, tmp_path):
    table = tmp_path / "results-imagenet.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "top1", "top5"])
        writer.writerows([["vit_base_patch16_224.augreg_in21k", 84.5, 97], ["mae_ft", 83.6, 96], ["clip_ft", 85.2, 97]])
    rows = ["MAE=mae_ft", "CLIP=clip_ft"]
    printed = sweep("maxa_imagenet.py", bench, table, *rows)
    assert "| ImageNet " in printed
    assert "without an accuracy in results-imagenet.csv: Dino V2, Random (untrained)" in printed
    assert "rank correlation 0.500" in printed
    assert (bench / "imagenet-voc.svg").read_text().count("<circle") == 3
    assert "'ghost' is no row" in sweep("maxa_imagenet.py", bench, table, "MAE=ghost", succeeds=False)
    table.write_text("name,accuracy\n")
    assert "has no columns model and top1" in sweep("maxa_imagenet.py", bench, table, succeeds=False)


@pytest.mark.slow
def test_maxas_scores_beside_other_work(bench, tmp_path):
    table = tmp_path / "others.csv"
    table.write_text("row,aydemir,rcnn\nImageNet,38.0,\nMAE,41.5,30\nCLIP,42.0,20\nDino V2,44.1,40\n")
    printed = sweep("maxa_agreement.py", bench, table)
    assert "without a number in the column aydemir: Random (untrained)" in printed
    assert "without a number in the column rcnn: ImageNet, Random (untrained)" in printed
    assert [line for line in printed.splitlines() if "rank" in line] == [
        "rank correlation 1.000",
        "rank correlation 0.500",
    ]
    assert (bench / "aydemir-voc.svg").read_text().count("<circle") == 4
    assert (bench / "rcnn-voc.svg").read_text().count("<circle") == 3
    table.write_text("row,aydemir\nMAE,good\n")
    assert "an empty cell is no number" in sweep("maxa_agreement.py", bench, table, succeeds=False)
    table.write_text("name,aydemir\nMAE,1\n")
    assert "has no column row" in sweep("maxa_agreement.py", bench, table, succeeds=False)


@posix
@pytest.mark.slow
def test_lilas_other_domains(tmp_path):
    for index in range(2):
        save(tmp_path / f"images/{index}.png", scene(index, (64, 80))[0])
    sweep("lila_domain.sh", "--quick", "lila-lite0", "efficientnet-lite0", tmp_path / "images", tmp_path / "out")
    for name in ("lila", "frozen"):
        assert len(list((tmp_path / "out" / name).rglob("*.safetensors"))) == 2
        assert list((tmp_path / "out" / name).rglob("*.png"))
