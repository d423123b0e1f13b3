import torch
from dense_ctx_lila.cue_cache import CueCache, plan_cues
from dense_ctx_lila.cues.base import create_cue
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


def test_cue_finds_the_slope_of_a_ramp_and_is_cached(tmp_path):
    width, height = 56, 40
    ramp = torch.arange(width).float().div(width - 1).expand(1, 3, height, width)
    edges, flat = create_cue("template-edges")(ramp, torch.zeros_like(ramp))
    assert torch.allclose(edges[:, 0, :, 1:-1], torch.tensor(1 / (width - 1)), atol=1e-6)
    assert not edges[:, 1].any()
    assert not flat.any()
    (tmp_path / "clip").mkdir()
    for number in range(2):
        pixels = (ramp[0].permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "clip" / f"{number}.png")
    plan_cues([tmp_path / "clip"], ["template-edges"], tmp_path / "cache").run()
    context, query = CueCache(tmp_path / "cache", ["template-edges"]).get("clip", 0, 1)
    assert torch.allclose(context, edges[0], atol=0.005)  # 8 bits an image
    assert torch.equal(context, query)


def test_names_are_ours():
    for kind, name in (("decoder", "template-conv"), ("objective", "template-colours"), ("cue", "template-edges")):
        entry, _ = registry().get(kind, name)
        assert entry.owner.distribution == "dense-ctx-template"
