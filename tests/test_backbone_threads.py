"""One model, many threads: no forward changes its module, so predictions of eight threads are those of one."""

import threading

import pytest
import torch
import transformers

from dense_ctx import DenseModel, create_backbone, registry

VIT = {"depth": 2, "embed_dim": 48, "num_heads": 2}
NAMES = [name for name in registry().names("backbone") if not name.endswith(":")]
OF_ONE_CLASS = ("efficientnet-lite1", "efficientnet-lite2")  # with efficientnet-lite0: in -m slow
FAMILIES = ["hf:untrained", "lora:dinov2-s14", "model:lila-lite0", "timm:swin_tiny_patch4_window7_224"]
THREADS = 8


def options(name):
    """The registered network, as small as it can be made, with random weights."""
    if name.startswith("efficientnet") or name in ("mocov3-b16", "sam2-base-plus-neck"):  # of one size
        return {}
    if name.startswith("hiera"):
        return {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)}
    if name.startswith("sam2"):
        return {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1), "global_att_blocks": ()}
    if name.startswith("sam"):
        return {**VIT, "img_size": 64, "global_attn_indexes": (1,)}
    if "convnext" in name:
        return {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    if name.startswith("timm:swin"):
        return {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2)}
    return VIT


def tiny(name):
    if name == "rgb-xy" or name.startswith("model:"):
        return create_backbone(name)
    if name.startswith("hf:"):
        config = transformers.Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=70)
        return create_backbone(name, config=config, weights=None)
    if name.startswith("lora:"):
        return create_backbone(name, weights=None, args=VIT)
    return create_backbone(name, weights=None, **options(name))


def check(name, predictions):
    model = DenseModel.from_parts(tiny(name), "upsample")
    step = model.backbone.stride
    draw = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 3, (1 + i % 3) * step, (1 + i % 2) * step, generator=draw) for i in range(predictions)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():
        expected = [model(image).pixels for image in images]
    start, failures = threading.Barrier(THREADS), []

    def work(first):
        start.wait()
        try:
            for turn in range(predictions):  # neighbours are at different sizes at the same time
                index = (first + turn) % predictions
                torch.testing.assert_close(model(images[index]).pixels, expected[index], rtol=1e-4, atol=1e-5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", [*(name for name in NAMES if name not in OF_ONE_CLASS), *FAMILIES])
def test_eight_threads_predict_what_one_does(name):
    check(name, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *FAMILIES])
def test_eight_threads_predict_what_one_does_fifty_times(name):
    check(name, 50)
