"""`max_memory` bounds what a call adds to the process: models, sizes, batches, classes and budgets drawn at random."""

import ctypes
import gc
import platform
import random
import sys
from pathlib import Path

import pytest
import torch

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.errors import MemoryBudgetError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from common import peak_mb_since, reset_peak

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="peaks are counted on Linux with glibc"
)
VIT = {"weights": None, "depth": 4, "embed_dim": 192, "num_heads": 3}
MODELS = [
    ("efficientnet-lite0", {}, "upsample", {}),
    ("efficientnet-lite0", {}, "upsample", {"layers": [0]}),
    ("efficientnet-lite0", {}, "dpt", {"dim": 32, "width": 32}),
    ("dinov2-s14", VIT, "upsample", {}),
    ("dinov2-s14", VIT, "dpt", {"dim": 64, "width": 64}),
    ("hiera-tiny", {"weights": None, "embed_dim": 48, "num_heads": 1, "stages": (1, 1, 2, 1)}, "dpt", {"dim": 32}),
    ("timm:swin_tiny_patch4_window7_224", {"weights": None, "depths": (1, 1, 2, 1)}, "dpt", {"dim": 48}),
    ("convnext-tiny", {"weights": None, "depths": (1, 1, 2, 1)}, "upsample", {"layers": [0, 1]}),
    ("rgb-xy", {}, "upsample", {}),
]


@pytest.fixture(autouse=True)
def blocks():
    """Freed memory goes back to the system at once: what one case leaves behind does not count for the next."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
    yield
    libc.mallopt(-3, 1 << 25)


def trimmed():
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def check(seed):
    """One drawn case; True if it was run, False if it was refused."""
    draw = random.Random(seed)
    backbone, backbone_args, decoder, decoder_args = draw.choice(MODELS)
    torch.manual_seed(seed)
    model = AutoDenseModel.from_parts(backbone, decoder, backbone_args=backbone_args, decoder_args=decoder_args)
    height, width, batch = draw.randint(64, 700), draw.randint(64, 700), draw.choice([1, 1, 2, 3])
    classes, budget = draw.choice([0, 0, 2, 40, 150]), round(10 ** draw.uniform(1.7, 3.1)) * 1_000_000
    with torch.inference_mode():
        model(torch.rand(1, 3, 64, 64))  # libraries are loaded
    image, amount = torch.rand(1 if classes else batch, 3, height, width), f"{budget}"
    if classes:
        labels = torch.arange(64 * 64).reshape(64, 64) * classes // 4096
        context = InContext(model).fit(torch.rand(3, 64, 64), labels)
    trimmed()
    before = reset_peak()
    try:
        accepted = f"{amount} approximate"
        result = context.predict_proba(image, max_memory=accepted) if classes else model(image, max_memory=accepted)
    except MemoryBudgetError:
        result = None
    added = peak_mb_since() - before
    what = f"seed {seed}: {backbone}+{decoder}, {batch} x {height} x {width}, {classes} classes, {budget / 1e6:.0f} MB"
    print(f"{what}: {'refused' if result is None else 'added'} {added:.0f} MB")
    limit = 1.1 * budget / 1e6 if result is not None else max(10.0, 0.1 * budget / 1e6)
    assert added <= limit + 4, f"{what}, added {added:.0f} MB"  # 4: pages of code, counted with the rest
    return result is not None


@pytest.mark.slow
def test_the_bound_holds():
    assert sum(check(seed) for seed in range(4)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_the_bound_holds_in_a_hundred_cases(block):
    assert sum(check(seed) for seed in range(10 * block, 10 * block + 10)) > 2
