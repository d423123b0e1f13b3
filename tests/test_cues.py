"""Cues: the contract of each, flow against known motion, normalisation, unavailable weights."""

import importlib
import sys
import types

import pytest
import torch
from dense_ctx_lila.cues.base import create_cue, normalize_cues
from torch.nn import functional

from dense_ctx import registry
from dense_ctx.errors import ConfigError, InputError, MissingDependencyError, PluginError, WeightsError

TINY_DEPTH = {
    "backbone_config": {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 42,
        "patch_size": 14,
        "out_indices": [1, 2, 3, 4],
        "apply_layernorm": True,
        "reshape_hidden_states": False,
    },
    "reassemble_hidden_size": 16,
    "neck_hidden_sizes": [4, 4, 8, 8],
    "fusion_hidden_size": 8,
    "head_hidden_size": 4,
}
CASES = {
    "flow:dis": {},
    "flow:raft-small": {"weights": None, "iterations": 2},
    "flow:raft-large": {"weights": None, "iterations": 2},
    "depth:depth-anything-v2-small": {"weights": None, "side": 42, "config": TINY_DEPTH},
    "depth:depth-anything-v2-base": {"weights": None, "side": 56, "config": TINY_DEPTH},
    "depth:depth-anything-v2-large": {"weights": None, "side": 42, "config": TINY_DEPTH},
    "edges": {},
    "texture": {},
    "shading": {},
}
ELSEWHERE = {"layers"}  # known of synthetic pairs alone: test_lila_options
SEA_RAFT = {f"flow:sea-raft-{size}" for size in "sml"}


