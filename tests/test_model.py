"""DenseModel: any size in, the same size out; frozen backbone; what trains."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

import dense_ctx
from dense_ctx import AutoDenseModel, DenseModel
from dense_ctx.errors import InputError
from dense_ctx.testing import tiny_model

VIT = {"weights": None, "depth": 4, "embed_dim": 24, "num_heads": 2}


@pytest.fixture(scope="module")
def vit():
    return AutoDenseModel.from_parts("dinov2-s14", "dpt", backbone_args=VIT, decoder_args={"dim": 6, "width": 8})


@pytest.fixture(scope="module")
def cnn():
    return AutoDenseModel.from_parts("efficientnet-lite0", "upsample")


@pytest.mark.parametrize("name", ["vit", "cnn"])
def test_size_in_is_size_out(name, request):
    model = request.getfixturevalue(name)
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 70), (70, 1), (14, 15), (13, 28), (32, 64), *rng.integers(1, 70, (12, 2)).tolist()]
    for height, width in sizes:
        with torch.inference_mode():
            features = model(torch.rand(1, 3, height, width))
        stride = model.backbone.stride
        assert features.pixels.shape == (1, model.dim, height, width)
        assert features.patches.shape[-2:] == (-(-height // stride), -(-width // stride))
        assert torch.isfinite(features.pixels).all()


def test_the_same_picture_in_every_form(cnn, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "i.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    with torch.inference_mode():
        results = [
            cnn(item).pixels
            for item in (array, tmp_path / "i.png", Image.fromarray(array), tensor, tensor[None].float() / 255)
        ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-5)


def test_a_list_of_different_sizes_gives_a_list(cnn):
    images = [torch.rand(3, 33, 47), np.zeros((20, 10, 3), np.uint8)]
    with torch.inference_mode():
        first, second = cnn(images)
        torch.testing.assert_close(first.pixels, cnn(images[0]).pixels)
    assert second.pixels.shape == (1, 496, 20, 10)
    pixels, patches, cls = second
    assert cls.shape == (1, 320)
    assert patches.shape == (1, 320, 1, 1)
    assert pixels.dtype == torch.float32


def test_batch_of_one_equals_batch_of_many(vit, cnn):
    images = torch.rand(3, 3, 45, 61)
    for model in (vit, cnn):
        with torch.inference_mode():
            together = model(images).pixels
            alone = torch.cat([model(image[None]).pixels for image in images])
        assert (together - alone).abs().max() <= 1e-5 * together.abs().max()


def test_free_output_size(vit):
    for size in ((1, 1), (9, 33), (90, 61)):
        assert vit(torch.rand(1, 3, 45, 61), size=size).pixels.shape == (1, 6, *size)
    with pytest.raises(InputError, match=r"size=\(0, 5\)"):
        vit(torch.rand(1, 3, 45, 61), size=(0, 5))


def test_backbone_stays_frozen_and_in_eval_inside_train(vit):
    model = DenseModel(vit.backbone, vit.decoder)
    model.train()
    assert model.decoder.training
    assert not any(module.training for module in model.backbone.modules())
    features, padded = model.encode(torch.rand(1, 3, 45, 61))
    assert not any(item.requires_grad for item in features.maps)
    model.decode(features, padded, (45, 61)).sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())
    model.zero_grad(set_to_none=True)
    model.eval()


def test_unfreeze_trains_what_it_names():
    model = AutoDenseModel.from_parts("dinov2-s14", "upsample", backbone_args=VIT)
    names = model.unfreeze(*model.backbone.blocks()[-2:])
    assert names
    assert all(name.startswith(("net.blocks.3.", "net.norm.")) for name in names)
    model.train()(torch.rand(1, 3, 28, 42)).pixels.sum().backward()
    trained = {name for name, p in model.backbone.named_parameters() if p.grad is not None}
    assert trained == set(names)
    with pytest.raises(InputError, match=r"no parameters under 'blocks\.9'.*net\.blocks\.0"):
        model.unfreeze("blocks.9")


def test_gradients_reach_the_image_when_asked(cnn):
    image = torch.rand(1, 3, 33, 47, requires_grad=True)
    cnn(image).pixels.sum().backward()
    assert image.grad.abs().sum() > 0


def test_no_graph_is_kept_unless_it_is_asked_for(vit):
    model = DenseModel(vit.backbone, vit.decoder)
    image = torch.rand(1, 3, 28, 42)
    for given in (image, image[0]):
        assert all(not item.requires_grad for item in model(given))
    assert torch.is_grad_enabled()
    trained = model.train()(image)
    assert trained.pixels.requires_grad
    assert not trained.patches.requires_grad  # the backbone is frozen
    with torch.no_grad():
        assert not model(image).pixels.requires_grad
    with pytest.raises(InputError, match=r"max_memory bounds a prediction.*model\.eval\(\)"):
        model(image, max_memory="1GB")
    model.eval()
    with pytest.raises(InputError, match="max_memory bounds a prediction"):
        model(image.requires_grad_(), max_memory="1GB")


def test_low_precision_stays_close():
    model = AutoDenseModel.from_parts("efficientnet-lite0", "upsample")
    image = torch.rand(1, 3, 45, 61)
    with torch.inference_mode():
        full = model(image).pixels
        half = model.to(torch.bfloat16)(image).pixels
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(full, half.float(), dim=1).mean() > 0.99


def test_bad_images_are_refused_by_the_model(cnn):
    for bad, message in (
        (torch.full((1, 3, 8, 9), float("nan")), "NaN"),
        (torch.rand(1, 3, 8, 9) * 255, "divide by 255"),
        (torch.rand(8, 9, 3), r"\[3, H, W\]"),
        (torch.rand(2, 8, 9, 3), "channels go first"),
        (None, "NoneType"),
    ):
        with pytest.raises(InputError, match=message):
            cnn(bad)


def test_public_names():
    assert dense_ctx.__version__
    assert {"AutoDenseModel", "InContext", "hookimpl"} <= set(dir(dense_ctx))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dense_ctx.nothing
    assert tiny_model().dim > 0


def test_a_decoder_whose_weights_were_loaded_is_not_fresh():
    """It stayed so: a training could have initialised trained weights from data."""
    one, other = tiny_model(), tiny_model()
    assert one.decoder.fresh
    one.load_state_dict(other.state_dict())
    assert not one.decoder.fresh
    assert not DenseModel(one.backbone, one.decoder).decoder.fresh  # the same weights in another model
    assert not copy.deepcopy(one).decoder.fresh
    other.decoder.load_state_dict(one.decoder.state_dict())
    assert not other.decoder.fresh
    third = tiny_model()
    third.backbone.load_state_dict(one.backbone.state_dict())
    assert third.decoder.fresh
    parts = AutoDenseModel.from_pretrained("lila-lite0")
    assert not DenseModel(parts.backbone, parts.decoder).decoder.fresh
