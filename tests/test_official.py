"""Authors' checkpoints of DIP and FlowFeat: every tensor of them, the command that converts them, the short names."""

import json
import re
from pathlib import Path

import pytest
import torch
from dense_ctx_dip.convert import from_dip
from dense_ctx_dip.projector import Projector
from dense_ctx_dpt.convert import from_flowfeat
from dense_ctx_dpt.dpt import DPT
from evaluation_data import image_folder
from safetensors.torch import load_file

import dense_ctx
from dense_ctx import AutoDenseModel, create_backbone, registry
from dense_ctx.cli import main
from dense_ctx.errors import CheckpointError, FileError, UnknownNameError, WeightsError
from dense_ctx.evaluate import evaluate
from dense_ctx.hookspecs import HUB_OWNER
from dense_ctx.model_spec import open_model

TINY = "depth=4, embed_dim=24, num_heads=2, img_size=70"
ORACLES = Path(__file__).parent / "oracles"


def randomised(backbone):
    with torch.no_grad():
        for key, value in backbone.net.state_dict().items():
            value.copy_(0.2 * torch.randn(value.shape) + ("norm" in key))
    return {key: value.clone() for key, value in backbone.net.state_dict().items()}


def network(name):
    return create_backbone(name, weights=None, depth=4, embed_dim=24, num_heads=2, img_size=70)


def dip(layout):
    torch.manual_seed(0)
    encoder = randomised(network("dinov2-reg-s14"))
    encoder["register_tokens"] = encoder.pop("reg_token")
    encoder["pos_embed"] = torch.cat([torch.randn(1, 1, 24), encoder["pos_embed"]], 1)
    encoder["mask_token"] = torch.randn(1, 24)
    state = {f"feats_extractor.{layout}.{key}": value for key, value in encoder.items()}
    for key, value in Projector(24, 7, 12).state_dict().items():
        state[f"enc_norm.{key[5:]}" if key.startswith("norm.") else f"projector.{key}"] = value
    return {f"module.{key}": value for key, value in state.items()}


NAMES = (("reassemble.0.", "act_postprocess1.post."), ("reassemble.1.", "act_postprocess2.post."),
         ("reassemble.2.", "act_postprocess3.post."), ("reassemble.3.", "act_postprocess4.post."),
         ("lateral.0", "scratch.layer1_rn"), ("lateral.1", "scratch.layer2_rn"), ("lateral.2", "scratch.layer3_rn"),
         ("lateral.3", "scratch.layer4_rn"), ("head.", "scratch.output_conv0."), ("project.", "scratch.output_conv1."),
         ("norm.", "norm.norm."), *((f"{ours}.{level}.", f"scratch.refinenet{level + 1}.resConfUnit{theirs}.")
                                    for level in range(4) for ours, theirs in (("skip", 1), ("fuse", 2))))  # fmt: skip


def flowfeat():
    """DINOv2's encoder and the official decoder's names; the unit that it stores and never uses."""
    torch.manual_seed(0)
    encoder = randomised(network("dinov2-s14")) | {"mask_token": torch.randn(1, 24)}
    decoder = DPT((24,) * 4, (14,) * 4, dim=8, width=8, projections=(24,) * 4)
    state = {f"encoder.{key}": value for key, value in encoder.items()}
    for key, value in decoder.state_dict().items():
        theirs = next(new + key.removeprefix(old) for old, new in NAMES if key.startswith(old))
        state[f"decoder.{theirs}"] = torch.randn(value.shape) * 0.2 + ("norm" in key)
    for conv in (1, 2):
        unit = f"decoder.scratch.refinenet4.resConfUnit1.conv{conv}"
        state |= {f"{unit}.weight": torch.randn(8, 8, 3, 3), f"{unit}.bias": torch.randn(8)}
    return state


def test_the_names_of_this_test_are_the_official_ones():
    official = load_file(str(ORACLES / "dpt_p14_state.safetensors"))
    assert {key.removeprefix("decoder.") for key in flowfeat() if key.startswith("decoder.")} == set(official)


