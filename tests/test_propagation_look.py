"""The first look in bfloat16 gives what products in float32 give: smooth pictures, ties, strokes, one by one."""

import pytest
import torch
from dense_ctx_probes import local_knn, local_knn_tiles, propagation
from dense_ctx_probes.local_knn import Propagator
from torch.nn import functional

from dense_ctx.interfaces import DenseFeatures


def clip(kind, frames=4, channels=24, height=19, width=31):
    """Features [T, C, h, w] and labels [2, h, w]: noise, or a smooth pattern that drifts, or one with flat parts."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(frames, channels, height, width, generator=generator)
    if kind != "noise":
        coarse = torch.randn(1, channels, 4, 6, generator=generator)
        smooth = functional.interpolate(coarse, size=(height, width + frames), mode="bicubic")[0]
        noise = torch.stack([smooth[..., t : t + width] for t in range(frames)]) + 0.02 * noise
    if kind == "flat":
        noise[:, :, :, : width // 2] = 1.0
    labels = torch.rand(2, height, width, generator=generator)
    return noise, labels / labels.sum(0)


def run(monkeypatch, rounded, frames, labels, **options):
    monkeypatch.setattr(local_knn, "multiplies_bfloat16", lambda device: rounded)
    propagator = Propagator(frames[0], labels, **options)
    return torch.stack([propagator.step(frame) for frame in frames[1:]])


@pytest.mark.parametrize("few", [0, 8, 1000])
@pytest.mark.parametrize("kind", ["noise", "smooth", "flat"])
def test_a_first_look_changes_nothing(monkeypatch, kind, few):
    monkeypatch.setattr(local_knn_tiles, "_FEW", few)  # the tile again, or each window by itself
    frames, labels = clip(kind)
    for options in ({"size_mask_neighborhood": 5, "topk": 3}, {"n_last_frames": 1, "temperature": 0.02}):
        exact, looked = (run(monkeypatch, rounded, frames, labels, **options) for rounded in (False, True))
        torch.testing.assert_close(looked, exact, rtol=0, atol=1e-5)


def test_what_is_not_annotated_has_no_vote(monkeypatch):
    frames, labels = clip("smooth")
    labels[:, ::2] = 0
    exact, looked = (run(monkeypatch, rounded, frames, labels, n_last_frames=0) for rounded in (False, True))
    torch.testing.assert_close(looked, exact, rtol=0, atol=1e-5)
    assert not torch.allclose(exact, run(monkeypatch, True, frames, clip("smooth")[1], n_last_frames=0), atol=1e-2)


def test_most_cells_are_proven_by_the_first_look(monkeypatch):
    """Otherwise it would cost time in place of saving it."""
    seen, plain = [], local_knn_tiles._by_first_look
    monkeypatch.setattr(local_knn_tiles, "_by_first_look", lambda *args: seen.append(plain(*args)) or seen[-1])
    run(monkeypatch, True, *clip("smooth", channels=96, height=30, width=40))
    assert len(seen) == 3
    assert max(float(rest.float().mean()) for rest in seen) < 0.05


def test_features_that_are_not_finite_stay_so(monkeypatch):
    monkeypatch.setattr(local_knn, "multiplies_bfloat16", lambda device: True)
    frames, labels = clip("noise")
    probe = propagation.PropagationProbe()
    probe.partial_fit(DenseFeatures(frames[:1], frames[:1]), labels.argmax(0)[None])
    frames[1, :, 3, 4] = float("nan")
    assert bool(probe.predict(DenseFeatures(frames[1:2], frames[1:2])).isnan().any())
