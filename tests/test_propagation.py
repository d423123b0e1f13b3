"""Propagation against DINO's recorded run, against the dense formulation, and on a clip."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_predict import track
from dense_ctx_probes.local_knn import Propagator, _normalized, upsampled_votes
from dense_ctx_probes.local_knn_tiles import Context, propagated
from dense_ctx_probes.local_windows import Windows

from dense_ctx import AutoDenseModel
from dense_ctx.errors import InputError
from dense_ctx.testing import tiny_model

ORACLE = Path(__file__).parent / "oracles" / "vos_knn.npz"


@pytest.fixture(scope="module")
def oracle():
    return {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(ORACLE).items()}


def test_soft_labels_and_maps_equal_dino(oracle):
    propagator = Propagator(oracle["features"][0], oracle["first_onehot"][0])
    size = tuple(oracle["out_hw"].tolist())
    for frame in range(1, 10):
        soft = propagator.step(oracle["features"][frame])
        torch.testing.assert_close(soft, oracle["soft"][frame - 1], rtol=0, atol=1e-5)
        same = upsampled_votes(soft, size, 8).argmax(0) == oracle["seg_fullres"][frame]
        assert same.float().mean() >= 0.999


def dense(query, keys, values, radius, topk, temperature):
    """The recipe with the whole affinity: [T h w, h w]."""
    height, width = query.shape[1:]
    unit = torch.nn.functional.normalize
    affinity = unit(keys, dim=1).flatten(2).transpose(1, 2) @ unit(query, dim=0).flatten(1)
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    far = ((ys.flatten()[:, None] - ys.flatten()).abs() > radius) | (
        (xs.flatten()[:, None] - xs.flatten()).abs() > radius
    )
    affinity = (affinity / temperature).exp().masked_fill(far, 0).flatten(0, 1)
    limit = affinity.topk(topk, dim=0).values[-1]
    affinity = affinity.masked_fill(affinity < limit, 0)
    return (values.transpose(0, 1).flatten(1) @ (affinity / affinity.sum(0))).unflatten(1, (height, width))


@pytest.mark.parametrize(("height", "width", "radius"), [(5, 31, 2), (29, 13, 12), (14, 15, 3), (1, 9, 4)])
def test_tiles_equal_the_dense_formulation(height, width, radius):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(4, 6, height, width, generator=generator)
    labels = torch.rand(3, height, width, generator=generator)
    propagator = Propagator(frames[0], labels, n_last_frames=2, size_mask_neighborhood=radius, topk=4)
    bank = [(frames[0], labels)]
    for frame in frames[1:]:
        expected = dense(frame, torch.stack([k for k, _ in bank]), torch.stack([v for _, v in bank]), radius, 4, 0.1)
        torch.testing.assert_close(propagator.step(frame), expected, rtol=1e-4, atol=1e-5)
        bank = [bank[0], *bank[1:][-1:], (frame, expected)]


@pytest.mark.parametrize(
    ("height", "width", "radius"), [(5, 31, 2), (29, 13, 12), (14, 15, 3), (1, 9, 4), (40, 41, 2), (17, 50, 0)]
)
@pytest.mark.parametrize("memory", [1 << 30, 1])
def test_all_tiles_at_once_equal_one_after_the_other(monkeypatch, height, width, radius, memory):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 6, height, width, generator=generator)
    values = torch.rand(3, height, width, 2, generator=generator)
    blank = torch.rand(1, height, width, generator=generator) < 0.3
    query, keys = _normalized(features[:1])[0], _normalized(features[1:])
    windows = Windows(height, width, radius, torch.device("cpu"))
    if memory == 1:
        monkeypatch.setattr(windows, "parts", lambda *_: [slice(i, i + 1) for i in range(len(windows.near))])
    for empty in (None, blank):
        expected = propagated(query, Context(keys, values, empty, None), radius, 4, 0.1)
        output = windows.propagate(query, keys, values, empty, 4, 0.1)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-6)
    if radius > 1:
        assert windows.propagate(query * 0, keys, values, None, 4, 0.1) is None  # all tie


def test_similarities_keep_to_the_memory_there_is(monkeypatch):
    windows = Windows(40, 41, 2, torch.device("cpu"))
    counts = {}
    for free in (80 << 30, 40 << 20, 1):
        monkeypatch.setattr("dense_ctx_probes.local_windows.free_memory", lambda device, free=free: free)
        parts = windows.parts(9, 384)
        assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
        assert (parts[0].start, parts[-1].stop) == (0, len(windows.near))
        counts[free] = len(parts)
    assert counts[80 << 30] == 1 < counts[40 << 20] < counts[1] == len(windows.near)


def test_exact_repeats_tie_and_all_of_them_vote():
    features = torch.ones(3, 4, 6)  # every cell alike
    labels = torch.rand(2, 4, 6)
    soft = Propagator(features, labels, size_mask_neighborhood=0, topk=5).step(features)
    torch.testing.assert_close(soft, labels.mean((1, 2))[:, None, None].expand(2, 4, 6))


def test_still_clip_keeps_its_mask():
    model = AutoDenseModel.from_parts("efficientnet-lite0", "upsample")
    rng = np.random.default_rng(0)
    frame = np.kron(rng.integers(0, 256, (6, 9, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    mask = torch.zeros(96, 144, dtype=torch.int64)
    mask[32:64, 48:96] = 7
    maps = list(track(model, [frame] * 4, mask))
    assert torch.equal(maps[0], mask)
    for labels in maps:
        assert set(labels.unique().tolist()) <= {0, 7}
        assert (labels == mask).float().mean() > 0.97


def test_streams_one_frame_at_a_time():
    model = tiny_model()
    read = []

    def frames():
        for index in range(5):
            read.append(index)
            yield torch.rand(3, 24, 40)

    mask = torch.zeros(24, 40, dtype=torch.int64)
    mask[4:20, 8:24] = 1
    for number, labels in enumerate(track(model, frames(), mask, stride=4)):
        assert read == list(range(number + 1))
        assert labels.shape == (24, 40)
        assert labels.dtype == torch.int64


def test_an_object_that_vanishes_is_no_error():
    model = tiny_model()
    mask = torch.zeros(16, 24, dtype=torch.int64)
    mask[0:8, 0:8] = 1
    frames = [torch.rand(3, 16, 24), torch.zeros(3, 16, 24), torch.zeros(3, 16, 24)]
    assert len(list(track(model, frames, mask, stride=4))) == 3


def test_objects_between_the_cells_are_said():
    """They were lost without a word, and where there was no other one the certainty was a bare RuntimeError."""
    model, certainties = tiny_model(), []
    mask = torch.zeros(16, 24, dtype=torch.int64)
    mask[4:5, 4:5] = 7
    frames = [torch.rand(3, 16, 24)] * 2
    with pytest.raises(InputError, match=r"object\(s\) 7 .* no cell of 4 pixels .* give a smaller stride"):
        list(track(model, frames, mask, stride=4))
    mask[8:16, 8:16] = 3
    with pytest.warns(UserWarning, match=r"object\(s\) 7 of the first mask"):
        list(track(model, frames, mask, stride=4, report=lambda frame, certainty: certainties.append(certainty)))
    assert len(certainties) == 1
    list(track(model, frames, mask, stride=1))


def test_bad_input():
    model = tiny_model()
    frame = torch.rand(3, 16, 24)
    mask = torch.zeros(16, 24, dtype=torch.int64)
    cases = [
        (([frame], mask), "only label 0: nothing to track"),
        (([frame], torch.zeros(16, 25)), "16 x 25 .* the image is 16 x 24"),
        (([], mask), "no frames"),
        (
            ([frame, torch.rand(3, 16, 25)], mask.index_fill(0, torch.tensor([2]), 1)),
            "Frame 1: it is 16 x 25 .* first was 16 x 24",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            list(track(model, *arguments, stride=4))
    with pytest.raises(InputError, match="stride=0"):
        list(track(model, [frame], mask, stride=0))
    with pytest.raises(InputError, match="topk=0"):
        Propagator(torch.rand(3, 4, 5), torch.rand(2, 4, 5), topk=0)
    with pytest.raises(InputError, match=r"\[3, 4, 5\] and \[2, 4, 6\]"):
        Propagator(torch.rand(3, 4, 5), torch.rand(2, 4, 6))
    with pytest.raises(InputError, match=r"\[3, 5, 5\]; the first frame's were \[3, 4, 5\]"):
        Propagator(torch.rand(3, 4, 5), torch.rand(2, 4, 5)).step(torch.rand(3, 5, 5))
