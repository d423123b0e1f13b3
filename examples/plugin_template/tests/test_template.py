import torch
from PIL import Image

from dense_ctx import DenseModel, create_decoder, registry
from dense_ctx.testing import TinyBackbone, check_decoder, check_objective


def test_decoder_keeps_the_contract():
    check_decoder("template-conv")


def test_objective_keeps_the_contract_and_trains(tmp_path):
    for number in range(4):
        colours = torch.randint(0, 255, (40, 56, 3), generator=torch.Generator().manual_seed(number))
        Image.fromarray(colours.byte().numpy()).save(tmp_path / f"{number}.png")
    backbone = TinyBackbone()
    model = DenseModel(backbone, create_decoder("template-conv", backbone, dim=8))
    clauses = check_objective("template-colours", tmp_path, args={"dim": 8}, model=model, steps=2)
    assert "step" in clauses


def test_names_are_ours():
    entry, _ = registry().get("decoder", "template-conv")
    assert entry.owner.distribution == "dense-ctx-template"