FORMATS = {
    "dip, feats_extractor.model": (lambda: dip("model"), from_dip, f"dinov2-reg-s14({TINY})"),
    "dip, feats_extractor.encoder": (lambda: dip("encoder"), from_dip, f"dinov2-reg-s14({TINY})"),
    "flowfeat": (flowfeat, from_flowfeat, f"dinov2-s14({TINY})"),
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_tensor_matters_or_is_listed_as_unused(tmp_path, form):
    make, convert, backbone = FORMATS[form]
    image = torch.rand(1, 3, 28, 56)

    def converted(state):
        torch.save({"model": state, "epoch": 4}, tmp_path / "w.pth")
        model = convert(tmp_path / "w.pth", backbone=backbone)
        with torch.inference_mode():
            features = model(image)
        values = (features.pixels, features.patches, features.cls)
        return torch.cat([value.flatten() for value in values]), model.model_config.trained_with["unused"]

    state = make()
    before, unused = converted(state)
    assert unused
    for name, value in state.items():
        after, _ = converted(state | {name: value + torch.randn(value.shape)})
        same = torch.allclose(after, before, rtol=0, atol=1e-6)
        assert same == (name.removeprefix("module.") in unused), name


def test_flowfeat_from_file_to_folder_to_evaluation(tmp_path, capsys):
    """The maps are those before the final norm; the decoder is the file's; the folder opens and is evaluated."""
    torch.save(flowfeat(), tmp_path / "ff.pth")
    out = str(tmp_path / "ff")
    assert main(["convert", "flowfeat", str(tmp_path / "ff.pth"), "--out", out, f"backbone=dinov2-s14({TINY})"]) == 0
    printed = capsys.readouterr().out
    assert "encoder.mask_token" in printed
    assert "decoder.scratch.refinenet4.resConfUnit1.conv1.bias" in printed
    config = json.loads((tmp_path / "ff/config.json").read_text())
    assert config["backbone"]["args"]["norm"] is False
    assert (config["decoder"]["args"]["dim"], config["decoder"]["args"]["width"]) == (8, 8)
    model = AutoDenseModel.from_pretrained(out)
    image = torch.rand(1, 3, 56, 84)
    raw = create_backbone("dinov2-s14", weights=None, norm=False, depth=4, embed_dim=24, num_heads=2, img_size=70)
    raw.load_state_dict(model.backbone.state_dict())
    shift, scale = (torch.tensor(values)[:, None, None] for values in (raw.mean, raw.std))
    maps = raw((image - shift) / scale)
    assert torch.equal(model(image).patches, maps.maps[-1])
    official = {key.removeprefix("decoder."): value for key, value in flowfeat().items() if key.startswith("decoder.")}
    from dense_ctx_dpt.convert import flowfeat_decoder

    expected = flowfeat_decoder(official)(maps, image, (56, 84))
    torch.testing.assert_close(model(image).pixels, expected, rtol=1e-4, atol=1e-5)
    again = model.save_pretrained(tmp_path / "again")
    assert torch.equal(AutoDenseModel.from_pretrained(again)(image).pixels, model(image).pixels)
    small = ["image.size=[56,56]", "grid=8", "train.steps=3", "train.batch=2", "data.options.classes=4"]
    data = image_folder(tmp_path / "data")
    result = evaluate(model, "image-folder-linear-grid4-v1", data, tmp_path / "run", overrides=small)
    assert 0 < result.value <= 1


@pytest.mark.parametrize(
    ("encoder", "projections", "name"),
    [("dinov2", 384, "dinov2-s14"), ("dino", 768, "dino-b16"), ("mae", 96, "mae-b16"), ("dino", 384, "dino-s16")],
)
def test_flowfeats_backbone_is_told_by_its_tensors(encoder, projections, name):
    from dense_ctx_dpt.convert import _backbone_of

    width = 384 if name.split("-")[1][0] == "s" else 768
    tensors = {"patch_embed.proj.weight": torch.empty(width, 3, *[int(name[-2:])] * 2)}
    if encoder == "dinov2":
        tensors["blocks.0.ls1.gamma"] = torch.empty(width)
    head = DPT((width,) * 4, (14,) * 4, dim=8, width=8, projections=(projections, 192, 384, 768))
    assert _backbone_of(tensors, head, Path("x")) == name


def test_bad_checkpoints_say_what_they_are(tmp_path):
    path = tmp_path / "w.pth"
    cases = [
        (from_dip, dip("model") | {"third.weight": torch.ones(1)}, r"not known to be unused: third\.weight"),
        (from_dip, dip("model") | dip("encoder"), r"feats_extractor\.model\.\* and feats_extractor\.encoder\.\*"),
        (from_dip, dip("model"), "width 24 is none of"),
        (from_flowfeat, flowfeat(), "width 24 and patches of 14 pixels; give backbone=NAME"),
        (from_flowfeat, flowfeat() | {"third.weight": torch.ones(1)}, r"tensors not known to be unused, third\.weight"),
        (from_flowfeat, {"decoder.x": torch.ones(1)}, r"no encoder\.\*: not a FlowFeat checkpoint"),
    ]
    for convert, state, message in cases:
        torch.save(state, path)
        with pytest.raises(CheckpointError, match=message):
            convert(path)
    torch.save(flowfeat(), path)
    wide = from_flowfeat_wide(tmp_path)
    with pytest.raises(CheckpointError, match=r"its decoder does not fit maps of \[32"):
        from_flowfeat(wide, backbone="dinov2-s14(depth=4, embed_dim=32, num_heads=2, img_size=70)")
    with pytest.raises(WeightsError, match="another shape"):
        from_flowfeat(path, backbone="dinov2-s14(depth=4, embed_dim=32, num_heads=2, img_size=70)")
    torch.save({"epoch": 1}, path)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        from_dip(path)


EXTRA = {"a.weight": torch.ones(3)}
BESIDE = {
    "a second copy": (lambda own, other: {"model": own, "model_ema": other}, "model_ema"),
    "two wrappers": (lambda own, other: {"model": own, "state_dict": other}, "two tensors of one name"),
    "a mapping": (lambda own, _: {"model": own, "adapters": EXTRA}, r"adapters\.a\.weight"),
    "a list": (lambda own, _: {"model": own, "adapters": [torch.ones(3)]}, r"adapters\.0"),
    "within the network": (lambda own, _: {"model": {**own, "adapters": {"b": EXTRA}}}, r"adapters\.b\.a\.weight"),
    "a list within the network": (lambda own, _: {"model": {**own, "adapters": (torch.ones(3),)}}, r"adapters\.0"),
    "a tensor": (lambda own, _: {"model": own, "bias": torch.ones(3)}, "bias"),
    "like training's": (lambda own, _: {"model": own, "random_net": EXTRA}, r"random_net\.a\.weight"),
    "with and without module.": (
        lambda own, other: {"model": own | {f"module.{key}": value for key, value in other.items()}},
        r"two tensors of one name, model\.(\S+) and model\.module\.\1",
    ),
    "dotted and nested": (
        lambda own, _: {"model": own, "a": {"b": torch.ones(1)}, "a.b": torch.ones(1)},
        r"two tensors of one name, a\.b and a\.b",
    ),
}


@pytest.mark.parametrize("form", ["dip, feats_extractor.model", "flowfeat"])
@pytest.mark.parametrize("beside", BESIDE)
def test_no_tensor_beside_or_within_the_network_is_left_in_silence(tmp_path, form, beside):
    """Before, the first wrapper's own tensors were taken and the rest was not mentioned."""
    make, convert, backbone = FORMATS[form]
    state = {key.removeprefix("module."): value for key, value in make().items()}
    saved, message = BESIDE[beside]
    torch.save(saved(state, {key: value + 1 for key, value in state.items()}), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "w.pth", backbone=backbone)


@pytest.mark.parametrize("wrap", [lambda own: own, lambda own: {"state_dict": own}, lambda own: {"model": own}])
def test_what_training_goes_on_with_is_no_part_of_the_network(tmp_path, wrap):
    saved = wrap(dip("model"))
    if len(saved) == 1:
        training = {"optimizer": {"state": {0: EXTRA}}, "lr_scheduler": {"base": torch.ones(2)},
                    "best": torch.tensor(0.5), "scaler": {"scale": torch.ones(1)}, "epoch": 4,
                    "cuda_rng_state": [torch.ones(4)]}  # fmt: skip
        saved |= training | {"optimizer_state_dict": training["optimizer"]}
    torch.save(saved, tmp_path / "w.pth")
    assert from_dip(tmp_path / "w.pth", f"dinov2-reg-s14({TINY})").backbone.dims == (24,) * 4


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_that_the_encoder_leaves_out_are_printed(tmp_path, capsys, form):
    make, _, backbone = FORMATS[form]
    state = make()
    block = next(key for key in state if key.endswith("blocks.0.norm1.weight"))
    names = [block.replace("blocks.0.norm1.weight", f"{part}.adapter") for part in ("head", "decoder")]
    torch.save({"model": state | {name: torch.ones(3) for name in names}}, tmp_path / "w.pth")
    command = ["convert", form.partition(",")[0], str(tmp_path / "w.pth"), "--out", str(tmp_path / "out")]
    assert main([*command, f"backbone={backbone}"]) == 0
    printed = capsys.readouterr().out.partition("No feature depends on")[2].replace(",", "").split()
    for name in names:
        assert name.removeprefix("module.") in printed
    assert not [name for name in printed if "blocks." in name]


def from_flowfeat_wide(folder):
    """An encoder of width 32 beside a decoder for 24."""
    wide = create_backbone("dinov2-s14", weights=None, depth=4, embed_dim=32, num_heads=2, img_size=70)
    state = {key: value for key, value in flowfeat().items() if key.startswith("decoder.")}
    torch.save(state | {f"encoder.{key}": value for key, value in wide.net.state_dict().items()}, folder / "wide.pth")
    return folder / "wide.pth"


def test_convert_writes_nothing_over_something(tmp_path, capsys):
    torch.save(dip("model"), tmp_path / "w.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    words = ["convert", "dip", str(tmp_path / "w.pth"), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert main(["convert", "dop", *words[2:-1], str(tmp_path / "new")]) == 2
    assert "Closest: dip" in capsys.readouterr().err
    with pytest.raises(FileError, match="No checkpoint at"):
        from_dip(tmp_path / "nothing.pth")


UNPUBLISHED = [entry.name for entry in registry().entries("model") if "unpublished" in entry.args]


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_short_names_without_weights_say_how_to_get_them(name, monkeypatch):
    """At once, and without a word to the network."""
    import socket

    def offline(*_, **__):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "socket", offline)
    with pytest.raises(WeightsError) as caught:
        AutoDenseModel.from_pretrained(name)
    text = str(caught.value)
    assert f"'{name}' has no published weights" in text
    if name.startswith("lila"):
        assert f"`dense-ctx train {name} " in text
    else:
        kind = name.partition("-")[0]
        assert f"`dense-ctx convert {kind} " in text
        assert f"--out {name}`" in text
        assert "sha256" in text


def error_of(spec):
    with pytest.raises((UnknownNameError, WeightsError)) as caught:
        open_model(spec)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted({*registry().names("preset")} - {*UNPUBLISHED, *registry().names("model")}))
