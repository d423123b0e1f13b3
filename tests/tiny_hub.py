"""Small networks in the layout of the published repositories, on a hub on loopback, for `pytest -m hub`."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import timm
import torch
import transformers
from hub_cases import DEPTH, DIFFUSION, TEXT
from safetensors.torch import save

from dense_ctx import create_backbone, registry

TINY = {"embed_dim": 24, "num_heads": 2}
SHAPE = {"hidden_size": 24, "num_hidden_layers": 12, "num_attention_heads": 2}
MLP = {**SHAPE, "intermediate_size": 96}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
# name here: repository of transformers' form, a network of it, its image processor
PAIRS = {
    "dinov2-s14": ("facebook/dinov2-small", "Dinov2", {**SHAPE, "image_size": 518, "patch_size": 14}, IMAGENET),
    "dinov2-reg-s14": ("facebook/dinov2-with-registers-small", "Dinov2WithRegisters",
                       {**SHAPE, "image_size": 518, "patch_size": 14, "num_register_tokens": 4}, IMAGENET),
    "dinov3-s16": ("facebook/dinov3-vits16-pretrain-lvd1689m", "DINOv3ViT",
                   {**MLP, "image_size": 256, "patch_size": 16, "num_register_tokens": 4, "query_bias": False,
                    "value_bias": False}, IMAGENET),
    "clip-b16": ("openai/clip-vit-base-patch16", "CLIPVision", {**MLP, "image_size": 224, "patch_size": 16}, CLIP),
    "mae-b16": ("facebook/vit-mae-base", "ViTMAE",
                {**MLP, "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6}, IMAGENET),
    "siglip2-b16-224": ("google/siglip2-base-patch16-224", "SiglipVision",
                        {**MLP, "image_size": 224, "patch_size": 16}, ([0.5] * 3, [0.5] * 3)),
}  # fmt: skip
# of the presets, beside those above
TIMM = ["dinov2-b14", "dinov2-l14", "dinov2-reg-b14", "dinov2-reg-l14", "dinov3-b16"]
SEA_RAFT = '''
"""Shaped as ptlflow is: models by name, whose weights are downloaded, images in OpenCV's order."""
import torch
from torch.hub import load_state_dict_from_url

class SEARAFT(torch.nn.Module):
    pretrained_checkpoints = {"spring": %r}
    output_stride = 8

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, inputs):
        images = inputs["images"]
        return {"flows": self.net(images.flatten(1, 2))[:, None]}

def get_model(name, ckpt_path=None, args=None):
    assert name in ("sea_raft_s", "sea_raft_m", "sea_raft_l")
    model = SEARAFT()
    if ckpt_path is not None:
        model.load_state_dict(load_state_dict_from_url(model.pretrained_checkpoints[ckpt_path])["state_dict"])
    return model
