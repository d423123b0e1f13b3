"""What docs/reliability.md claims of many cases at once: random steps, sizes, budgets, repetitions."""

import json
import os
import random
import socket
import subprocess
import sys

import pytest
import torch
from evaluation_data import camvid, same_revision
from PIL import Image
from train_parts import config, install, losses, same, weights

from dense_ctx import AutoDenseModel
from dense_ctx.evaluate import evaluate
from dense_ctx.testing import tiny_model
from dense_ctx.tiling import map_tiles, plan, settled
from dense_ctx.train import train

SHORT = ["train.steps=6", "train.batch=2"]


@pytest.mark.faults
def test_a_run_stopped_at_random_steps_is_the_same_for_fifty_more(tmp_path, monkeypatch):
    """R2."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)
    for stop in random.Random(0).sample(range(1, 40), 10):
        straight, parts = tmp_path / f"straight{stop}", tmp_path / f"parts{stop}"
        train(config(straight, steps=stop + 50))
        train(config(parts, steps=stop))
        train(config(parts, steps=stop + 50))
        assert len(losses(straight)) == stop + 50
        assert losses(straight) == losses(parts)
        assert same(weights(straight / "model"), weights(parts / "model"))


def test_a_whole_evaluation_makes_no_connection(tmp_path, monkeypatch):
    """R5."""
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: asked.append(host))
    same_revision(monkeypatch)
    model = AutoDenseModel.from_parts("efficientnet-lite0", "upsample")
    evaluate(model, "camvid-linear-grid4-v1", camvid(tmp_path / "camvid"), tmp_path / "out", overrides=SHORT)
    assert asked == []
    socket.socket().connect(("127.0.0.1", 9))  # that it would have been seen
    assert asked == [("127.0.0.1", 9)]


def test_an_import_takes_a_fraction_of_a_second():
    """R8: seconds of the processor, beside Python's own start; the least of five."""

    def seconds(code, runs=5):
        tail = "; import time; print(time.process_time())"
        return min(float(subprocess.check_output([sys.executable, "-c", code + tail])) for _ in range(runs))

    start = seconds("import os")
    assert seconds("import dense_ctx") - start < 0.3
    assert seconds("import torch", runs=1) - start > 0.3  # what it would take with torch


@pytest.mark.faults
@pytest.mark.parametrize("decoder", ["upsample", "dpt", "maxa"])
def test_the_output_has_the_size_of_the_input_whatever_it_is(decoder):
    """R11: sizes from 1 to 1024, log-uniform."""
    draw = random.Random(0)
    sizes = [(1, 1), (1, 1024), (1024, 1), *([round(1024 ** draw.random()) for _ in range(2)] for _ in range(60))]
    model = AutoDenseModel.from_parts("rgb-xy", decoder)
    for height, width in (size for size in sizes if size[0] * size[1] < 150_000):
        features = model(torch.rand(1, 3, height, width))
        assert features.pixels.shape[-2:] == (height, width)


def test_alone_and_in_a_batch_in_bfloat16():
    """R12: within what a sum in another order changes, two steps of a bfloat16 near 1."""
    torch.manual_seed(0)
    model = AutoDenseModel.from_parts("efficientnet-lite0", "upsample", dtype=torch.bfloat16)
    images = torch.rand(3, 3, 64, 96)
    together = model(images).pixels.float()
    for image, expected in zip(images, together, strict=True):
        torch.testing.assert_close(model(image).pixels[0].float(), expected, rtol=0, atol=2**-7)
    assert (together[0] - together[1]).abs().max() > 2**-5


@pytest.mark.slow
def test_five_budgets_give_the_features_of_none():
    """R13."""
    model = AutoDenseModel.from_parts("efficientnet-lite0", "upsample", decoder_args={"layers": [0]})
    image = torch.rand(1, 3, 700, 380)
    size, tiled = (700, 380), 0
    with torch.inference_mode():
        whole = model(image).pixels
        for budget in ("170MB", "180MB", "200MB", "250MB", "2GB"):
            windows = settled(model, image, plan(model, size, budget, model.dim), budget)
            tiled += len(windows) > 1
            parts = map_tiles(model, image, lambda features: features.pixels, windows)
            assert (parts - whole).abs().max() < 1e-5
    assert tiled >= 2


def test_five_evaluations_with_one_seed_give_one_file(tmp_path, monkeypatch):
    """R20."""
    same_revision(monkeypatch)
    root, model, files = camvid(tmp_path / "camvid"), tiny_model(), []
    for index in range(5):
        evaluate(model, "camvid-linear-grid4-v1", root, tmp_path / str(index), overrides=SHORT)
        files.append(json.loads((tmp_path / str(index) / "result.json").read_text()))
        files[-1].pop("run")
    assert all(file == files[0] for file in files)


@pytest.mark.parametrize("home", [None, pytest.param("/dev/null", marks=pytest.mark.slow)], ids=["none", "no folder"])
def test_without_a_home_it_works(home, tmp_path):
    """R21."""
    Image.new("RGB", (40, 30), (200, 100, 0)).save(tmp_path / "photo.png")
    hidden = {"HOME", "HF_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HUB_CACHE"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {} if home is None else {"HOME": home}
    words = ["features", "efficientnet-lite0+upsample", "photo.png", "--out", "features", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "dense_ctx.cli", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "features").iterdir())
