"""Large backbones go from their file to their place: the same features, and no second copy of the weights in memory."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from test_backbone_threads import NAMES, options, tiny

from dense_ctx import AutoDenseModel, create_backbone
from dense_ctx.model_spec import open_model

OWN_FILES = ("rgb-xy", "sam2-base-plus-neck", "mocov3-b16")  # read none, or files of a kind of their own
PEAK = """
import sys, torch
from dense_ctx.model_spec import open_model

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

import threading, time
file, dtype, depth, width = sys.argv[1:]
name = "timm:vit_base_patch14_dinov2.lvd142m"
spec = f"{name}(weights={file}, depth={depth}, embed_dim={width}, num_heads=8)"
open_model(f"{name}(weights=null, depth=1, embed_dim=16, num_heads=1)")
before, peak, over = anonymous(), [0], threading.Event()
def watch():
    while not over.wait(0.002):
        peak[0] = max(peak[0], anonymous())
thread = threading.Thread(target=watch); thread.start()
model = open_model(spec, "cpu", dtype)
over.set(); thread.join()
print(peak[0] - before, sum(p.numel() * p.element_size() for p in model.backbone.parameters()) / 2**20)
"""


def vit_file(path, depth, width, dtype=torch.float32):
    """A ViT's weights in a file, made on the meta device and filled one tensor after the other."""
    with torch.device("meta"):
        net = create_backbone(
            "timm:vit_base_patch14_dinov2.lvd142m", weights=None, depth=depth, embed_dim=width, num_heads=8
        ).net
    state = {key: torch.randn(value.shape, dtype=dtype) * 0.02 for key, value in net.state_dict().items()}
    save_file(state, path)
    return path


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OWN_FILES])
def test_a_backbone_that_is_read_to_its_place_is_the_same(name, tmp_path):
    there = tiny(name)
    save_file(
        {key: value.contiguous().clone() for key, value in there.net.state_dict().items()}, tmp_path / "w.safetensors"
    )
    args = {**options(name), "weights": str(tmp_path / "w.safetensors")}
    image = torch.rand(1, 3, there.stride, 2 * there.stride)
    plain = AutoDenseModel.from_parts(name, "upsample", backbone_args=args)
    placed = AutoDenseModel.from_parts(name, "upsample", backbone_args=args, device="cpu")
    assert torch.equal(plain(image).pixels, placed(image).pixels)
    half = AutoDenseModel.from_parts(name, "upsample", backbone_args=args, dtype=torch.bfloat16)
    assert {value.dtype for value in half.backbone.parameters()} == {torch.bfloat16}
    cast = plain.to(torch.bfloat16)
    assert all(torch.equal(value, cast.state_dict()[key]) for key, value in half.state_dict().items())


def test_the_verbs_open_a_backbone_so(tmp_path):
    file = vit_file(tmp_path / "vit.safetensors", 1, 32)
    spec = f"timm:vit_base_patch14_dinov2.lvd142m(weights={file}, depth=1, embed_dim=32, num_heads=8)"
    plain, placed, image = open_model(spec), open_model(spec, "cpu"), torch.ones(1, 3, 28, 28)
    file.write_bytes(b"")  # what was read does not depend on the file any more
    assert torch.equal(plain(image).pixels, placed(image).pixels)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are counted on Linux with glibc")
def test_host_memory_holds_the_weights_once_in_their_type(tmp_path):
    file = vit_file(tmp_path / "vit.safetensors", 8, 512, torch.bfloat16)  # 25 million parameters
    for dtype, times in (("bfloat16", 1.4), ("float32", 1.3)):
        words = [sys.executable, "-c", PEAK, str(file), dtype, "8", "512"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peak, weights = map(float, done.stdout.split())
        print(f"{dtype}: {peak:.0f} MB of anonymous memory for {weights:.0f} MB of weights")
        assert peak < times * weights + 8
