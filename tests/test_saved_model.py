"""`model:NAME`, a saved model as a backbone: its maps; saved by name and digest, or whole."""

import json
import shutil

import pytest
import torch
from chained_models import DPT, LITE, learned_model, pixels, state, upon
from safetensors.torch import load_file, save_file

from dense_ctx import AutoDenseModel, create_backbone
from dense_ctx.errors import InputError, WeightsError
from dense_ctx.testing import check_backbone

VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return learned_model(tmp_path_factory.mktemp("learned") / "a")


@pytest.fixture
def vit(tmp_path):
    """Arguments of a small ViT whose weights lie in a file."""
    torch.manual_seed(1)
    net = create_backbone("dino-s16", weights=None, **VIT).net
    save_file(net.state_dict(), tmp_path / "vit.safetensors")
    return {**VIT, "weights": str(tmp_path / "vit.safetensors")}


# ---------------------------------------------------------------------- the maps


@pytest.mark.parametrize("maps", ["backbone", "decoder", "both"])
def test_contract(learned, maps):
    assert "blocks" in check_backbone(f"model:{learned}", args={"maps": maps})
    assert "batch" in check_backbone(f"model:{learned}", args={"maps": maps, "weights": "pretrained"})


def test_maps_and_preprocessing_are_the_models_own(learned):
    model = AutoDenseModel.from_pretrained(learned)
    bare = model.backbone
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = bare(images)
        decoded = model.decoder(features, images, (16, 24))
        out = {maps: create_backbone(f"model:{learned}", maps=maps) for maps in ("backbone", "decoder", "both")}
        maps = {name: backbone(images) for name, backbone in out.items()}
    for backbone in out.values():
        assert (backbone.mean, backbone.std, backbone.stride) == (bare.mean, bare.std, bare.stride)
        assert backbone.image_size == bare.image_size
        assert not backbone.training
    assert all(torch.equal(a, b) for a, b in zip(maps["backbone"].maps, features.maps, strict=True))
    assert torch.equal(maps["decoder"].maps[0], decoded)
    assert torch.equal(maps["decoder"].cls, features.cls)
    assert [m.shape[1] for m in maps["both"].maps] == [5, 24, 40, 112, 320]
    assert out["both"].strides == (4, 4, 8, 16, 32)
    assert torch.equal(maps["both"].maps[0], decoded)
    assert all(torch.equal(a, b) for a, b in zip(maps["both"].maps[1:], features.maps, strict=True))


def test_the_decoder_is_read_where_it_has_learned(learned, tmp_path):
    assert create_backbone(f"model:{learned}").maps == "decoder"
    plain = AutoDenseModel.from_parts(LITE, "upsample").save_pretrained(tmp_path / "plain")
    assert create_backbone(f"model:{plain}").maps == "backbone"


