"""examples/correlation_maps.py: where a patch of one image is found in another."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evaluation_data import save
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from correlation_maps import correlation

from dense_ctx.errors import InputError
from dense_ctx.testing import tiny_model

SCRIPT = Path(__file__).parents[1] / "examples" / "correlation_maps.py"


def test_a_patch_is_found_where_it_is():
    model = tiny_model()
    image = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    stride = model.backbone.strides[-1]
    rows, columns = 32 // stride, 48 // stride
    for row, column in ((0, 0), (rows - 1, columns - 1), (1, 2)):
        at = (row * stride + stride // 2, column * stride + 1)
        values, pixels = correlation(model, image, at, image)
        assert pixels.shape == (32, 48)
        assert values.shape == (rows, columns)
        assert int(values.argmax()) == row * columns + column
        assert float(values.max()) == pytest.approx(1, abs=1e-5)
    other, _ = correlation(model, image, at, image.flip(1))
    assert not torch.allclose(other, values)
    with pytest.raises(InputError, match=r"--at 32 0 is outside of the query, 32 x 48 pixels"):
        correlation(model, image, (32, 0), image)


@pytest.mark.slow
def test_the_script_writes_a_row_a_model(tmp_path):
    import numpy as np

    for name, seed in (("a.png", 0), ("b.png", 1)):
        save(tmp_path / name, np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    words = [tmp_path / "a.png", "--at", 5, 9, "--targets", tmp_path / "b.png", tmp_path / "a.png", "--models",
             "efficientnet-lite0+upsample", "rgb-xy+upsample", "--out", tmp_path / "maps.png"]  # fmt: skip
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith("a.png: 1.000")
    with Image.open(tmp_path / "maps.png") as sheet:
        assert sheet.height > 2 * 240