def test_a_presets_name_in_a_models_place_says_what_it_is_and_how_to_run_it(name):
    verb = "bench" if name.startswith("maxa") else "train" if "tasks" not in name else "pseudo-label"
    run = "adapt CLIP" if name == "lila-adapt" else rf"{verb} .*{name}"
    for text in (error_of(name), error_of(f"model:{name}")):
        assert f"'{name}' is a preset, not a model: `" in text
        assert re.search(rf"(dense-ctx|dense_ctx\.cli) {run} .*` runs it", text), text
        assert "Did you mean" not in text
    assert f"{name} is a preset, not a backbone: `dense-ctx train {name} --list`" in error_of(f"{name}+dpt")
    assert main(["train", name, "--list"]) == 0


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_a_short_name_without_weights_is_not_answered_with_its_neighbours(name):
    text = error_of(name)
    assert "has no published weights" in text
    assert "Did you mean" not in text
    assert error_of(f"{name}+dpt").endswith(f"A saved model as a backbone is written model:{name}")
    if name in registry().names("preset"):
        assert f"`dense-ctx train {name} " in text
        assert "official preset" in text


def test_short_names_stand_for_what_is_said_of_them():
    """The presets that the messages name exist."""
    assert {name for name in UNPUBLISHED if not name.startswith("flowfeat")} <= set(registry().names("preset"))
    assert len(UNPUBLISHED) == 12


