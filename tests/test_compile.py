"""torch.compile on the CPU: one graph, the same features."""

import pytest
import torch
from torch import _dynamo

from dense_ctx import AutoDenseModel
from dense_ctx.testing import tiny_model

IMAGE = torch.rand(1, 3, 45, 70, generator=torch.Generator().manual_seed(0))


def lite(decoder, **args):
    return AutoDenseModel.from_parts(
        "efficientnet-lite0", decoder, backbone_args={"weights": None, "layers": [0, 1]}, decoder_args=args
    )


def vit():
    options = {"weights": None, "depth": 2, "embed_dim": 48, "num_heads": 2, "layers": [0, 1], "img_size": 98}
    return AutoDenseModel.from_parts("dinov2-s14", "dpt", backbone_args=options, decoder_args={"dim": 6, "width": 8})


MODELS = {
    "tiny": tiny_model,
    "upsample": lambda: lite("upsample"),
    "dpt": lambda: lite("dpt", dim=6, width=8),
    "vit": vit,
}


@pytest.mark.parametrize(
    ("name", "train"),
    [
        ("tiny", False),
        ("tiny", True),
        *(pytest.param(n, True, marks=pytest.mark.slow) for n in ("upsample", "dpt", "vit")),
    ],
)
def test_the_forward_is_one_graph(name, train):
    _dynamo.reset()
    explained = _dynamo.explain(MODELS[name]().train(train))(IMAGE)
    assert [reason.reason for reason in explained.break_reasons] == []
    assert explained.graph_count == 1


def test_a_compiled_model_gives_the_same_features():
    _dynamo.reset()
    model = MODELS["tiny"]()
    with torch.no_grad():
        wanted = model(IMAGE)
        given = torch.compile(model, backend="aot_eager", fullgraph=True)(IMAGE)
    assert torch.allclose(given.pixels, wanted.pixels, atol=1e-5)
    assert torch.allclose(given.patches, wanted.patches, atol=1e-5)
