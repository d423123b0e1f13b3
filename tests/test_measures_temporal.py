"""Temporal consistency on clips whose motion is known."""

import gc
import math
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dense_ctx_measures.flow import dis_flow
from dense_ctx_measures.temporal import temporal_consistency
from torch.nn import functional

from dense_ctx.errors import InputError, MissingDependencyError, NonFiniteError
from dense_ctx.testing import tiny_model

SPEED = (3, -2)  # pixels a frame, (x, y), of what is seen
SIZE = (48, 64)


def as_model(function):
    def model(images, size):
        return SimpleNamespace(pixels=functional.interpolate(function(images), size=size, mode="bilinear"))

    return model


def colour(images):
    return torch.cat([images, images.square() + 2], dim=1)


def texture(height, width, cell=5):
    coarse = torch.rand(1, 3, height // cell, width // cell, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def moving_clip(length, speed=SPEED):
    scene, start = texture(140, 180), (60, 60)
    for t in range(length):
        x, y = start[0] - t * speed[0], start[1] - t * speed[1]
        yield scene[:, y : y + SIZE[0], x : x + SIZE[1]]


def true_flow(gap, speed=SPEED):
    return torch.tensor(speed, dtype=torch.float32)[:, None, None].expand(2, *SIZE) * gap


def known(gaps):
    return {
        "flow": {gap: true_flow(gap) for gap in gaps},
        "backward": {gap: -true_flow(gap) for gap in gaps},
        "gaps": gaps,
    }


def test_a_translation_equivariant_feature_is_consistent_at_any_gap():
    result = temporal_consistency(as_model(colour), moving_clip(7), scales=[1.0], points=None, **known((1, 2, 5)))
    for gap, setting in zip((1, 2, 5), result.settings, strict=True):
        assert (setting.scale, setting.gap, setting.size) == (1.0, gap, SIZE)
        assert setting.consistency == pytest.approx(1, abs=1e-6)
        assert setting.drop == pytest.approx(0, abs=1e-6)
        inside = (SIZE[1] - 3 * gap) * (SIZE[0] - 2 * gap)
        assert setting.n == inside * (7 - gap)
        assert setting.pairs == 7 - gap
        assert setting.valid == pytest.approx(inside / (SIZE[0] * SIZE[1]))
    assert (result.frames, result.threshold) == (7, 1.0)


def test_the_score_is_the_formula_of_the_documentation():
    first, second = list(moving_clip(2))
    flow = true_flow(1) + 0.6  # wrong on purpose, and between pixels
    result = temporal_consistency(as_model(colour), [first, second], flow=flow, gaps=[1], scales=[1.0], points=None)
    before, after = colour(first[None])[0], colour(second[None])[0]
    mean = before.mean(dim=(1, 2), keepdim=True)
    ys, xs = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    x, y = xs + flow[0], ys + flow[1]
    inside = (x >= 0) & (x <= SIZE[1] - 1) & (y >= 0) & (y <= SIZE[0] - 1)
    grid = torch.stack([(2 * x + 1) / SIZE[1] - 1, (2 * y + 1) / SIZE[0] - 1], dim=-1)
    warped = functional.grid_sample((after - mean)[None], grid[None], align_corners=False)[0]
    a = functional.normalize((before - mean)[:, inside], dim=0)
    b = functional.normalize(warped[:, inside], dim=0)
    cos = float((a * b).sum(0).mean())
    cos_random = float((a.mean(1) * b.mean(1)).sum())  # with corresponding pairs in: 1 / n apart
    setting = result.settings[0]
    assert setting.cos_flow == pytest.approx(cos, abs=1e-4)
    assert setting.cos_random == pytest.approx(cos_random, abs=2 / setting.n)
    assert setting.consistency == pytest.approx((cos - cos_random) / (1 - cos_random), abs=1e-3)
    assert setting.n == int(inside.sum())
    assert setting.consistency < 0.99


def test_random_features_score_zero_and_constant_ones_are_undefined():
    generator = torch.Generator().manual_seed(0)
    noise = as_model(lambda images: torch.randn(1, 16, *images.shape[-2:], generator=generator) + 4)
    for setting in temporal_consistency(noise, moving_clip(4), **known((1, 3))).settings:
        assert abs(setting.consistency) < 0.02
    flat = as_model(lambda images: torch.full((1, 4, *images.shape[-2:]), 0.7))
    for setting in temporal_consistency(flat, moving_clip(4), **known((1, 3))).settings:
        assert math.isnan(setting.consistency)
        assert math.isnan(setting.drop)
        assert "constant" in setting.reason
        assert setting.n == 0


def test_an_offset_does_not_fake_consistency():
    def model(offset):
        generator = torch.Generator().manual_seed(0)
        return as_model(lambda images: torch.rand(1, 8, *images.shape[-2:], generator=generator) + offset)

    for offset in (0, 10):
        setting = temporal_consistency(model(offset), moving_clip(2), scales=[1.0], **known((1,))).settings[0]
        assert abs(setting.consistency) < 0.03


def test_a_feature_that_changes_drops_with_the_gap():
    """Features turn by 10 degrees a frame: the cosine along flow is cos(10 gap)."""
    state = {"t": 0}

    def model(images, size):
        angle = math.radians(10 * state["t"])
        state["t"] += 1
        x = images[0, 0] - 0.5
        turned = torch.stack([math.cos(angle) * x, math.sin(angle) * x])
        return SimpleNamespace(pixels=turned[None])

    result = temporal_consistency(model, moving_clip(6), scales=[1.0], points=None, **known((1, 2, 5)))
    # the mean of the first frame is not 0, so cosines are near the angle's, not equal to it
    for setting in result.settings:
        assert setting.cos_flow == pytest.approx(math.cos(math.radians(10 * setting.gap)), abs=0.06)
    drops = [s.drop for s in result.settings]
    assert drops[0] == 0
    assert 0 < drops[1] < drops[2]
    first = result.at(1.0, 1).consistency
    assert result.at(1.0, 5).drop == pytest.approx(1 - result.at(1.0, 5).consistency / first)


def test_smaller_frames_lose_detail_and_compare_the_same_pixels():
    result = temporal_consistency(as_model(colour), moving_clip(4), scales=[1.0, 0.25], **known((1,)))
    full, small = result.at(1.0, 1), result.at(0.25, 1)
    assert small.size == (12, 16)
    assert full.n == small.n
    assert small.consistency < full.consistency - 0.01
    assert small.drop == pytest.approx(1 - small.consistency / full.consistency)


def test_pixels_that_leave_or_disagree_or_are_unknown_do_not_count():
    flow, back = true_flow(1).clone(), -true_flow(1).clone()
    flow[:, :10] = float("nan")
    back[:, :, 40:] += 1.5  # forward and backward disagree there
    args = {"gaps": [1], "scales": [1.0], "points": None}
    clip = list(moving_clip(2))
    unchecked = temporal_consistency(as_model(colour), clip, flow=flow, **args).settings[0]
    assert unchecked.n == (SIZE[0] - 10) * (SIZE[1] - 3)
    checked = temporal_consistency(as_model(colour), clip, flow=flow, backward=back, **args).settings[0]
    assert checked.n == (SIZE[0] - 10) * 37  # what lands left of column 40
    loose = temporal_consistency(as_model(colour), clip, flow=flow, backward=back, threshold=3, **args).settings[0]
    assert loose.n == unchecked.n
    nothing = temporal_consistency(as_model(colour), clip, flow=true_flow(1) * 100, **args).settings[0]
    assert (nothing.n, nothing.valid) == (0, 0)
    assert nothing.reason == "no pixel passed the checks"


def test_flow_by_function_array_per_pair_and_mapping_agree():
    def function(first, second):
        assert first.shape == second.shape == (3, *SIZE)
        return true_flow(1) if calls.append(1) or len(calls) % 2 else -true_flow(1)  # there, then back

    calls = []
    args = {"scales": [1.0], "gaps": [1], "points": 300}
    by_function = temporal_consistency(as_model(colour), moving_clip(3), flow=function, **args)
    pairs = true_flow(1).expand(2, 2, *SIZE).numpy()
    by_pair = temporal_consistency(as_model(colour), moving_clip(3), flow=pairs, backward=-pairs, **args)
    mapped = temporal_consistency(as_model(colour), moving_clip(3), flow={1: pairs}, **args)
    assert by_function == by_pair == mapped
    assert len(calls) == 4


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip():
    maps, images = weakref.WeakSet(), weakref.WeakSet()  # storages that are alive
    most = [0, 0]

    def model(frames, size):
        pixels = colour(frames).clone()
        maps.add(pixels.untyped_storage())
        gc.collect()
        most[:] = max(most[0], len(maps)), max(most[1], len(images))
        return SimpleNamespace(pixels=pixels)

    def clip():
        for frame in moving_clip(12):
            frame = frame.clone()
            images.add(frame.untyped_storage())
            yield frame

    temporal_consistency(model, clip(), scales=[1.0], points=50, **known((1, 3)))
    assert 1 <= most[0] <= 2  # of past frames, features of 50 pixels only are kept
    assert 4 <= most[1] <= 5  # max(gap) + 1, and the one being read


def test_dis_flow_finds_a_translation():
    first, second = list(moving_clip(2))
    flow = dis_flow(first, second)
    assert flow.shape == (2, *SIZE)
    inner = flow[:, 8:-8, 8:-8].flatten(1).median(dim=1).values
    assert inner.tolist() == pytest.approx(list(SPEED), abs=0.3)
    result = temporal_consistency(as_model(colour), moving_clip(4), gaps=[1, 2], scales=[1.0])
    assert result.at(1.0, 1).consistency > 0.9
    assert result.at(1.0, 1).valid > 0.5


def test_without_opencv_the_command_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match="pip install opencv-python-headless"):
        temporal_consistency(as_model(colour), list(moving_clip(2)), gaps=[1])