'''
ADAPTER = """
import numpy as np
import torch

class IOAdapter:
    def __init__(self, output_stride, input_size):
        assert output_stride == 8

    def prepare_inputs(self, images):
        return {"images": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[None].float() / 255}
"""


def lively(net):
    """Every number random, so that nothing hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if value.is_floating_point() and "periods" not in key and "inv_freq" not in key:
                value.copy_(0.2 * torch.randn(value.shape, generator=generator) + ("norm" in key))
            if key.endswith("running_var"):
                value.abs_()
    return net


def files_of(thing):
    """What `save_pretrained` writes, {path: bytes}."""
    with tempfile.TemporaryDirectory() as folder:
        thing.save_pretrained(folder)
        root = Path(folder)
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def processor(statistics, kind="BitImageProcessor"):
    mean, std = statistics
    words = {"image_processor_type": kind, "image_mean": mean, "image_std": std, "do_rescale": True,
             "rescale_factor": 1 / 255, "do_normalize": True, "do_resize": False}  # fmt: skip
    return {"preprocessor_config.json": json.dumps(words).encode()}


def tokenizer(folder):
    """CLIP's, of single letters."""
    letters = [chr(code) for code in range(33, 127)]
    words = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    made = transformers.CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    made.model_max_length = 40
    return made, len(words)


def text_tower(size, projection):
    config = transformers.CLIPTextConfig(
        vocab_size=size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=40, projection_dim=projection, bos_token_id=size - 2, eos_token_id=size - 1,
    )  # fmt: skip
    return lively(transformers.CLIPTextModelWithProjection(config))


def diffusion(folder):
    """A small SDXL pipeline: two text encoders of 16 numbers, a UNet with one stage of attention."""
    import diffusers

    words, size = tokenizer(folder)
    unet = diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=8, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 16, norm_num_groups=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 16, 16, 16), down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4, norm_num_groups=8,
    )  # fmt: skip
    first = text_tower(size, 16)
    with torch.no_grad():
        plain = transformers.CLIPTextModel(first.config)
        plain.load_state_dict(first.state_dict(), strict=False)
    scheduler = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return diffusers.StableDiffusionXLPipeline(
        vae=vae, text_encoder=plain, text_encoder_2=text_tower(size, 16), tokenizer=words, tokenizer_2=words,
        unet=unet, scheduler=scheduler,
    )  # fmt: skip


def flowfeat(encoder):
    """The encoder's tensors and an official decoder's names, as `test_official` has them."""
    from test_official import NAMES

    decoder = registry().create("decoder", "dpt", dims=(24,) * 4, strides=(14,) * 4, dim=8, width=8,
                                projections=(24,) * 4)  # fmt: skip
    state = {f"encoder.{key}": value for key, value in encoder.items()}
    for key, value in lively(decoder).state_dict().items():
        theirs = next(new + key.removeprefix(old) for old, new in NAMES if key.startswith(old))
        state[f"decoder.{theirs}"] = value
    return state


def dip(encoder):
    """A checkpoint of DIP's training script: the encoder under DINOv2's own names, the projector."""
    from dense_ctx_dip.projector import Projector

    encoder = dict(encoder)
    encoder["register_tokens"] = encoder.pop("reg_token")
    encoder["pos_embed"] = torch.cat([torch.zeros(1, 1, 24), encoder["pos_embed"]], 1)
    encoder["mask_token"] = torch.zeros(1, 24)
    state = {f"module.feats_extractor.encoder.{key}": value for key, value in encoder.items()}
    for key, value in Projector(24, 7, 12).state_dict().items():
        own = f"enc_norm.{key[5:]}" if key.startswith("norm.") else f"projector.{key}"
        state[f"module.{own}"] = value
    return {"model": state, "epoch": 4}


def serve(hub, address, folder):
    """Fill the hub, and the folder: hub.json (DENSE_CTX_TEST_HUB), DIP's checkpoint-4.pth, packages/ (PYTHONPATH)."""

    def add(name, files):
        hub.create(name)
        hub.commit(name, "main", files)

    def add_file(stem, data):
        """A file whose name ends in its digest, as torch's downloads have it; its address."""
        name = f"{stem}-{hashlib.sha256(data).hexdigest()[:8]}.pth"
        add(f"files/{stem}", {name: data})
        return f"{address}/files/{stem}/resolve/main/{name}"

    def pickled(value):
        path = folder / "file.pth"
        torch.save(value, path)
        return path.read_bytes()

    encoders = {}
    for name, (repo, kind, config, statistics) in PAIRS.items():
        theirs = lively(getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config)))
        files = files_of(theirs)
        add(repo, files | processor(statistics))
        (folder / "model.safetensors").write_bytes(files["model.safetensors"])
        ours = create_backbone(name, weights=folder, **TINY)
        add(ours.net.pretrained_cfg["hf_hub_id"], {"model.safetensors": save(ours.net.state_dict())})
        encoders[name] = ours.net.state_dict()
    for name in TIMM:
        ours = create_backbone(name, weights=None, **TINY)
        add(ours.net.pretrained_cfg["hf_hub_id"], {"model.safetensors": save(lively(ours.net).state_dict())})
    lite = lively(timm.create_model("tf_efficientnet_lite0"))
    add(lite.pretrained_cfg["hf_hub_id"], {"model.safetensors": save(lite.state_dict())})
    backbone = transformers.Dinov2Config(**SHAPE, image_size=518, patch_size=14, out_indices=[3, 6, 9, 12],
                                         apply_layernorm=True, reshape_hidden_states=False)  # fmt: skip
    depth = transformers.DepthAnythingConfig(backbone_config=backbone, reassemble_hidden_size=24,
                                             neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8)  # fmt: skip
    network = lively(transformers.DepthAnythingForDepthEstimation(depth))
    add(DEPTH, files_of(network) | processor(IMAGENET, "DPTImageProcessor"))
    words, size = tokenizer(folder)
    add(TEXT, files_of(text_tower(size, 8)) | files_of(words))
    add(DIFFUSION, files_of(diffusion(folder)))
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    raft = add_file("raft_small", pickled(raft_small(weights=None).state_dict()))
    sea = torch.nn.Conv2d(6, 2, 3, padding=1).state_dict()
    sea = add_file("sea_raft", pickled({"state_dict": {f"net.{key}": value for key, value in sea.items()}}))
    package = folder / "packages/ptlflow"
    (package / "utils").mkdir(parents=True)
    (package / "__init__.py").write_text(SEA_RAFT % sea)
    (package / "utils/__init__.py").write_text("")
    (package / "utils/io_adapter.py").write_text(ADAPTER)
    table = {"raft": raft, "flowfeat": add_file("flowfeat", pickled(flowfeat(encoders["dinov2-s14"]))),
             "diffcut": {"side": 128, "alpha": 2}}  # fmt: skip
    torch.save(dip(encoders["dinov2-reg-s14"]), folder / "checkpoint-4.pth")
    (folder / "hub.json").write_text(json.dumps(table))
