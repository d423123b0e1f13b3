"""Adapters that peft made outside: saved with a model, attached from a folder, merged, listed; and what is refused."""

import json
import shutil
import warnings

import peft
import pytest
import timm
import torch
from dense_ctx_backbones.adapters import merge_adapters
from safetensors.torch import load_file, save_file

from dense_ctx import AutoDenseModel, Losses, Objective
from dense_ctx.errors import CheckpointError, ConfigError, DenseCtxError, InputError, WeightsError
from dense_ctx.train import TrainStep

NAME, ARGS = "timm:vit_tiny_patch16_224", {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32}
IMAGE = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
CONFIGS = {
    "LoRA": peft.LoraConfig(r=3, lora_alpha=7, target_modules=["qkv", "fc1"]),
    "a pattern of names": peft.LoraConfig(r=2, target_modules=r"blocks\.1\..*qkv", use_rslora=True),
    "ranks of their own": peft.LoraConfig(r=2, target_modules=["qkv", "proj"], rank_pattern={"blocks.0.attn.qkv": 5}),
    "DoRA": peft.LoraConfig(r=2, target_modules=["qkv"], use_dora=True),
    "IA3": peft.IA3Config(target_modules=["qkv", "fc2"], feedforward_modules=["fc2"]),
    "with a module": peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["norm"]),
    "with biases": peft.LoraConfig(r=2, target_modules=["qkv"], bias="lora_only"),
}


@pytest.fixture
def weights(tmp_path):
    """A file of the network's weights, so that a model has a source and stores the adapters alone."""
    torch.manual_seed(1)
    net = timm.create_model(NAME.partition(":")[2], num_classes=0, dynamic_img_size=True, **ARGS)
    save_file(net.state_dict(), tmp_path / "vit.safetensors")
    return str(tmp_path / "vit.safetensors")


def plain(weights):
    return AutoDenseModel.from_parts(NAME, "upsample", backbone_args={**ARGS, "weights": weights})