def test_bad_input_is_refused():
    model, clip = as_model(colour), list(moving_clip(3))
    flow = {"flow": true_flow(1), "gaps": [1]}
    with pytest.raises(InputError, match="has 1 frame; gap 1 needs at least 2"):
        temporal_consistency(model, clip[:1], **flow)
    with pytest.raises(InputError, match="has 3 frames; gap 10 needs at least 11"):
        temporal_consistency(model, clip)
    with pytest.raises(InputError, match="has 3 frames; gap 3 needs"):
        temporal_consistency(model, iter(clip), flow=true_flow(1), gaps=[3])  # the length shows at the end
    with pytest.raises(InputError, match="one size"):
        temporal_consistency(model, [clip[0], clip[1][:, 1:]], **flow)
    with pytest.raises(InputError, match="at least 8 a side"):
        temporal_consistency(model, [f[:, :7] for f in clip], **flow)
    with pytest.raises(InputError, match=r"frame 0 at scale 0\.1 is 5 x 6"):
        temporal_consistency(model, clip, scales=[0.1], **flow)
    frames = iter([1.0, float("nan"), 1.0])
    with pytest.raises(NonFiniteError, match=r"frame 1: .* NaN"):
        temporal_consistency(as_model(lambda i: i * next(frames)), clip, scales=[1.0], **flow)
    with pytest.raises(InputError, match=r"expected \[2, 48, 64\]"):
        temporal_consistency(model, clip, flow=np.zeros((48, 64, 2)), gaps=[1])
    with pytest.raises(InputError, match="is for a single gap"):
        temporal_consistency(model, clip, flow=true_flow(1), gaps=[1, 2])
    with pytest.raises(InputError, match=r"add \[2\]"):
        temporal_consistency(model, clip, flow={1: true_flow(1)}, gaps=[1, 2])
    with pytest.raises(InputError, match="holds 1 pairs"):
        temporal_consistency(model, clip, flow=true_flow(1)[None], gaps=[1])
    with pytest.raises(InputError, match="called in both directions"):
        temporal_consistency(model, clip, flow=lambda a, b: true_flow(1), backward=true_flow(1), gaps=[1])
    for bad in ({"gaps": [0]}, {"gaps": []}, {"scales": [0]}, {"threshold": 0}, {"points": 1}, {"gaps": [1, 1]}):
        with pytest.raises(InputError, match=next(iter(bad))):
            temporal_consistency(model, clip, **{**flow, **bad})
    with pytest.raises(InputError, match="was not measured"):
        temporal_consistency(model, clip, scales=[1.0], **flow).at(1.0, 2)


def test_a_dense_model_on_a_clip():
    torch.manual_seed(0)
    result = temporal_consistency(tiny_model(), moving_clip(4), **known((1, 2)))
    assert len(result.settings) == 4
    assert all(0 < s.consistency < 1 for s in result.settings)
