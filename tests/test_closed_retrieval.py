"""Retrieval's memory by definition: which patches stay and in what order, files in small blocks, states."""

import os
import tempfile

import pytest
import torch
from dense_ctx_probes import retrieval, retrieval_blocks, retrieval_files
from dense_ctx_probes.retrieval import RetrievalProbe
from dense_ctx_probes.retrieval_bank import Bank
from dense_ctx_probes.retrieval_cells import patch_of
from dense_ctx_probes.retrieval_files import RowFile
from torch.nn import functional

from dense_ctx.errors import CheckpointError, InputError, NotFittedError
from dense_ctx.interfaces import DenseFeatures, FitContext


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def image(patches, size, extent=(1.0, 1.0), pixels=None):
    pixels = torch.zeros(len(patches), 1, *size) if pixels is None else pixels
    return DenseFeatures(pixels, patches, None, extent)


# ---------------------------------------------------------------------- the bank


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("size", [1, 5, 12, 13, 16, 100])
def test_shares_of_a_bank(tmp_path, monkeypatch, folder, size):
    """Each image's first rows, at most size // images; beyond `size` images later ones have none."""
    monkeypatch.setattr(retrieval_files, "_BLOCK", 2)
    bank, parts = Bank(size, folder=tmp_path if folder else None), []
    for index, count in enumerate((7, 3, 9, 1, 6, 8, 2)):
        parts.append((3 * noise(count, 4, seed=index), noise(count, 2, seed=50 + index)))
        bank.add(*parts[-1])
        assert bank.rows <= 1.25 * size
        if index in (2, 4, 6):
            share = max(1, size // len(parts))
            keys, values = bank.whole()
            torch.testing.assert_close(
                keys, torch.cat([functional.normalize(k[:share], dim=1) for k, _ in parts[:size]])
            )
            assert torch.equal(values, torch.cat([v[:share] for _, v in parts[:size]]))
            assert bank.whole()[0] is keys  # joined once
            assert bank.counts().tolist() == [min(len(k), share) for k, _ in parts[:size]] + [0] * (len(parts) - size)
    assert len(bank) == 7


def test_directions_and_types_of_a_bank(tmp_path):
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    for folder in (None, tmp_path):
        bank = Bank(9, folder=folder)
        with pytest.raises(NotFittedError, match="The support set is empty"):
            bank.whole()
        bank.add(rows, torch.ones(2, 3))
        torch.testing.assert_close(bank.whole()[0], torch.tensor([[0.6, 0.8], [0.0, 0.0]]))  # no direction: nothing
        with pytest.raises(InputError, match="features have 3 dimensions; those in memory 2"):
            bank.add(torch.ones(1, 3), torch.ones(1, 3))
        plain = Bank(9, torch.float16, unit=False, folder=folder)
        plain.add(rows, torch.ones(2, 3))
        assert plain.whole()[0].dtype == plain.whole()[1].dtype == torch.float16
        assert torch.equal(plain.whole()[0], rows.half())
    grown = Bank(9)
    grown.add(rows, torch.ones(2, 1))
    first = grown.whole()
    grown.add(rows, torch.full((2, 3), 2.0))
    assert first[1].shape == (2, 1)
    assert grown.whole()[1].tolist() == [[1, 0, 0], [1, 0, 0], [2, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize("folder", [False, True])
def test_a_restored_bank_is_not_copied_and_goes_on(tmp_path, folder):
    keys, values, counts = noise(7, 3), noise(7, 2, seed=1), torch.tensor([3, 0, 4])
    bank = Bank(12, folder=tmp_path if folder else None)
    bank.add(noise(2, 3), noise(2, 2))
    bank.whole()
    bank.restore(keys, values, counts)
    assert torch.equal(bank.whole()[0], keys)
    assert torch.equal(bank.whole()[1], values)
    assert bank.counts().tolist() == [3, 0, 4]
    assert folder or bank.whole()[0].data_ptr() == keys.data_ptr()
    bank.add(torch.ones(5, 3), torch.ones(5, 2))
    assert bank.counts().tolist() == [3, 0, 3, 3]
    assert torch.equal(bank.whole()[1], torch.cat([values[:6], torch.ones(3, 2)]))
    small = Bank(3, folder=tmp_path if folder else None)
    small.restore(keys, values, counts)
    assert torch.equal(small.whole()[0], keys[[0, 3]])
    assert small.counts().tolist() == [1, 0, 1]
    for wrong in ((keys[:6], values, counts), (keys, values[:6], counts), (keys, values, counts[:2])):
        with pytest.raises(InputError, match="a bank of"):
            bank.restore(*wrong)


def test_rows_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval_files, "_BLOCK", 3)
    opened, make = [], tempfile.mkstemp
    monkeypatch.setattr(tempfile, "mkstemp", lambda **args: opened.append(make(**args)) or opened[-1])
    file = RowFile(tmp_path / "a/b", "keys", torch.float32)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(opened[0][0])  # closed
    rows = noise(20, 3)
    for part in (rows[:7], rows[7:8], rows[8:]):
        file.append(part)
    assert (file.rows, file.width) == (20, 3)
    assert torch.equal(file.view(), rows)
    with pytest.raises(InputError, match="rows of 2 numbers, where the file has 3"):
        file.append(rows[:, :2])
    counts, quotas = [7, 1, 0, 12], [2, 1, 0, 9]
    file.keep(counts, quotas)
    assert file.rows == 12
    assert torch.equal(file.view(), torch.cat([rows[:2], rows[7:8], rows[8:17]]))
    assert file.path.stat().st_size == 12 * 3 * 4
    file.append(rows[:1])
    assert torch.equal(file.view()[12:], rows[:1])
    file.clear()
    assert (file.rows, file.width, file.path.stat().st_size) == (0, None, 0)
    file.append(rows[:, :2])
    assert torch.equal(file.view(), rows[:, :2])
    path = file.path
    assert path.name.startswith("bank-keys-")
    assert path.suffix == ".bin"
    del file
    assert not path.exists()


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
        known = (counts.sum(1) > 0) if mode == "sound" else torch.ones(12, dtype=torch.bool)
        for patch in order_by_definition(counts, known, draws[index], sampling)[:4]:
            keys.append(functional.normalize(patches[index].flatten(1)[:, patch], dim=0))
            values.append(counts[patch] / counts[patch].sum())
    found = probe.bank_.whole()
    torch.testing.assert_close(found[0], torch.stack(keys))
    torch.testing.assert_close(found[1], torch.stack(values))
    assert probe.seen_ == 2


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
    seen = probe.seen_
    probe.partial_fit(image(patches, (4, 4)), hidden)  # one image of the two has labels
    assert probe.seen_ == seen + 2
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
        RetrievalProbe().partial_fit(image(patches[:0], (4, 4)), targets[:0])


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
    found = patch_of(size, grid, extent)
    full = [max(n, round(n / share)) for n, share in zip(size, extent, strict=True)]
    for y in range(size[0]):
        for x in range(size[1]):
            assert found[y, x] == y * grid[0] // full[0] * grid[1] + x * grid[1] // full[1]


# ---------------------------------------------------------------------- prediction and state


def test_predictions_at_smaller_and_larger_sizes_and_in_parts(monkeypatch):
    patches, targets = noise(2, 3, 4, 6), torch.arange(2 * 24).view(2, 4, 6) % 3
    probe = RetrievalProbe(k=4, temperature=0.2).partial_fit(image(patches, (4, 6)), targets)
    query = noise(2, 3, 4, 6, seed=1)
    rows, index, cosines = probe.retrieve(query.movedim(1, -1).flatten(0, 2))
    maps = rows.view(2, 4, 6, 3).movedim(-1, 1)
    assert torch.equal(probe.predict(image(query, (4, 6))), maps)
    for size, shrink in (((8, 12), False), ((2, 3), True), ((3, 6), True), ((4, 5), True), ((9, 6), False)):
        expected = functional.interpolate(maps, size, mode="bilinear", antialias=shrink)
        torch.testing.assert_close(probe.predict(image(query, (4, 6)), size), expected)
    padded = probe.predict(image(query, (7, 10), (7 / 8, 10 / 12)))
    torch.testing.assert_close(padded, functional.interpolate(maps, (8, 12), mode="bilinear")[:, :, :7, :10])
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
    for numbers in ([2, 2], [2, 1 << 40]):
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


# ---------------------------------------------------------------------- search


@pytest.mark.parametrize("metric", ["product", "l2"])
@pytest.mark.parametrize(("block", "rows"), [(7, 3), (64, 2), (300, 100), (1000, 1)])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_blocks_of_any_size_find_the_nearest(monkeypatch, metric, block, rows, k):
    monkeypatch.setattr(retrieval_blocks, "BLOCK", block)
    queries, keys = noise(11, 6, seed=1), noise(333, 6)
    keys[300:] = keys[:33] * 1.5
    scores, found = retrieval_blocks.exhaustive(queries, keys, k, metric, rows)
    wanted = queries @ keys.T - (keys.square().sum(1) / 2 if metric == "l2" else 0)
    best = wanted.topk(k, 1)
    torch.testing.assert_close(scores, best.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(wanted.gather(1, found), best.values, rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == k for row in found.tolist())


def test_the_first_look_bounds_what_rounding_takes():
    """A key each number of which is rounded down, behind 2k that are not: the bound is that of the whole vector."""
    keys = torch.ones(120, 64)
    for row in range(59):
        keys[row, row : row + 13 if row < 51 else 64] = 1 + 2.0**-7
    keys[51:59] = keys[:8].roll(3, 1)
    keys[59] = 1.0037  # 1 in bfloat16; the largest sum
    keys[60:] = -keys[:60]  # the mean of all keys, which is taken off, is 0
    scores, found = retrieval_blocks.by_first_look(torch.ones(1, 64), keys, 2, 8)
    assert found[0, 0] == 59
    torch.testing.assert_close(scores[0], (keys.sum(1)).topk(2).values)


@pytest.mark.parametrize("count", [63, 64, 65, 700, 3000])
@pytest.mark.parametrize("k", [1, 2, 9])
def test_two_looks_find_the_largest(count, k):
    scores = noise(5, count)
    scores[:, -1] = 9  # in a group that is filled up
    values, index = retrieval_blocks._top(scores, k)
    assert torch.equal(values, scores.topk(k, 1).values)
    assert torch.equal(scores.gather(1, index), values)
    least = values[:, -1]
    row, column, hit = retrieval_blocks._hits(scores, least)
    assert sorted(zip(row.tolist(), column.tolist(), strict=True)) == [tuple(p) for p in (
        scores > least[:, None]).nonzero().tolist()]  # fmt: skip
    assert torch.equal(hit, scores[row, column])
