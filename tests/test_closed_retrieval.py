"""Retrieval by definition: which patches stay and in what order, predictions at any size, states."""

import pytest
import torch
from dense_ctx_probes import retrieval
from dense_ctx_probes.retrieval import RetrievalProbe
from dense_ctx_probes.retrieval_cells import means, patch_of
from torch.nn import functional

from dense_ctx.errors import CheckpointError, InputError
from dense_ctx.interfaces import DenseFeatures, FitContext
from dense_ctx.persistence.file_args import CHANNELS


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def image(patches, size, extent=(1.0, 1.0), pixels=None):
    pixels = torch.zeros(len(patches), 1, *size) if pixels is None else pixels
    return DenseFeatures(pixels, patches, None, extent)


# ---------------------------------------------------------------------- which patches


def order_by_definition(histograms, known, draws, sampling):
    """A patch's number: how many patches hold each of its classes, summed, times its draw; the smallest come first."""
    score = draws.clone()
    if sampling == "balanced":
        present = histograms > 0
        for index in range(len(histograms)):
            score[index] *= sum(int((present[:, c] & known).sum()) for c in present[index].nonzero()[:, 0])
    return sorted(known.nonzero()[:, 0].tolist(), key=lambda index: float(score[index]))


@pytest.mark.parametrize("sampling", ["balanced", "uniform"])
@pytest.mark.parametrize("mode", ["sound", "official"])
def test_the_patches_that_stay(sampling, mode):
    patches, draws = noise(2, 5, 3, 4), torch.rand(2, 12, generator=torch.Generator().manual_seed(3))
    targets = torch.randint(-1, 3, (2, 6, 8), generator=torch.Generator().manual_seed(4))
    targets[0, :2, :4] = -1  # two patches without a label
    probe = RetrievalProbe(mode=mode, sampling=sampling, classes=3, memory=8)
    probe.partial_fit(image(patches, (6, 8)), targets, draws)
    keys, values = [], []
    for index in range(2):
        labels = targets[index] if mode == "sound" else targets[index].clamp_min(0)
        cells = labels.view(3, 2, 4, 2).movedim(1, 2).reshape(12, 4)
        counts = torch.stack([(cells == c).sum(1) for c in range(3)], 1).float()
        candidates = (counts.sum(1) > 0) if mode == "sound" else torch.ones(12, dtype=torch.bool)
        for patch in order_by_definition(counts, candidates, draws[index], sampling)[:4]:
            keys.append(functional.normalize(patches[index].flatten(1)[:, patch], dim=0))
            values.append(counts[patch] / counts[patch].sum())
    bank = probe.bank_.whole()
    torch.testing.assert_close(bank[0], torch.stack(keys))
    torch.testing.assert_close(bank[1], torch.stack(values))
    assert probe.seen_ == 2


@pytest.mark.parametrize("sampling", ["balanced", "uniform"])
def test_patches_of_equal_draws_stay_in_their_order(sampling):
    patches, draws = torch.arange(1.0, 4097).view(1, 1, 64, 64), torch.full((1, 4096), 0.5)
    draws[0, ::3] = 0.25
    probe = RetrievalProbe(mode="dip", sampling=sampling, memory=4000)
    probe.partial_fit(image(patches, (64, 64)), torch.zeros(1, 64, 64).long(), draws)
    order = sorted(range(4096), key=lambda patch: float(draws[0, patch]))  # Python's sort is stable
    assert (probe.bank_.whole()[0][:, 0] - 1).tolist() == order[:4000]


@pytest.mark.parametrize("memory", [15, 16])
def test_patches_that_all_fit_stay_in_the_order_of_the_image(memory):
    patches, draws = noise(1, 3, 4, 4), torch.arange(16).flip(0)[None] / 16
    probe = RetrievalProbe(mode="dip", sampling="uniform", memory=memory)
    probe.partial_fit(image(patches, (4, 4)), torch.zeros(1, 4, 4).long(), draws)
    rows = patches[0].flatten(1).T
    assert torch.equal(probe.bank_.whole()[0], rows if memory == 16 else rows.flip(0)[:15])