def randomise(model):
    """Adapters start as no change, or one."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(word in name for word in ("lora_", "ia3_", "modules_to_save")):
                parameter.add_(torch.randn_like(parameter) * 0.3)


def adapted(weights, config):
    model = plain(weights)
    model.backbone.net = peft.get_peft_model(model.backbone.net, config)
    randomise(model)
    return model.eval()


def same(one, two):
    """Equal up to the rounding of a product, whose order follows where a tensor lies in memory."""
    torch.testing.assert_close(one, two, rtol=1e-5, atol=2e-6)


def pixels(model):
    with torch.no_grad():
        return model(IMAGE).pixels


@pytest.mark.parametrize("what", CONFIGS)
def test_saved_and_opened_it_computes_the_same(weights, tmp_path, what):
    model = adapted(weights, CONFIGS[what])
    expected = pixels(model)
    assert not torch.allclose(expected, pixels(plain(weights)), atol=1e-3)
    model.requires_grad_(False)  # an adapter that no longer trains is saved nevertheless
    model.save_pretrained(tmp_path / "saved")
    opened = AutoDenseModel.from_pretrained(tmp_path / "saved")
    same(pixels(opened), expected)
    same(pixels(model), expected)
    state, there = model.state_dict(), opened.state_dict()
    assert state.keys() == there.keys()
    assert all(torch.equal(state[key], there[key]) for key in state)
    names = set(load_file(tmp_path / "saved/model.safetensors"))
    assert {f"backbone.{name}" for name in opened.backbone.adapters()} <= names
    assert not [name for name in names if "base_layer.weight" in name or "pos_embed" in name]
    opened.save_pretrained(tmp_path / "again")
    same(pixels(AutoDenseModel.from_pretrained(tmp_path / "again")), expected)
    model.save_pretrained(tmp_path / "whole", standalone=True)
    same(pixels(AutoDenseModel.from_pretrained(tmp_path / "whole")), expected)


@pytest.mark.parametrize("what", CONFIGS)
def test_a_folder_of_peft_is_attached_by_name_and_merged(weights, tmp_path, what):
    model = adapted(weights, CONFIGS[what])
    model.backbone.net.save_pretrained(tmp_path / "adapter")
    args = {**ARGS, "weights": weights, "adapters": str(tmp_path / "adapter")}
    opened = AutoDenseModel.from_parts(NAME, "upsample", backbone_args=args)
    same(pixels(opened), pixels(model))
    listed = opened.backbone.adapters()
    assert listed
    assert {name for name, p in opened.backbone.named_parameters() if p.requires_grad} <= {*listed}
    opened.save_pretrained(tmp_path / "saved")
    stored = json.loads((tmp_path / "saved/config.json").read_text())["backbone"]["args"]["adapters"]
    assert stored["peft_type"] == CONFIGS[what].peft_type.value  # what they are, not where they were
    same(pixels(AutoDenseModel.from_pretrained(tmp_path / "saved")), pixels(model))
    if "module" in what:
        with pytest.raises(InputError, match=r"modules_to_save.* which cannot be merged"):
            merge_adapters(opened)
        return
    layers = merge_adapters(opened)
    assert opened.backbone.adapters() == []
    assert all(layer.startswith("net.") for layer in layers)
    torch.testing.assert_close(pixels(opened), pixels(model), rtol=1e-4, atol=1e-5)
    opened.save_pretrained(tmp_path / "merged")
    again = AutoDenseModel.from_pretrained(tmp_path / "merged")
    same(pixels(again), pixels(opened))
    assert again.backbone.adapters() == []


def test_transformers_network(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    settings = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(settings).save_pretrained(tmp_path / "net")
    (tmp_path / "net/preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    outside = peft.get_peft_model(
        Dinov2Model.from_pretrained(tmp_path / "net"),
        peft.LoraConfig(r=2, target_modules=r".*\.(query|value|q_proj|v_proj)"),
    )
    randomise(outside)
    outside.save_pretrained(tmp_path / "adapter")
    image = torch.rand(1, 3, 28, 28)
    args = {"adapters": str(tmp_path / "adapter")}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        opened = AutoDenseModel.from_parts(f"hf:{tmp_path / 'net'}", "upsample", backbone_args=args)
    shutil.copytree(tmp_path / "net", tmp_path / "other")  # of the same shapes
    with pytest.warns(UserWarning, match="adapters of .*net, put on .*other"):
        AutoDenseModel.from_parts(f"hf:{tmp_path / 'other'}", "upsample", backbone_args=args)
    with torch.no_grad():
        expected = outside.eval()((image - 0.5) / 0.5).last_hidden_state[:, 1:].movedim(1, 2).reshape(1, 24, 2, 2)
        torch.testing.assert_close(opened(image).patches, expected, rtol=1e-5, atol=1e-5)


def test_they_train_with_any_objective(weights):
    class Mean(Objective):
        def dataset(self, data):
            return []

        def forward(self, model, batch):
            features, padded = model.encode(batch)
            return Losses(model.decoder(features, padded, (32, 48)).square().mean())

    model = adapted(weights, CONFIGS["LoRA"])
    step = TrainStep(model, Mean(), [])
    step(IMAGE).total.backward()
    assert all(p.grad is not None and p.grad.any() for p in step.groups[0]["params"])
    assert set(model.backbone.adapters()) == {n for n, p in model.backbone.named_parameters() if p.requires_grad}


def write(folder, config, tensors):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


GOOD = {"peft_type": "LORA", "r": 2, "target_modules": ["qkv"]}


@pytest.mark.parametrize(
    ("config", "change", "error", "message"),
    [
        (GOOD, "missing", WeightsError, r"missing.*blocks\.1\.attn\.qkv\.lora_B"),
        (GOOD, "extra", WeightsError, r"blocks\.7\.attn\.qkv\.lora_A"),
        (GOOD, "shape", WeightsError, r"blocks\.0\.attn\.qkv\.lora_A.*\[2, 9\]"),
        ({**GOOD, "target_modules": ["query"]}, "", ConfigError, "does not fit .*query"),
        ({**GOOD, "peft_type": "LOHA"}, "", ConfigError, "peft_type is 'LOHA'; expected one of LORA, IA3"),
        ({**GOOD, "r": 0}, "", ConfigError, "r is 0; expected a number from 1"),
        ({**GOOD, "r": 10**9}, "", ConfigError, "r is 1000000000; expected at most 4096"),
        ({**GOOD, "megatron_config": {"a": 1}}, "", ConfigError, "megatron_config: adapters of that kind cannot"),
        ({**GOOD, "init_lora_weights": "pissa"}, "", ConfigError, "init_lora_weights=pissa"),
        ({**GOOD, "name": "a.b"}, "", ConfigError, "expected letters, digits"),
    ],
)
def test_folders_that_do_not_fit_are_refused_by_name(weights, tmp_path, config, change, error, message):
    tensors = {}
    for block in (0, 1):
        tensors[f"base_model.model.blocks.{block}.attn.qkv.lora_A.weight"] = torch.zeros(2, 24)
        tensors[f"base_model.model.blocks.{block}.attn.qkv.lora_B.weight"] = torch.zeros(72, 2)
    first = next(iter(tensors))
    if change == "missing":
        tensors.popitem()
    elif change == "extra":
        tensors[first.replace("blocks.0", "blocks.7")] = torch.zeros(2, 24)
    elif change == "shape":
        tensors[first] = torch.zeros(2, 9)
    folder = write(tmp_path / "adapter", config, tensors)
    with pytest.raises(error, match=message):
        AutoDenseModel.from_parts(NAME, "upsample", backbone_args={**ARGS, "weights": weights, "adapters": str(folder)})


def test_a_folder_without_its_files_and_lora_beside_it_are_refused(weights, tmp_path):
    with pytest.raises(DenseCtxError, match=r"holds no adapters of peft: it has no adapter_config\.json"):
        AutoDenseModel.from_parts(NAME, "upsample", backbone_args={**ARGS, "weights": None, "adapters": str(tmp_path)})
    args = {"args": {**ARGS, "adapters": str(tmp_path)}, "weights": None}
    with pytest.raises(ConfigError, match="then use lora:model:FOLDER"):
        AutoDenseModel.from_parts(f"lora:{NAME}", "upsample", backbone_args=args)


def test_what_could_not_be_opened_again_is_not_saved(weights, tmp_path):
    for change, message in {
        lambda net: net.merge_adapter(): "merged, switched off or inactive",
        lambda net: net.disable_adapter_layers(): "merged, switched off or inactive",
        lambda net: net.add_adapter("second", CONFIGS["LoRA"]): "adapters default, second; one can be saved",
    }.items():
        model = adapted(weights, CONFIGS["LoRA"])
        change(model.backbone.net)
        with pytest.raises(CheckpointError, match=message):
            model.save_pretrained(tmp_path / "saved")
        assert not (tmp_path / "saved").exists()
    with pytest.raises(InputError, match="nothing to merge"):
        merge_adapters(plain(weights))