def test_the_owner_of_the_hub_repositories_is_one_constant():
    homes = [
        e.target
        for e in registry().entries("model")
        if e.target.startswith("hub:") and e.owner.distribution == "dense-ctx"
    ]
    assert len(homes) >= len(UNPUBLISHED)
    assert all(home.startswith(f"hub:{HUB_OWNER}/") for home in homes)
    root = Path(dense_ctx.__file__).parent.parent
    if (root / "plugins").is_dir():  # a source tree
        sources = [*root.glob("dense_ctx/**/*.py"), *root.glob("plugins/**/*.py")]
        assert not [p for p in sources if f"hub:{HUB_OWNER}" in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize(("width", "registers", "name"), [
    (384, True, "dinov2-reg-s14"), (768, True, "dinov2-reg-b14"), (768, False, "dinov2-b14"),
])  # fmt: skip
def test_dips_backbone_is_told_by_its_tensors(tmp_path, monkeypatch, width, registers, name):
    from dense_ctx_dip import convert

    state = {"feats_extractor.encoder.cls_token": torch.zeros(1, 1, width)}
    if registers:
        state["feats_extractor.encoder.register_tokens"] = torch.zeros(1, 4, width)
    torch.save(state, tmp_path / "w.pth")
    monkeypatch.setattr(convert, "official_model", lambda path, backbone, *_: backbone)
    assert from_dip(tmp_path / "w.pth").name == name