def test_draws_and_targets_at_their_limits():
    patches, targets = noise(2, 3, 2, 2), torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    probe = RetrievalProbe()
    edge = torch.zeros(2, 4)
    probe.partial_fit(image(patches, (4, 4)), targets, edge)  # 0 is a draw, 1 is none
    for wrong in (edge + 1, edge - 0.1, edge[:, :3], edge[0]):
        with pytest.raises(InputError, match=r"draws are numbers in \[0, 1\)"):
            probe.partial_fit(image(patches, (4, 4)), targets, wrong)
    one = edge.clone()
    one[1, 3] = 1
    with pytest.raises(InputError, match="draws are numbers"):
        probe.partial_fit(image(patches, (4, 4)), targets, one)
    hidden = targets.clone()
    hidden[0] = -1
    count = probe.seen_
    probe.partial_fit(image(patches, (4, 4)), hidden)  # one image of the two has labels
    assert probe.seen_ == count + 2
    assert len(probe.bank_) == 3
    for wrong in (targets[:1], targets.float(), targets[0]):
        with pytest.raises(InputError, match="Segmentation targets are integers"):
            probe.partial_fit(image(patches, (4, 4)), wrong)
    values = RetrievalProbe("regression")
    for wrong in (targets, noise(2, 4, 4), noise(1, 1, 4, 4)):
        with pytest.raises(InputError, match="Regression targets are floats"):
            values.partial_fit(image(patches, (4, 4)), wrong)
    with pytest.raises(InputError, match="A target holds class 2; the probe was made for 2 classes"):
        RetrievalProbe(classes=2).partial_fit(image(patches, (4, 4)), targets)
    assert RetrievalProbe(classes=3).partial_fit(image(patches, (4, 4)), targets).width_ == 3
    with pytest.raises(InputError, match="No labelled pixel"):
        RetrievalProbe(classes=1).partial_fit(image(patches[:0], (4, 4)), targets[:0])


def test_patches_without_a_pixel_stay_in_memory_as_the_evaluator_has_them():
    patches, target = noise(1, 3, 2, 2), torch.ones(1, 1, 1).long()  # a pixel beside four patches
    for mode, count in (("sound", 1), ("official", 4), ("dip", 4)):
        keys, values = RetrievalProbe(mode=mode, classes=2).partial_fit(image(patches, (1, 1)), target).bank_.whole()
        assert len(keys) == count
        assert sorted(values.tolist(), reverse=True) == [[0, 1]] + [[0, 0]] * (count - 1)


@pytest.mark.parametrize("grid", [(3, 2), (2, 3)])
def test_means_of_patches_without_a_value_are_0(grid):
    targets = noise(2, 2 * grid[0], 2 * grid[1])
    targets[:, -2:] = float("nan")
    values, share = means(targets, grid, (1.0, 1.0))
    expected = functional.avg_pool2d(targets, 2).flatten(1).T
    torch.testing.assert_close(values, expected.nan_to_num(0))
    assert share.tolist() == [4] * (6 - grid[1]) + [0] * grid[1]


def test_values_are_means_of_pixels_whose_every_channel_is_known():
    patches, targets = noise(1, 3, 2, 3), noise(1, 2, 4, 6)
    targets[0, 0, 0, 0] = targets[0, 1, 1, 1] = float("nan")
    targets[0, :, 2:, 4:] = float("inf")
    probe = RetrievalProbe("regression", k=1).partial_fit(image(patches, (4, 6)), targets)
    values = probe.bank_.whole()[1]
    assert values.shape == (5, 2)
    torch.testing.assert_close(values[0], targets[0, :, [0, 1], [1, 0]].mean(1))
    torch.testing.assert_close(values[1], targets[0, :, :2, 2:4].mean((1, 2)))
    assert probe.width_ == 2


@pytest.mark.parametrize(
    ("size", "grid", "extent"),
    [((20, 37), (3, 5), (20 / 24, 37 / 40)), ((5, 3), (5, 3), (1, 1)), ((7, 10), (3, 4), (1, 1)),
     ((2, 3), (4, 6), (1, 1))],
)  # fmt: skip
def test_the_patch_under_each_pixel(size, grid, extent):
    patches = patch_of(size, grid, extent)
    full = [max(n, round(n / share)) for n, share in zip(size, extent, strict=True)]
    for y in range(size[0]):
        for x in range(size[1]):
            assert patches[y, x] == y * grid[0] // full[0] * grid[1] + x * grid[1] // full[1]


