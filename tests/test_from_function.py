"""A plain function in place of a model: what retrieval reads from it is what the same network as a backbone gives."""

from pathlib import Path

import pytest
import torch
from dense_ctx_backbones.from_function import FunctionBackbone, model_from_function
from evaluation_data import image_folder
from test_retrieval_evaluation import protocol

from dense_ctx import AutoDenseModel
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.evaluate import evaluate

VIT = {"weights": None, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32}


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return AutoDenseModel.from_parts("timm:vit_tiny_patch16_224", "upsample", backbone_args=VIT)


def test_a_function_measures_as_its_network_does(tmp_path, vit):
    """Tokens with their class token in front, on images that have to be padded to the stride."""
    net = vit.backbone.net
    model = model_from_function(net.forward_features, 16, mean=vit.backbone.mean, std=vit.backbone.std)
    image = torch.rand(2, 3, 40, 70)
    ours, theirs = model(image, size=(5, 9)), vit(image, size=(5, 9))
    assert ours.patches.shape == (2, 32, 3, 5)
    assert torch.allclose(ours.patches, theirs.patches, atol=1e-6)
    assert ours.extent == theirs.extent
    image_folder(tmp_path / "data", train=4, val=2)
    file = protocol(tmp_path, "voc2012-retrieval-v1", {"name": "image-folder", "train": "train", "val": "val"})
    results = [evaluate(each, file, tmp_path / "data", tmp_path / name) for each, name in ((model, "f"), (vit, "vit"))]
    assert results[0].value == pytest.approx(results[1].value, abs=1e-9)
    assert results[0].model["weights"].startswith("function ")


@pytest.mark.parametrize("attention", [None, torch.zeros(2, 3)])
def test_open_hummingbird_s_function_as_it_is(vit, attention):
    """fn(model, images) -> (tokens without the class token, attention or None)."""

    def function(network, images):
        return network.forward_features(images)[:, 1:], attention

    net = vit.backbone.net.train()
    model = model_from_function(function, 16, mean=vit.backbone.mean, std=vit.backbone.std, network=net)
    assert not net.training
    image = torch.rand(2, 3, 32, 48)
    assert torch.allclose(model(image).patches, vit(image).patches, atol=1e-6)
    with pytest.raises(TypeError):
        model_from_function(function, 16)  # without the network there is one argument


def test_maps_are_taken_too(vit):
    def function(images):
        return torch.nn.functional.avg_pool2d(images, 8)

    output = FunctionBackbone(function, 8)(torch.rand(2, 3, 16, 24))
    assert [item.shape for item in output.maps] == [(2, 3, 2, 3)]
    assert output.cls.shape == (2, 3)
    assert torch.equal(model_from_function(function, 8)(torch.ones(1, 3, 16, 24)).patches, torch.ones(1, 3, 2, 3))


def test_two_functions_are_not_one_evaluation(tmp_path):
    image_folder(tmp_path / "data", train=2, val=1)
    file = protocol(tmp_path, "voc2012-retrieval-v1", {"name": "image-folder", "train": "train", "val": "val"})
    average, largest = (
        model_from_function(lambda x, pool=pool: pool(x, 8), 8)
        for pool in (torch.nn.functional.avg_pool2d, torch.nn.functional.max_pool2d)
    )
    evaluate(average, file, tmp_path / "data", tmp_path / "run")
    with pytest.raises(ConfigError, match="model_digest"):
        evaluate(largest, file, tmp_path / "data", tmp_path / "run")


def test_faults():
    with pytest.raises(InputError, match=r"gave \[1, 3\] for images .* expected tokens \[B, N, C\]"):
        model_from_function(lambda x: x.mean((2, 3)), 8)
    with pytest.raises(InputError, match=r"gave 4 tokens for .*; at stride 8 there are 4 x 4\. Is the stride right"):
        model_from_function(lambda x: torch.zeros(len(x), 4, 5), 8)
    with pytest.raises(InputError, match=r"gave maps of \[32, 32\]"):
        model_from_function(lambda x: x, 8)
    with pytest.raises(InputError, match=r"gave tuple for images"):
        model_from_function(lambda x: (x, x, x), 8)
    with pytest.raises(InputError, match="stride=0"):
        model_from_function(lambda x: x, 0)


def test_the_example_of_the_page_takes_open_hummingbird_s_function():
    page = (Path(__file__).parents[1] / "docs" / "retrieval.md").read_text(encoding="utf-8")
    (block,) = [part.partition("```")[0] for part in page.split("```python\n") if "def fn(model, imgs)" in part[:900]]
    names = {}
    exec(block, names)
    image = torch.rand(1, 3, 64, 96)
    features = names["hummingbird"](image)
    assert features.patches.shape == (1, 192, 4, 6)
    tokens, _ = names["fn"](names["network"].eval(), (image - 0.5) / 0.5)
    torch.testing.assert_close(features.patches, tokens.detach().movedim(1, 2).reshape(1, 192, 4, 6))


def test_a_stride_too_large_for_the_tokens_is_refused():
    def tokens(images):
        return torch.rand(len(images), (images.shape[-2] // 8) * (images.shape[-1] // 8), 4)

    assert model_from_function(tokens, 8)(torch.rand(1, 3, 64, 96)).patches.shape == (1, 4, 8, 12)
    with pytest.raises(InputError, match=r"72 more than the 4 x 6 at stride 16; .* Is the stride right\?"):
        model_from_function(tokens, 16)(torch.rand(1, 3, 64, 96))