def test_stride_of_the_decoders_map(learned, vit, tmp_path):
    for stride in (1, 2, 16, 32):
        backbone = create_backbone(f"model:{learned}", stride=stride)
        assert backbone.strides == (stride,)
        assert backbone(torch.zeros(1, 3, 32, 64)).maps[0].shape == (1, 5, 32 // stride, 64 // stride)
    odd = AutoDenseModel.from_parts("dinov2-s14", "dpt", backbone_args={**VIT, "weights": None}, decoder_args=DPT)
    assert create_backbone(f"model:{odd.save_pretrained(tmp_path / 'odd')}").strides == (7,)
    with pytest.raises(InputError, match=r"stride=3 does not divide.*\[1, 2, 4, 8, 16, 32\]"):
        create_backbone(f"model:{learned}", stride=3)
    with pytest.raises(InputError, match="stride=4 is of the decoder's map"):
        create_backbone(f"model:{learned}", stride=4, maps="backbone")


def test_bad_arguments(learned):
    with pytest.raises(InputError, match="maps is 'all'; expected one of backbone, decoder, both"):
        create_backbone(f"model:{learned}", maps="all")
    with pytest.raises(InputError, match=r"weights='vit\.pth': model:.* brings its own"):
        create_backbone(f"model:{learned}", weights="vit.pth")


# ---------------------------------------------------------------------- saved by name and digest, or whole


@pytest.mark.parametrize("maps", [None, "backbone", "decoder", "both"])
@pytest.mark.parametrize("standalone", [False, True])
def test_saved_and_reopened(learned, tmp_path, maps, standalone):
    args = {} if maps is None else {"maps": maps}
    model = AutoDenseModel.from_parts(f"model:{learned}", "upsample", backbone_args=args)
    folder = model.save_pretrained(tmp_path / "b", standalone=standalone)
    again = AutoDenseModel.from_pretrained(folder)
    assert torch.equal(pixels(again), pixels(model))
    stored = json.loads((folder / "config.json").read_text())["backbone"]["args"]
    assert stored["maps"] == maps or (maps is None and stored["maps"] == "decoder")
    assert ("digest" in stored, "config" in stored) == (not standalone, standalone)
    assert bool(load_file(folder / "model.safetensors")) == standalone
    second = again.save_pretrained(tmp_path / "again")
    assert (second / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_standalone_needs_no_middle_link_and_no_pretrained_weights(tmp_path, monkeypatch):
    first = AutoDenseModel.from_parts(LITE, "dpt", decoder_args=DPT).save_pretrained(tmp_path / "a")
    second = AutoDenseModel.from_parts(f"model:{first}", "dpt", decoder_args=DPT).save_pretrained(tmp_path / "b")
    third = AutoDenseModel.from_parts(f"model:{second}", "upsample", backbone_args={"maps": "both", "stride": 2})
    folder = third.save_pretrained(tmp_path / "c", standalone=True)
    shutil.rmtree(first)
    shutil.rmtree(second)
    from dense_ctx_backbones import efficientnet_lite

    def gone(model):
        raise WeightsError("no weights today")

    monkeypatch.setattr(efficientnet_lite, "packaged_state", gone)
    again = AutoDenseModel.from_pretrained(folder)
    assert torch.equal(pixels(again), pixels(third))
    assert torch.equal(pixels(AutoDenseModel.from_pretrained(again.save_pretrained(tmp_path / "d"))), pixels(third))


def test_three_models_with_lora_below(vit, tmp_path):
    base = AutoDenseModel.from_parts("lora:dino-s16", "upsample", backbone_args={"args": vit, "rank": 2})
    base.unfreeze(*base.backbone.adapters())
    with torch.no_grad():
        for name, parameter in base.backbone.named_parameters():
            if name in base.backbone.adapters():
                parameter.add_(0.05)
    first = base.save_pretrained(tmp_path / "dip")
    assert all(".lora_" in key for key in load_file(first / "model.safetensors"))
    second = upon(first, "lila", "dpt", decoder_args=DPT)
    third = AutoDenseModel.from_parts(f"model:{second}", "upsample")
    assert torch.equal(third.backbone.backbone.backbone.net.net.norm.weight, base.backbone.net.net.norm.weight)
    assert third.backbone.adapters() == []  # what a saved model has learned stays
    assert [link.folder for link in third.backbone.links] == [second, first]
    for standalone in (False, True):
        again = AutoDenseModel.from_pretrained(third.save_pretrained(tmp_path / "top", standalone=standalone))
        assert torch.equal(pixels(again), pixels(third))


def test_lora_on_a_model(vit, tmp_path):
    first = AutoDenseModel.from_parts("dino-s16", "dpt", backbone_args=vit, decoder_args=DPT)
    folder = first.save_pretrained(tmp_path / "a")
    model = AutoDenseModel.from_parts(f"lora:model:{folder}", "upsample", backbone_args={"rank": 2})
    bare = AutoDenseModel.from_parts(f"model:{folder}", "upsample")
    assert torch.equal(pixels(model), pixels(bare))  # new adapters change nothing
    model.unfreeze(*model.backbone.adapters())
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    assert not torch.equal(pixels(model), pixels(bare))
    for standalone in (False, True):
        saved = model.save_pretrained(tmp_path / "b", standalone=standalone)
        assert torch.equal(pixels(AutoDenseModel.from_pretrained(saved)), pixels(model))
    shutil.rmtree(folder)
    assert torch.equal(pixels(AutoDenseModel.from_pretrained(saved)), pixels(model))


def test_lora_on_a_model_with_lora(vit, tmp_path):
    """The earlier adapters are part of the model: what trains are new ones."""
    base = AutoDenseModel.from_parts("lora:dino-s16", "upsample", backbone_args={"args": vit, "rank": 2})
    base.unfreeze(*base.backbone.adapters())
    with torch.no_grad():
        for name in base.backbone.adapters():
            base.backbone.get_parameter(name).add_(0.2)
    folder = base.save_pretrained(tmp_path / "a")
    model = AutoDenseModel.from_parts(f"lora:model:{folder}", "upsample", backbone_args={"rank": 3})
    torch.testing.assert_close(pixels(model), pixels(base))
    names = model.backbone.adapters()
    assert len(names) == len(base.backbone.adapters())
    assert {min(model.backbone.get_parameter(name).shape) for name in names} == {3}
    model.unfreeze(*names)
    with torch.no_grad():
        for name in names:
            model.backbone.get_parameter(name).add_(0.2)
    assert not torch.allclose(pixels(model), pixels(base))
    for standalone in (False, True):
        saved = model.save_pretrained(tmp_path / "b", standalone=standalone)
        assert torch.equal(pixels(AutoDenseModel.from_pretrained(saved)), pixels(model))
        assert standalone or set(load_file(saved / "model.safetensors")) == {f"backbone.{name}" for name in names}


def test_what_is_unfrozen_is_stored_under_its_name_through_the_chain(learned, tmp_path):
    middle = AutoDenseModel.from_parts(f"model:{learned}", "upsample").save_pretrained(tmp_path / "b")
    model = AutoDenseModel.from_parts(f"model:{middle}", "upsample", backbone_args={"maps": "decoder"})
    assert model.backbone.blocks()[-1] == "backbone.decoder"
    names = model.unfreeze("backbone.backbone.net.blocks.6", "backbone.decoder.project")
    with torch.no_grad():
        for name, parameter in model.backbone.named_parameters():
            if name in names:
                parameter.mul_(1.1)
    folder = model.save_pretrained(tmp_path / "c")
    assert set(load_file(folder / "model.safetensors")) == {f"backbone.{name}" for name in names}
    again = AutoDenseModel.from_pretrained(folder)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in state(model).items())
    assert not any(p.requires_grad for p in again.backbone.parameters())


def test_a_model_made_of_names_says_what_it_opened(learned):
    args = AutoDenseModel.from_parts(f"model:{learned}").model_config.backbone.args
    assert args["maps"] == "decoder"
    assert args["stride"] == 4
    assert create_backbone(f"model:{learned}", **args).digest == args["digest"]


def test_card_names_the_chain(learned, tmp_path):
    middle = AutoDenseModel.from_parts(f"model:{learned}").save_pretrained(tmp_path / "b")
    top = AutoDenseModel.from_parts(f"model:{middle}")
    card = (top.save_pretrained(tmp_path / "c") / "README.md").read_text()
    assert f"fetched from its own home, model:{middle}, which is built on `{learned}`." in card
    card = (top.save_pretrained(tmp_path / "d", standalone=True) / "README.md").read_text()
    assert "Backbone: all of it stored here." in card