# ---------------------------------------------------------------------- prediction and state


def test_predictions_at_smaller_and_larger_sizes_and_in_parts(monkeypatch):
    patches, targets = noise(2, 3, 4, 6), torch.arange(2 * 24).view(2, 4, 6) % 3
    probe = RetrievalProbe(k=4, temperature=0.2).partial_fit(image(patches, (4, 6)), targets)
    query = noise(2, 3, 4, 6, seed=1)
    rows, index, cosines = probe.retrieve(query.movedim(1, -1).flatten(0, 2))
    double = probe.retrieve(query.movedim(1, -1).flatten(0, 2).double())
    assert [part.dtype for part in double] == [torch.float32, torch.int64, torch.float32]
    assert torch.equal(double[0], rows)
    maps = rows.view(2, 4, 6, 3).movedim(-1, 1)
    assert torch.equal(probe.predict(image(query, (4, 6))), maps)
    for size, shrink in (((8, 12), False), ((2, 3), True), ((3, 6), True), ((4, 5), True), ((9, 6), False)):
        expected = functional.interpolate(maps, size, mode="bilinear", antialias=shrink)
        torch.testing.assert_close(probe.predict(image(query, (4, 6)), size), expected)
    padded = probe.predict(image(query, (7, 10), (7 / 14, 10 / 12)))
    torch.testing.assert_close(padded, functional.interpolate(maps, (14, 12), mode="bilinear")[:, :, :7, :10])
    monkeypatch.setattr(retrieval, "_CHUNK", 7)
    for one, other in zip(probe.retrieve(query.movedim(1, -1).flatten(0, 2)), (rows, index, cosines), strict=True):
        torch.testing.assert_close(one, other)


def test_a_class_that_only_the_setting_knows_is_predicted_as_nothing():
    patches, targets = noise(1, 3, 2, 2), torch.zeros(1, 4, 4, dtype=torch.int64)
    probe = RetrievalProbe(classes=None).partial_fit(image(patches, (4, 4)), targets)
    assert probe.predict(image(patches, (4, 4))).shape[1] == 1
    hidden = targets - 1
    hidden[0, 0, 0] = 2
    probe.partial_fit(image(patches, (4, 4)), hidden)
    assert probe.predict(image(patches, (4, 4))).shape[1] == 3
    state = probe.state_dict()
    assert state["numbers"].tolist() == [2, 3]
    loaded = RetrievalProbe()
    loaded.load_state_dict(state)
    assert (loaded.seen_, loaded.width_) == (2, 3)
    assert torch.equal(loaded.predict(image(patches, (4, 4))), probe.predict(image(patches, (4, 4))))
    wider = RetrievalProbe()
    wider.load_state_dict({**state, "numbers": torch.tensor([2, 5])})
    assert wider.predict(image(patches, (4, 4)))[:, 3:].eq(0).all()
    wider.load_state_dict({**state, "numbers": torch.tensor([2, CHANNELS.stop])})
    assert wider.width_ == CHANNELS.stop
    for numbers in ([2, 2], [2, CHANNELS.stop + 1], [2, 1 << 40]):
        with pytest.raises(CheckpointError, match=r"values of 3 classes where numbers says"):
            RetrievalProbe().load_state_dict({**state, "numbers": torch.tensor(numbers)})


def test_what_is_read_is_the_probes_own_or_the_evaluations():
    for own, given, expected in ((None, "pixels", "pixels"), (None, "both", "pixels"), (None, "patches", "patches"),
                                 ("patches", "pixels", "patches"), ("pixels", "patches", "pixels")):  # fmt: skip
        probe = RetrievalProbe(reads=own)
        assert probe.reads == (own or "patches")
        probe.configure(FitContext(("a", "b"), reads=given))
        assert probe.reads == expected
    pixels = noise(1, 4, 3, 5)
    probe = RetrievalProbe(reads="pixels", k=1).partial_fit(
        image(noise(1, 2, 1, 1), (3, 5), (0.5, 0.5), pixels), torch.arange(15).view(1, 3, 5)
    )
    predicted = probe.predict(image(noise(1, 2, 1, 1), (3, 5), (0.5, 0.5), pixels))
    assert torch.equal(predicted.argmax(1), torch.arange(15).view(1, 3, 5))
