"""dense-ctx measure: what is printed, what is written, what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from dense_ctx import cli

MODEL = "rgb-xy+upsample(normalize=False)"


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 56), np.uint8)
    labels[10:30, 20:44] = 1
    image = np.where(labels[..., None] > 0, 200, 60) + rng.integers(0, 3, (40, 56, 3))
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "mask.png")
    return tmp_path


def test_boundaries_and_invariance(files, capsys):
    line = ["measure", MODEL, "--pairs", f"{files / 'image.png'}:{files / 'mask.png'}"]
    line += ["--images", str(files / "image.png"), "--json", str(files / "out.json")]
    assert cli.main(line) == 0
    printed = capsys.readouterr().out
    assert "boundary F (ODS)" in printed
    record = json.loads((files / "out.json").read_text(encoding="utf-8"))
    assert record["boundary"]["ods"] > 0.9  # a bright square on a dark ground
    names = [setting["transform"] for setting in record["invariance"]["settings"]]
    assert any(name.startswith("flip") for name in names)


def test_consistency_of_a_clip(files, capsys):
    from dense_ctx.data.video import write_video

    picture = np.asarray(Image.open(files / "image.png"))
    write_video(files / "clip.mp4", [np.roll(picture, i, 1) for i in range(5)])
    line = ["measure", MODEL, "--clip", str(files / "clip.mp4"), "--gaps", "1", "2", "--scales", "1"]
    assert cli.main(line) == 0
    assert capsys.readouterr().out.count("\n|") >= 3


def test_nothing_to_measure(capsys):
    assert cli.main(["measure", MODEL]) == 2
    assert "--clip (consistency), --pairs (boundaries) or --images (invariance)" in capsys.readouterr().err
