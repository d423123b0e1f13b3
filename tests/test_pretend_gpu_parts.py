"""Every registered backbone and decoder on a pretended CUDA device (pretend_gpu/device.py): the CPU's values."""

import copy

import pytest
import torch
from pretend_gpu.device import MixedDevices, compiler, pretend
from test_backbone_threads import FAMILIES, NAMES, tiny

from dense_ctx import DenseModel, registry
from dense_ctx.testing.tiny import TinyBackbone, tiny_model

pytestmark = [
    pytest.mark.pretend_gpu,
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler (c++, g++ or clang++) for the pretended device"),
]
# the largest difference in bfloat16 and float16, as a share of the largest value: of parts whose names begin so, and of
# any other (measured with three seeds: 0.013 and 0.0016 at most)
HALF = {"efficientnet-lite": (0.08, 0.02), "model:": (0.04, 0.008), "sam2": (0.035, 0.005), "hiera": (0.025, 0.004),
        "": (0.02, 0.003)}  # fmt: skip


def close(one, two, share=2e-4):
    """Whether tensors differ by no more than a share of the largest value."""
    one, two = one.detach().cpu().float(), two.detach().cpu().float()
    assert one.shape == two.shape
    largest = float(one.abs().max())
    assert float((one - two).abs().max()) <= share * max(largest, 1e-3), float((one - two).abs().max()) / largest


def outputs(model, images):
    model.eval()
    features = model(images)
    return [features.pixels, features.patches, *([] if features.cls is None else [features.cls])]


def gradients(model, images):
    """Of every parameter that a loss on the features reaches."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.train()
    torch.manual_seed(0)  # of dropout
    features = model(images)
    (features.pixels.square().mean() + features.patches.square().mean()).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return grads


def check(name, model, images, halves=True, slope=True):
    """The model's features and gradients on cuda:1 and cuda:0, in float32 and under autocast, are the CPU's."""
    expected = outputs(model, images)
    slopes = gradients(copy.deepcopy(model), images)
    with pretend() as gpu:
        there = copy.deepcopy(model).to("cuda:1")
        for one, two in zip(expected, outputs(there, images), strict=True):
            assert two.device == torch.device("cuda:1")
            close(one, two)
        shares = next(shares for start, shares in HALF.items() if name.startswith(start))
        for dtype, share in zip((torch.bfloat16, torch.float16), shares, strict=True):
            with torch.autocast("cuda", dtype=dtype):
                half = outputs(there, images)
            for one, two in zip(expected, half, strict=True):
                close(one, two, share)
        if slope:  # after all outputs: BatchNorm's statistics follow the images
            grads = gradients(there, images)
            assert grads.keys() == slopes.keys()
            whole = torch.cat([slopes[name].flatten() for name in slopes])
            close(whole, torch.cat([grads[name].flatten() for name in slopes]), 2e-3)
        for dtype in (torch.bfloat16, torch.float16) if halves and slope else ():
            with torch.autocast("cuda", dtype=dtype):
                assert all(bool(grad.isfinite().all()) for grad in gradients(there, images).values())
        assert gpu.touched == {1}
        gpu.clear()
        first = outputs(copy.deepcopy(model).to("cuda"), images)
        close(expected[0], first[0])
        assert gpu.touched == {0}


def test_the_pretended_devices_do_not_mix_and_are_counted():
    with pretend() as gpu:
        one, two = torch.ones(3, device="cuda"), torch.ones(3, device="cuda:1")
        for other in (two, torch.ones(3)):
            with pytest.raises(MixedDevices):
                one + other
        gpu.clear()
        assert bool((one + 1 == 2).all())
        assert gpu.counts() == {"launches": 3, "waits": 1, "uploads": 0}
        assert gpu.touched == {0}
        with torch.autocast("cuda", dtype=torch.float16):
            assert (one[None] @ one[:, None]).dtype == torch.float16
        with pytest.raises(TypeError, match="numpy"):
            one.numpy()
    assert not torch.cuda.is_available() or torch.cuda.get_device_name() != "Pretended GPU"


@pytest.mark.parametrize("name", [*NAMES, *FAMILIES])
def test_backbone(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DenseModel.from_parts(tiny(name), "upsample")
    step = model.backbone.stride
    images = torch.rand(2, 3, 2 * step, 3 * step - 1, generator=torch.Generator().manual_seed(0))
    large = name in ("mocov3-b16", "sam2-base-plus-neck")  # of one size
    # AIMv2: torch's RMS norm has a backward kernel of its own on CUDA, which no CPU can stand in for
    check(name, model, images[: 1 if large else 2], halves=not large, slope=not name.startswith("aimv2"))


@pytest.mark.parametrize("name", registry().names("decoder"))
def test_decoder(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = {"heads": 2} if name in ("loftup", "naf") else {}  # which divide ten channels
        model = DenseModel.from_parts(TinyBackbone(), name, decoder_args=heads)
    images = torch.rand(2, 3, 37, 52, generator=torch.Generator().manual_seed(0))
    check(name, model, images, slope=name not in ("anyup", "jafar"))  # torch's RMS norm, as in AIMv2


def test_large_images_are_tiled():
    model, image = tiny_model().eval(), torch.rand(1, 3, 160, 200, generator=torch.Generator().manual_seed(0))
    expected = model(image, max_memory="1.6MB approximate")
    with pretend() as gpu:
        output = tiny_model().eval().to("cuda:1")(image, max_memory="1.6MB approximate")
        close(expected.pixels, output.pixels)
        assert gpu.touched == {1}
