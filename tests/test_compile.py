"""torch.compile on the CPU: one graph, the same features."""

from unittest import mock

import pytest
import torch
from torch import _dynamo, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

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
        reference = model(IMAGE)
        output = torch.compile(model, backend="aot_eager", fullgraph=True)(IMAGE)
    assert torch.allclose(output.pixels, reference.pixels, atol=1e-5)
    assert torch.allclose(output.patches, reference.patches, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["tiny", *(pytest.param(n, marks=pytest.mark.slow) for n in ("upsample", "dpt", "vit"))]
)
def test_a_graph_on_a_device_waits_for_nothing_and_holds_nothing_of_the_host(name):
    """What a CUDA graph needs, on tensors that say they are on cuda:0 and hold no values; no GPU is asked for."""
    model = MODELS[name]().eval()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in model.modules():
            for key, value in module.named_parameters(recurse=False):
                fake = nn.Parameter(mode.from_tensor(value.data).to("cuda"), requires_grad=False)
                module.register_parameter(key, fake)
            for key, value in module.named_buffers(recurse=False):
                module._buffers[key] = mode.from_tensor(value).to("cuda")
        image = torch.empty(1, 3, 45, 70, device="cuda")
        with torch.no_grad(), mock.patch("torch.compiler.is_compiling", return_value=True):
            graph = make_fx(lambda x: (model(x).pixels, model(x).patches))(image).graph
    values = {node.name: node.meta["val"] for node in graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)}
    assert len(values) > 20
    assert [name for name, value in values.items() if value.device.type != "cuda"] == []
    assert not [node for node in graph.nodes if "_local_scalar" in str(node.target) or "nonzero" in str(node.target)]
