"""dense-ctx adapt: a clip of the user's, a trained model, a minute of LILA; what it refuses; a stopped run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_lila.open_clips import open_clips
from dense_ctx_lila.sampling import FramePairs, Sampling
from PIL import Image

from dense_ctx import AutoDenseModel
from dense_ctx.cli import main
from dense_ctx.config import load_yaml
from dense_ctx.data.video import write_video
from dense_ctx.train import TrainConfig, train

MODEL = ["--model", "lila-lite0"]
SMALL = ["schedule.warmup=0", "mixed_precision=no", "objective.args.centre=4"] + [
    f"objective.args.sampling.{value}"
    for value in ("size=64", "map_size=32", "frame_side=64", "cue_side=64", "gap=[1,2]")
]


def frame(shift):
    x, y = np.meshgrid(np.arange(96), np.arange(72))
    picture = np.stack([np.sin((x - shift) / 9 + y / 7), np.cos((x - 2 * shift) / 5), np.sin(y / 4)], -1)
    return (127 + 100 * picture).astype(np.uint8)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("films")
    (root / "frames" / "one").mkdir(parents=True)
    for shift in range(5):
        Image.fromarray(frame(shift)).save(root / "frames" / "one" / f"{shift:03d}.png")
    write_video(root / "two.mp4", [frame(3 * shift) for shift in range(5)])
    return root


@pytest.fixture(scope="module")
def run(films, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapted")
    assert (
        main(
            [
                "adapt",
                str(films / "frames" / "one"),
                "--out",
                str(out),
                *MODEL,
                "--steps",
                "2",
                "--device",
                "cpu",
                *SMALL,
            ]
        )
        == 0
    )
    return out


def weights(folder):
    return {k: v for k, v in AutoDenseModel.from_pretrained(folder).state_dict().items() if k.startswith("decoder.")}


def apart(one, other):
    return [key for key in one if not torch.equal(one[key], other[key])]


def test_the_folder_of_a_clips_frames_is_a_clip(films):
    sampling = Sampling(size=32, frame_side=48, gap=(1, 2))
    own, above = (FramePairs(open_clips(str(root)), sampling) for root in (films / "frames" / "one", films / "frames"))
    assert len(own) == len(above) > 0
    for index in range(len(own)):
        one, other = own.sample(index, index), above.sample(index, index)
        assert one["name"] == other["name"]
        assert torch.equal(one["query"], other["query"])


def test_it_trains_the_model_further_on_the_clip(run):
    start, adapted = weights("lila-lite0"), weights(run / "model")
    assert apart(start, adapted)
    record = AutoDenseModel.from_pretrained(run / "model").model_config.trained_with
    assert record["steps"] == 2
    assert record["data"] == ["one"]
    config = load_yaml((run / "config.yaml").read_text(), "config")
    assert config["model"] == "lila-lite0"
    assert config["average"] == {"momentum": 0.0, "start": 1}


@pytest.mark.parametrize(
    "change", ["clip", "--steps", *(pytest.param(one, marks=pytest.mark.slow) for one in ("--model", "KEY=VALUE"))]
)
def test_every_argument_changes_the_model(run, films, tmp_path, change):
    clip = films / ("two.mp4" if change == "clip" else "frames/one")
    model = ["--model", str(run / "model")] if change == "--model" else MODEL
    words = [*model, *(["optimizer.lr=1e-3"] if change == "KEY=VALUE" else [])]
    steps = "1" if change == "--steps" else "2"
    assert main(["adapt", str(clip), "--out", str(tmp_path), "--steps", steps, "--device", "cpu", *SMALL, *words]) == 0
    assert apart(weights(run / "model"), weights(tmp_path / "model"))


@pytest.mark.slow
def test_a_stopped_run_ends_as_one_that_was_not(run, films, tmp_path, monkeypatch):
    """Bitwise, with the mean that the model had before the first of its steps: also where it is in memory, trained."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    model = AutoDenseModel.from_pretrained("lila-lite0")
    for steps in (1, 2):
        words = [f"data=['{films / 'frames' / 'one'}']", f"out={tmp_path}", f"steps={steps}", "device=cpu", *SMALL]
        train(TrainConfig.load("lila-adapt", words), model=model)
    assert not apart(weights(run / "model"), weights(tmp_path / "model"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "efficientnet-lite0+dpt(dim=8)"], "has an untrained decoder, and there is nothing to adapt"),
        (["--model", "efficientnet-lite0"], "has an untrained decoder, and there is nothing to adapt"),
        ([*MODEL, "steps=3"], "'steps=3': give --steps in its place"),
        ([*MODEL, "data=clips"], "'data=clips': give CLIP in its place"),
        (
            [*MODEL, "objective.args.start=4"],
            "start=4 initialises the decoder from data, and this model is trained already",
        ),
    ],
)
def test_what_is_refused(films, tmp_path, capsys, words, message):
    out = tmp_path / "out"
    assert main(["adapt", str(films / "frames" / "one"), "--out", str(out), *SMALL, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (out / "model").exists()


def test_no_clip_there(tmp_path, capsys):
    assert main(["adapt", str(tmp_path / "none.mp4"), *MODEL, "--out", str(tmp_path / "out")]) == 2
    assert "none.mp4" in capsys.readouterr().err
    assert not Path(tmp_path / "out" / "model").exists()
