"""Published weights load, their features are those of the model's own library, each official preset takes a step.

    pytest -m hub tests/test_hub_real.py

Wants a network and some 15 GB of disk; a repository that asks for terms to be accepted wants `hf auth login`. What
cannot be had is skipped, with the reason.
"""

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import hub_cases as cases
from dip_data import tasks
from evaluation_data import save, scene

from dense_ctx import AutoDenseModel, registry
from dense_ctx.cli import main
from dense_ctx.config import load_yaml

pytestmark = pytest.mark.hub
CLOSE = 1e-3  # of the largest entry: float32 in another order of operations, over at most 24 blocks
LILA = [name for name in registry().names("preset") if name.startswith("lila")]
DIP = [name for name in registry().names("preset") if name.startswith("dip")]
MAXA = [name for name in registry().names("preset") if name.startswith("maxa")]


@pytest.fixture(autouse=True, scope="module")
def network():
    """A hub that answers, and numbers that do not depend on how many tests ran before."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        pytest.skip("HF_HUB_OFFLINE is set")
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10)
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError as error:
        pytest.skip(f"{constants.ENDPOINT} does not answer: {error}")
    torch.manual_seed(0)


@contextmanager
def terms():
    """Skip the test where its repository asks for terms that this account has not accepted."""
    try:
        yield
    except OSError as error:
        if any(word in str(error).lower() for word in ("gated", "401", "403")):
            pytest.skip(f"terms to be accepted on the repository's page: {str(error).splitlines()[0]}")
        raise


def deepest(name, image):
    backbone = cases.ours(name)
    with torch.inference_mode():
        return backbone(cases.normalised(backbone, image))


@pytest.mark.parametrize("name", cases.TRANSFORMERS)
def test_features_are_those_of_timm(name):
    import timm

    backbone = cases.ours(name)
    image = cases.photo(backbone.image_size)
    theirs = timm.create_model(backbone.name, pretrained=True, num_classes=0, **cases.TINY).eval()
    with torch.inference_mode():
        tokens = theirs.forward_features(cases.normalised(backbone, image))
    features = deepest(name, image)
    grid = features.maps[-1]
    patches = tokens[:, theirs.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid.shape[2:])
    assert cases.apart(grid, patches) < CLOSE
    if theirs.num_prefix_tokens:
        assert cases.apart(features.cls, tokens[:, 0]) < CLOSE


@pytest.mark.parametrize("name", cases.TRANSFORMERS)
def test_features_are_those_of_transformers(name):
    image = cases.photo(cases.ours(name).image_size)
    with terms():
        expected, cls = cases.of_transformers(*cases.TRANSFORMERS[name], image)
    features = deepest(name, image)
    close = 10 * CLOSE if name.startswith("siglip") else CLOSE  # timm has the exact GELU, transformers the tanh form
    assert cases.apart(features.maps[-1], expected) < close
    if cls is not None:
        assert cases.apart(features.cls, cls) < close


def test_maps_of_efficientnet_are_those_of_timm():
    import timm

    backbone = cases.ours(cases.EFFICIENTNET)
    image = cases.photo((224, 224))
    theirs = timm.create_model(backbone.name, pretrained=True, features_only=True).eval()
    with torch.inference_mode():
        expected = theirs(cases.normalised(backbone, image))[-len(backbone.dims) :]
    for ours, wanted in zip(deepest(cases.EFFICIENTNET, image).maps, expected, strict=True):
        assert cases.apart(ours, wanted) < CLOSE


def test_depth_is_that_of_transformers():
    import transformers

    side = 518
    image = cases.photo((side, side))
    processor = transformers.AutoImageProcessor.from_pretrained(cases.DEPTH)
    model = transformers.AutoModelForDepthEstimation.from_pretrained(cases.DEPTH).eval()
    cue = registry().create("cue", "depth:depth-anything-v2-small", side=side)
    with torch.inference_mode():
        pixels = processor(images=image[0], return_tensors="pt", do_rescale=False, do_resize=False)["pixel_values"]
        expected = model(pixels).predicted_depth[:, None]
        found, second = cue(image, image.flip(3))
    assert cases.apart(found, expected) < CLOSE
    assert cases.apart(second, expected) > CLOSE


def frames(height=128, width=160):
    """A photograph, and the same four pixels to the right."""
    wide = cases.photo((height, width + 4), 1)
    return wide[..., 4:], wide[..., :-4]


def test_flow_is_that_of_torchvisions_raft():
    from torchvision.models import optical_flow

    weights = cases.raft_weights(optical_flow.Raft_Small_Weights.DEFAULT)
    cue = registry().create("cue", "flow:raft-small")
    theirs = optical_flow.raft_small(weights=weights).eval()
    first, second = frames()
    with torch.inference_mode():
        prepared = weights.transforms()(first, second)
        forward = theirs(*prepared, num_flow_updates=cue.iterations)[-1]
        backward = theirs(*prepared[::-1], num_flow_updates=cue.iterations)[-1]
        context, query = cue(first, second)
    assert cases.apart(context, forward) < CLOSE
    assert cases.apart(query, -backward) < CLOSE


def test_flow_is_that_of_ptlflows_sea_raft():
    ptlflow = pytest.importorskip("ptlflow", reason='ptlflow is not installed: pip install "dense-ctx[sea-raft]"')
    from ptlflow.utils.io_adapter import IOAdapter

    cue = registry().create("cue", "flow:sea-raft-m", weights="spring")
    theirs = ptlflow.get_model("sea_raft_m", ckpt_path="spring").eval()
    first, second = frames()
    pictures = [(255 * frame[0]).round().byte().permute(1, 2, 0).flip(2).numpy() for frame in (first, second)]  # BGR
    with torch.inference_mode():
        inputs = IOAdapter(theirs.output_stride, pictures[0].shape[:2]).prepare_inputs(pictures)
        forward = theirs(inputs)["flows"][:, 0]
        context, _ = cue(*(torch.from_numpy(p.copy()).flip(2).permute(2, 0, 1)[None] / 255 for p in pictures))
    assert cases.apart(context, forward) < CLOSE


def test_segments_come_from_the_features_of_diffusers_own_pipeline():
    import diffusers

    segmenter = registry().create("segmenter", "diffcut", **cases.STAND_IN.get("diffcut", {}))
    image = cases.photo((segmenter.side, segmenter.side))[0]
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(cases.DIFFUSION, use_safetensors=True)
    attention = [part for name, part in pipeline.unet.named_modules() if name.startswith("down_blocks.")
                 and name.endswith("attn1")][-1]  # fmt: skip
    outputs = []
    attention.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.inference_mode():
        words, _, pooled, _ = pipeline.encode_prompt("", do_classifier_free_guidance=False)
        latents = pipeline.vae.encode(pipeline.image_processor.preprocess(image)).latent_dist.mode()
        latents = latents * pipeline.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(segmenter.seed))
        step = torch.tensor([segmenter.timestep])
        noised = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config).add_noise(latents, noise, step)
        sizes = torch.tensor(
            [[segmenter.side, segmenter.side, 0, 0, segmenter.side, segmenter.side]], dtype=words.dtype
        )
        pipeline.unet(noised, step, encoder_hidden_states=words,
                      added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes})  # fmt: skip
    features = segmenter.features(image)
    assert cases.apart(features.flatten(1).T, outputs[0][0]) < CLOSE
    segments = segmenter(image, None, (64, 64))
    assert segments.shape == (64, 64)


def test_text_is_embedded_as_by_transformers():
    import transformers
    from dense_ctx_probes.text import embed_text

    classes = ("cat", "traffic light")
    embeddings = embed_text(classes, cases.TEXT, ["a photo of a {}."]).vectors
    tokenizer = transformers.AutoTokenizer.from_pretrained(cases.TEXT)
    model = transformers.CLIPTextModelWithProjection.from_pretrained(cases.TEXT).eval()
    for name, vector in zip(classes, embeddings, strict=True):
        with torch.inference_mode():
            expected = model(**tokenizer(f"a photo of a {name}.", return_tensors="pt")).text_embeds[0]
        assert cases.apart(vector, expected / expected.norm()) < CLOSE


def test_flowfeats_file_holds_the_published_encoder(tmp_path):
    """Its encoder was frozen: the maps of the converted model are those of the weights that it started from."""
    encoder, name = cases.FLOWFEAT
    path = cases.flowfeat_file(name, tmp_path)
    options = [f"backbone={encoder}(embed_dim=24, num_heads=2)"] if cases.STAND_IN else []
    assert main(["convert", "flowfeat", str(path), "--out", str(tmp_path / "model"), *options]) == 0
    model = AutoDenseModel.from_pretrained(tmp_path / "model")
    image = cases.photo((224, 280))
    raw = registry().create("backbone", encoder, norm=False, **cases.TINY)
    with torch.inference_mode():
        features = model(image)
        assert cases.apart(features.patches, raw(cases.normalised(raw, image)).maps[-1]) < CLOSE
    assert features.pixels.shape == (1, model.dim, 224, 280)
    assert features.pixels.std() > 0.1


def test_dips_file_opens_and_gives_the_features_of_its_own_tensors(tmp_path):
    if cases.DIP is None:
        pytest.skip("no address of DIP's files is known: DENSE_CTX_TEST_DIP_CHECKPOINT=checkpoint-4.pth")
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    options = ["backbone=dinov2-reg-s14(embed_dim=24, num_heads=2)"] if cases.STAND_IN else []
    assert main(["convert", "dip", cases.DIP, "--out", str(tmp_path / "model"), *options]) == 0
    model = AutoDenseModel.from_pretrained(tmp_path / "model")
    state = torch.load(cases.DIP, weights_only=True)["model"]
    prefix = next(p for p in ("feats_extractor.model.", "feats_extractor.encoder.") if any(p in key for key in state))
    encoder = {key.rpartition(prefix)[2]: value for key, value in state.items() if prefix in key}
    theirs = timm.create_model(model.backbone.name, num_classes=0, **cases.TINY).eval()
    theirs.load_state_dict(checkpoint_filter_fn(encoder, theirs))
    size = model.backbone.image_size
    image = cases.photo(size)
    with torch.inference_mode():
        tokens = theirs.forward_features(cases.normalised(model.backbone, image))
        patches = model(image).patches
    expected = tokens[:, theirs.num_prefix_tokens :].transpose(1, 2).unflatten(2, patches.shape[2:])
    assert cases.apart(patches, expected) < CLOSE


# ---------------------------------------------------------------------- one step of each official preset

RUN = ["mixed_precision=no", "workers=0", "save.every=0", "log=1", "epochs=null", "steps=1"]


def first_loss(out):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    (loss,) = [row["loss"] for row in rows if "loss" in row]
    return loss


@pytest.mark.parametrize("name", LILA)
def test_a_step_of_lila(name, tmp_path):
    pytest.importorskip("ptlflow", reason='ptlflow is not installed: pip install "dense-ctx[sea-raft]"')
    for index in range(7):
        for split in ("train", "valid"):
            save(tmp_path / f"{split}_all_frames/JPEGImages/{split}/{index:05d}.jpg", scene(index, (240, 320))[0])
        save(tmp_path / f"clips/clip/{index:05d}.jpg", scene(index, (240, 320))[0])
    youtube = load_yaml(registry().text("preset", name), name)["data"]["layout"] == "youtube-vos"
    data = f"data.root={tmp_path}" if youtube else f"data={tmp_path / 'clips'}"
    words = [*RUN, data, "batch_size=2", f"out={tmp_path / 'out'}", *cases.smaller("lila")]
    assert main(["train", name, *words]) == 0
    assert 0 < first_loss(tmp_path / "out") < 10
    assert AutoDenseModel.from_pretrained(tmp_path / "out/model").dim > 0


@pytest.mark.parametrize("name", DIP)
def test_a_step_of_dip(name, tmp_path):
    data = json.dumps(tasks(tmp_path, count=8, size=(300, 280)))
    words = [*RUN, f"data={data}", "batch_size=8", "accumulate=2", f"out={tmp_path / 'out'}", *cases.smaller("dip")]
    assert main(["train", name, *words]) == 0
    assert 0 < first_loss(tmp_path / "out") < 10


@pytest.mark.parametrize("name", MAXA)
def test_a_step_of_maxa(name, tmp_path):
    """Each task of the table for one of its backbones, a step each."""
    preset = load_yaml(registry().text("preset", name), name)
    sets = cases.small_sets({task["data"]["name"] for task in preset["tasks"].values()}, tmp_path)
    for task in preset["tasks"].values():
        task |= {"steps": 1, "images": None, "train": task["val"]}
        if "instances" in task["args"].get("task", ""):
            task["args"]["task"] = "instances(least=1, large=0.0, seed=0)"
    preset |= {"steps": 1, "batch_size": 1, "held_out": 0.5}
    if cases.STAND_IN:
        small = "(embed_dim=24, num_heads=2, "
        preset["backbones"] = {row: text.replace("(", small) for row, text in preset["backbones"].items()}
        preset["image_size"] = [28, 28]
    (tmp_path / "small.yaml").write_text(json.dumps(preset))
    roots = [f"{key}={root}" for key, root in sets.items()]
    words = ["bench", str(tmp_path / "small.yaml"), "--data", *roots, "--out", str(tmp_path / "out")]
    row = next(row for row, text in preset["backbones"].items() if text.startswith("dinov2-b14"))
    assert main([*words, "--backbones", row]) == 0
    records = [json.loads(path.read_text()) for path in (tmp_path / "out/cells").glob("*.json")]
    assert len(records) == len(preset["tasks"]) * len(preset["heads"])
    assert all(record["status"] == "done" for record in records)


def test_the_table_has_every_family():
    """Nothing drops out of the suite because a name changed."""
    assert {*LILA, *DIP, *MAXA} == set(registry().names("preset"))
    assert set(cases.TRANSFORMERS) <= set(registry().names("backbone"))
    assert "flowfeat-dinov2-s14-yt" in registry().names("model")
    assert not os.environ.get("HF_HUB_OFFLINE")