def texture(height, width, seed=0):
    """A smooth random picture [1, 3, H, W], as a camera would see it."""
    noise = torch.rand(1, 3, height // 4 + 1, width // 4 + 1, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(noise, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


def moved(x, y, height=141, width=190, margin=20):
    """Two frames, the second with everything moved by (x, y) whole pixels."""
    scene = texture(height + 2 * margin, width + 2 * margin)
    first = scene[:, :, margin : margin + height, margin : margin + width]
    second = scene[:, :, margin - y : margin - y + height, margin - x : margin - x + width]
    return first, second


def test_every_registered_cue_is_tested_here():
    ours = {e.name for e in registry().entries("cue") if e.owner.distribution == "dense-ctx"}
    assert ours == set(CASES) | SEA_RAFT | ELSEWHERE


def lively(cue, seed=0):
    """Weights large enough for the untrained depth network to say more than zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in cue.parameters():
            parameter.normal_(0.0, 0.3)
    return cue


def check(cue, sizes=((65, 91), (48, 33))):
    assert isinstance(cue.channels, int)
    assert cue.channels > 0
    assert cue.unit
    assert cue.meaning
    assert not any(p.requires_grad for p in cue.parameters())
    cue.train()
    assert not any(module.training for module in cue.modules())
    for height, width in sizes:
        context, query = torch.cat([texture(height, width, s) for s in (1, 2)]), texture(height, width, 3)
        query = torch.cat([query, context[:1]])
        before = context.clone(), query.clone()
        maps = cue(context, query)
        for one in maps:
            assert one.shape == (2, cue.channels, height, width)
            assert one.dtype == torch.float32
            assert one.isfinite().all()
            assert not one.requires_grad
        assert torch.equal(context, before[0])
        assert torch.equal(query, before[1])
        again = cue(context, query)
        assert all(torch.equal(a, b) for a, b in zip(maps, again, strict=True))
        alone = cue(context[1:], query[1:])
        scale = max(float(one.abs().max()) for one in maps)
        for a, b in zip(alone, maps, strict=True):
            assert (a - b[1:]).abs().max() <= 2e-4 * max(scale, 1)
        if cue.antisymmetric:
            swapped = cue(query, context)
            assert (swapped[0] + maps[1]).abs().max() <= 2e-4 * max(scale, 1)
            assert (swapped[1] + maps[0]).abs().max() <= 2e-4 * max(scale, 1)
        if not cue.pair:
            other = cue(context, texture(height, width, 7).expand(2, -1, -1, -1))
            assert (other[0] - maps[0]).abs().max() <= 2e-4 * max(scale, 1)
            assert (other[1] - maps[1]).abs().max() > 1e-3 * scale  # but it does depend on its own frame


@pytest.mark.parametrize("name", sorted(CASES))
def test_contract(name):
    torch.manual_seed(0)
    cue = create_cue(name, **CASES[name])
    check(lively(cue) if name.startswith("depth") else cue)


@pytest.mark.parametrize("finest", [None, 0])
@pytest.mark.parametrize("motion", [(5, -3), (2, 1), (0, 7)])
def test_dis_finds_a_known_translation_both_ways(motion, finest):
    context, query = create_cue("flow:dis", finest=finest)(*moved(*motion))
    expected = torch.tensor(motion).view(1, 2, 1, 1)  # (x, y); the query has minus the backward flow: the same
    for flow in (context, query):
        assert (flow - expected)[..., 16:-16, 16:-16].abs().max() < 0.2


def test_flow_vectors_stay_in_full_frame_units_in_any_crop():
    """A crop, resized to the network's size, keeps the vectors of the whole frame, before and after normalisation."""
    context, query = create_cue("flow:dis")(*moved(6, -2))
    height, width = context.shape[-2:]
    for top, left, side in ((20, 25, 60), (40, 70, 90), (17, 90, 84)):
        crop = functional.interpolate(context[..., top : top + side, left : left + side], (112, 112), mode="bilinear")
        assert (crop - torch.tensor([6.0, -2.0]).view(1, 2, 1, 1)).abs().max() < 0.2
    zero = torch.zeros_like(context)  # deviation under the floor: the value is the share of the frame / floor
    shares = normalize_cues(zero, query, flow=[0], size=(height, width), floor=1.0)[1]
    middle = shares[..., 16:-16, 16:-16]
    assert (middle - torch.tensor([6 / width, -2 / height]).view(1, 2, 1, 1)).abs().max() < 0.2 / height


def test_normalisation_rule():
    generator = torch.Generator().manual_seed(0)
    context, query = (torch.randn(2, 3, h, w, generator=generator) * 7 + 3 for h, w in ((9, 14), (5, 6)))
    one, two = normalize_cues(context, query, flow=[1], size=(90, 140))
    scale = torch.tensor([1.0, 140.0, 90.0]).view(3, 1, 1)
    for sample in range(2):
        c, q = context[sample] / scale, query[sample] / scale
        for channel in range(3):
            mean, std = c[channel].mean(), c[channel].std(correction=0)
            assert torch.allclose(one[sample, channel], (c[channel] - mean) / std, atol=1e-4)
            assert torch.allclose(two[sample, channel], (q[channel] - mean) / std, atol=1e-4)
    assert torch.allclose(one.std(dim=(2, 3), correction=0), torch.ones(2, 3), atol=1e-4)


def test_a_constant_cue_stays_finite_and_a_still_clip_is_not_blown_up():
    flat, noise = torch.full((1, 1, 8, 9), 4.0), torch.randn(1, 2, 8, 9) * 0.01
    assert normalize_cues(flat, flat + 1)[0].abs().max() == 0
    assert normalize_cues(noise, noise, flow=[0], size=(240, 427))[0].abs().max() < 0.5


@pytest.mark.parametrize(
    ("context", "arguments", "message"),
    [
        ((1, 2, 4, 4), {"flow": [0]}, "needs size"),
        ((1, 2, 4, 4), {"flow": [1], "size": (4, 4)}, "no x channels"),
        ((1, 3, 4, 4), {}, "equal B and C"),
        ((1, 2, 4, 4), {"floor": 0}, "above 0"),
    ],
)
def test_normalisation_refuses(context, arguments, message):
    with pytest.raises(InputError, match=message):
        normalize_cues(torch.rand(*context), torch.rand(1, 2, 5, 5), **arguments)


def test_frames_are_checked():
    cue = create_cue("flow:dis")
    with pytest.raises(InputError, match="one shape"):
        cue(torch.rand(1, 3, 40, 50), torch.rand(1, 3, 50, 40))
    with pytest.raises(InputError, match=r"\[B, 3, H, W\]"):
        cue(torch.rand(3, 40, 50), torch.rand(3, 40, 50))
    with pytest.raises(InputError, match="uint8"):
        cue(*[torch.zeros(1, 3, 40, 50, dtype=torch.uint8)] * 2)


def test_dis_takes_frames_of_a_few_pixels_and_refuses_bad_arguments():
    for height, width in ((1, 9), (8, 40), (33, 5)):
        maps = create_cue("flow:dis")(torch.rand(1, 3, height, width), torch.rand(1, 3, height, width))
        assert maps[0].shape == maps[1].shape == (1, 2, height, width)
    for wrong in ({"preset": "best"}, {"finest": -1}):
        with pytest.raises(InputError):
            create_cue("flow:dis", **wrong)


def test_names_with_arguments():
    assert create_cue("flow:dis(preset=fast)").preset == "fast"
    for wrong in ("flow:dis(", "flow dis", "", 3):
        with pytest.raises(ConfigError, match=r"NAME\(key=value, \.\.\.\)"):
            create_cue(wrong)


@pytest.mark.parametrize("name", ["flow:raft-small", "flow:raft-large"])
def test_raft_weights_of_a_file_and_of_the_cache_by_torchvisions_names(name, tmp_path, monkeypatch):
    from torchvision.models import optical_flow

    torch.manual_seed(1)
    cue = create_cue(name, weights=None)
    file = tmp_path / "mine.pth"
    torch.save(cue.network.state_dict(), file)
    frames = texture(65, 91, 1), texture(65, 91, 2)
    expected = cue(*frames)
    assert torch.equal(create_cue(name, weights=str(file))(*frames)[0], expected[0])
    entries = getattr(optical_flow, "Raft_Small_Weights" if "small" in name else "Raft_Large_Weights")
    cached = tmp_path / "hub" / "checkpoints" / entries.DEFAULT.url.rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    torch.save(cue.network.state_dict(), cached)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    from_cache = create_cue(name)
    assert torch.equal(from_cache(*frames)[1], expected[1])
    assert entries.DEFAULT.name in from_cache.source


def test_raft_matches_torchvision_on_frames_it_takes():
    torch.manual_seed(0)
    cue = create_cue("flow:raft-small", weights=None, iterations=3)
    first, second = texture(128, 160, 1), texture(128, 160, 2)
    with torch.no_grad():
        forward = cue.network(first * 2 - 1, second * 2 - 1, num_flow_updates=3)[-1]
        backward = cue.network(second * 2 - 1, first * 2 - 1, num_flow_updates=3)[-1]
    context, query = cue(first, second)
    assert torch.allclose(context, forward, atol=1e-4)
    assert torch.allclose(query, -backward, atol=1e-4)


@pytest.mark.parametrize("name", ["flow:raft-small", "depth:depth-anything-v2-small"])
def test_weights_that_cannot_be_had_offline(name, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsError, match=r"HF_HUB_OFFLINE is set.*weights=\"PATH\".*flow:dis"):
        create_cue(name)


def test_weights_that_do_not_fit(tmp_path):
    small = create_cue("flow:raft-small", weights=None)
    file = tmp_path / "small.pth"
    torch.save(small.network.state_dict(), file)
    with pytest.raises(WeightsError, match="do not fit"):
        create_cue("flow:raft-large", weights=str(file))
    file.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        create_cue("flow:raft-large", weights=str(file))
    with pytest.raises(InputError, match="C_T_V2"):
        create_cue("flow:raft-small", weights="C_T_V9")


def test_depth_weights_of_a_folder_whole_or_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    name = "depth:depth-anything-v2-small"
    cue = lively(create_cue(name, **CASES[name]))
    cue.network.save_pretrained(tmp_path)
    frames = texture(65, 91, 1), texture(65, 91, 2)
    loaded = create_cue(name, weights=str(tmp_path), side=42)
    expected = cue(*frames)
    assert expected[0].std() > 0
    assert torch.equal(loaded(*frames)[0], expected[0])
    assert not any(p.requires_grad for p in loaded.parameters())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("head.conv2.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"missing keys: head\.conv2\.weight"):
        create_cue(name, weights=str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"lacks config\.json"):
        create_cue(name, weights=str(tmp_path))


def test_depth_sizes_and_published_architectures():
    depth = importlib.import_module("dense_ctx_lila.cues.depth")
    assert depth.network_size((480, 640), 518) == (518, 686)
    assert depth.network_size((640, 480), 518) == (686, 518)
    assert depth.network_size((1080, 1920), 518) == (518, 924)
    assert depth.network_size((65, 91), 42) == (42, 56)
    for size, millions in (("small", 24.8), ("base", 97.5), ("large", 335.3)):  # as published
        with torch.device("meta"):
            cue = depth.DepthAnything(size, weights=None)
        assert round(sum(p.numel() for p in cue.network.parameters()) / 1e6, 1) == millions


def test_depth_equals_the_network_where_nothing_is_resized():
    name = "depth:depth-anything-v2-small"
    cue = lively(create_cue(name, **CASES[name]))
    frame = texture(42, 56)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = cue.network((frame - mean) / std).predicted_depth
    assert expected.std() > 0.1
    output = cue(frame, frame.flip(3))[0][:, 0]
    assert (output - expected).abs().max() < 1e-4 * expected.abs().max()


class FakeSEARAFT(torch.nn.Module):
    """Shaped like ptlflow's models: {"images": [N, 2, 3, H, W]} in BGR to {"flows": [N, 1, 2, H, W]}."""

    pretrained_checkpoints = {"things": "https://example.invalid/sea_raft_s-things-0123abcd.ckpt"}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, inputs):
        images = inputs["images"]
        assert images.shape[-1] % 8 == images.shape[-2] % 8 == 0
        blue, red = (images[:, 1, k] - images[:, 0, k] for k in (0, 2))
        return {"flows": self.scale * torch.stack([red, 2 * blue], dim=1)[:, None]}


def test_sea_raft_through_ptlflows_interface(monkeypatch, tmp_path):
    """The adapter's own part: colours in OpenCV's order, padding cut off, both directions, weights by name."""
    module = types.ModuleType("ptlflow")
    module.get_model = lambda name: {f"sea_raft_{size}": FakeSEARAFT for size in "sml"}[name]()
    monkeypatch.setitem(sys.modules, "ptlflow", module)
    cue = create_cue("flow:sea-raft-s", weights=None)
    check(cue)
    first, second = texture(65, 91, 1), texture(65, 91, 2)
    change = second - first
    expected = 3 * torch.cat([change[:, :1], 2 * change[:, 2:]], dim=1)  # red moves x, blue moves y
    assert torch.allclose(cue(first, second)[0], expected, atol=1e-5)
    assert torch.allclose(cue(first, second)[1], expected, atol=1e-5)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / "sea_raft_s-things-0123abcd.ckpt"
    cached.parent.mkdir()
    torch.save({"state_dict": {"scale": torch.tensor(5.0)}}, cached)
    assert float(create_cue("flow:sea-raft-s").network.scale) == 5.0
    with pytest.raises(InputError, match="things"):
        create_cue("flow:sea-raft-s", weights="nothing")


@pytest.mark.parametrize(("name", "package"), [("flow:dis", "cv2"), ("flow:sea-raft-m", "ptlflow")])
def test_a_missing_package_has_its_install_command(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        create_cue(name)
    assert name in registry().names("cue")  # the plugin stays


@pytest.mark.skipif(importlib.util.find_spec("ptlflow") is None, reason="ptlflow is not installed")
@pytest.mark.parametrize("name", sorted(SEA_RAFT))
def test_sea_raft_contract(name):
    torch.manual_seed(0)
    check(create_cue(name, weights=None), sizes=((65, 91),))


def test_a_target_that_is_no_cue_is_refused():
    from dense_ctx.kinds import Entry, Kind, Owner
    from dense_ctx.registry import Registry

    own = Registry()
    own.commit({}, {"cue": Kind("cue", "dense_ctx_lila.cues.base:Cue")})
    own.commit({("cue", "wrong"): Entry("cue", "wrong", "torch.nn:Identity", Owner("p", "d", "1"))})
    with pytest.raises(PluginError, match="not a subclass"):
        own.create("cue", "wrong")


def test_photometric_cues_say_what_their_names_do():
    ramp = (torch.arange(64.0) / 64).expand(1, 3, 48, 64)
    step = (torch.arange(64) >= 32).float().expand(1, 3, 48, 64)
    stripes = step.clone()
    stripes[..., 40:] = (torch.arange(24) // 2 % 2).float()
    edges, texture, shading = (create_cue(name)(step, stripes) for name in ("edges", "texture", "shading"))
    assert edges[0][0].argmax(-1).unique().tolist() in ([31], [32], [31, 32])
    slope = create_cue("edges")(ramp, ramp)[0][0, :, 24, 32]
    assert torch.allclose(slope, torch.tensor([1.0, 2.0, 4.0]) / 64, rtol=0.01)  # times the scale
    across, down = texture[1][0, 0], texture[1][0, 1]
    assert across[24, 52] > 10 * max(across[24, 10], down[24, 52])
    assert 0.1 < float(shading[0][0, 0, 24, 29]) < 0.5 < float(shading[0][0, 0, 24, 34]) < 0.9
    assert float(shading[0].diff(dim=-1).abs().max()) < 0.2
