"""Soft k-NN: blocks of keys at their ends, the reservoir by definition, cells and classes that come later."""

import pytest
import torch
from dense_ctx_probes.knn import KnnProbe, soft_knn
from tensor_sizes import Largest

from dense_ctx.errors import InputError, NotFittedError
from dense_ctx.interfaces import DenseFeatures

BLOCK = 1 << 13  # keys


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def image(pixels):
    return DenseFeatures(pixels, pixels)


@pytest.mark.parametrize("count", [3, 5, BLOCK, BLOCK + 1, BLOCK + 3, 2 * BLOCK + 5])
def test_the_last_block_may_hold_fewer_keys_than_neighbours(count):
    queries, keys, values = noise(3, 8, seed=1), noise(count, 8), noise(count, 2, seed=2)
    keys[-1], keys[0] = 2 * queries[0], 3 * queries[1]  # the nearest of all, in the last and in the first block
    found, index = soft_knn(queries, keys, values, 5, 0.3)
    cosines = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(keys).T
    best = cosines.topk(min(5, count), 1)
    assert index[0, 0] == count - 1
    assert index[1, 0] == 0
    torch.testing.assert_close(cosines.gather(1, index), best.values, rtol=1e-5, atol=1e-5)
    expected = torch.einsum("qk,qkm->qm", (best.values / 0.3).softmax(1), values[index])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_search_takes_little_memory_whatever_the_bank():
    """64 MB of products; it took 256 and a copy of the bank, more than a `max_memory` of 400 MB left."""
    queries, keys, values = noise(4000, 4, seed=1), noise(3 * BLOCK, 4), noise(3 * BLOCK, 1, seed=2)
    with Largest() as largest:
        soft_knn(queries, keys, values, 1)
    assert largest.size <= 1 << 24


def test_k_below_and_above_the_number_of_keys_and_limits():
    queries, keys, values = noise(4, 3, seed=1), noise(6, 3), noise(6, 2, seed=2)
    for k in (1, 5, 6, 7, 100):
        found, index = soft_knn(queries, keys, values, k, 1e-3)
        assert index.shape == (4, min(k, 6))
        torch.testing.assert_close(found, values[index[:, 0]], rtol=0, atol=0.3)  # nearly the nearest alone
    wrong = [
        (queries[0], keys, values), (queries, keys[0], values[0]), (queries, keys, values[:5]),
        (queries[:, :2], keys, values), (queries[None], keys, values), (queries, keys[None], values),
    ]  # fmt: skip
    for args in wrong:
        with pytest.raises(InputError, match="do not match"):
            soft_knn(*args)
    for k, temperature in ((0, 0.1), (-1, 0.1), (1, 0.0), (1, -1.0), (1, float("nan"))):
        with pytest.raises(InputError, match="must be above 0"):
            soft_knn(queries, keys, values, k, temperature)
    with pytest.raises(InputError, match="must be above 0"):
        soft_knn(queries, keys[:0], values[:0])


def test_a_stride_is_at_least_a_pixel():
    with pytest.raises(InputError, match="stride=0"):
        KnnProbe(stride=0)


def kept_by_definition(parts, memory, seed):
    """Reservoir sampling, one row after the other, each part with its own generator (of the rows seen before it)."""
    bank, count = [], 0
    for rows in parts:
        room = max(0, min(memory - len(bank), len(rows)))
        numbers = torch.rand(
            len(rows) - room, generator=torch.Generator().manual_seed(seed + count), dtype=torch.float64
        )
        bank += list(rows[:room])
        for place, row in enumerate(rows[room:], room):
            slot = int(numbers[place - room] * (count + place + 1))
            if slot < memory:
                bank[slot] = row
        count += len(rows)
    return torch.stack(bank), count


@pytest.mark.parametrize("memory", [1, 7, 20, 29, 30, 31, 60, 61])
@pytest.mark.parametrize("seed", [0, 5])
def test_the_bank_is_a_reservoir(memory, seed):
    maps = [noise(1, 2, 4, 5, seed=s) for s in range(3)]
    probe = KnnProbe("regression", k=1, stride=1, memory=memory, seed=seed)
    for part in maps:
        probe.partial_fit(image(part), part + 1)
    expected, seen = kept_by_definition([part[0].flatten(1).T for part in maps], memory, seed)
    assert probe.seen_ == seen == 60
    assert torch.equal(probe.keys_, expected)
    assert torch.equal(probe.values_, expected + 1)  # keys and values stay together


def test_every_row_has_the_same_chance_of_staying():
    rows = torch.arange(24.0).view(1, 1, 4, 6) + 1
    counts = torch.zeros(25)
    for seed in range(400):
        probe = KnnProbe("regression", k=1, stride=1, memory=6, seed=1000 * seed)
        for part in rows.split(2, 2):
            probe.partial_fit(image(part), part)
        counts[probe.keys_[:, 0].long()] += 1
    assert counts[1:].sum() == 2400
    assert float((counts[1:] - 100).abs().max()) < 45  # five deviations of a binomial of 400 at a quarter


def test_a_bank_saved_half_way_goes_on_as_the_whole():
    maps = [noise(1, 2, 4, 5, seed=s) for s in range(2)]
    labels = [torch.arange(20).view(1, 4, 5) % 3, torch.arange(20).view(1, 4, 5) % 5]
    whole = KnnProbe(k=2, stride=1, memory=13, seed=3)
    with pytest.raises(NotFittedError, match="Nothing to save"):
        whole.state_dict()
    with pytest.raises(NotFittedError, match="Nothing in memory"):
        whole.predict(image(maps[0]))
    whole.partial_fit(image(maps[0]), labels[0])
    half = KnnProbe(k=2, stride=1, memory=13, seed=3)
    half.load_state_dict({key: value.clone() for key, value in whole.state_dict().items()})
    assert half.seen_ == 20
    for probe in (whole, half):
        probe.partial_fit(image(maps[1]), labels[1])
    assert torch.equal(whole.keys_, half.keys_)
    assert torch.equal(whole.values_, half.values_)
    small = KnnProbe(k=2, stride=1, memory=4, seed=3)
    small.load_state_dict({key: value.clone() for key, value in whole.state_dict().items()})
    small.partial_fit(image(maps[0]), labels[0])
    assert len(small.keys_) == len(small.values_) == 13  # what was loaded stays; nothing is added beside it


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_classes_that_come_later_and_go_again(order):
    labels = [torch.arange(12).view(1, 3, 4) % 2, torch.arange(12).view(1, 3, 4) % 4]
    maps = [noise(1, 3, 3, 4, seed=s) for s in range(2)]
    probe = KnnProbe(k=1, temperature=0.1, stride=1)
    for index in order:
        probe.partial_fit(image(maps[index]), labels[index])
    assert probe.values_.shape == (24, 4)
    for index in order:
        predicted = probe.predict(image(maps[index]))
        assert torch.equal(predicted.argmax(1), labels[index])
        torch.testing.assert_close(predicted.sum(1), torch.ones(1, 3, 4))


@pytest.mark.parametrize(("size", "step"), [((128, 128), 1), ((5, 3277), 2), ((256, 256), 2), ((257, 256), 3)])
def test_an_image_has_at_most_16384_cells(size, step):
    height, width = size
    probe = KnnProbe("regression", k=1, memory=10).partial_fit(image(torch.ones(1, 1, *size)), torch.ones(1, 1, *size))
    assert probe.seen_ == -(-height // step) * -(-width // step)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_prediction_is_of_cells_and_upsampled(step):
    support, query = noise(1, 3, 6, 9), noise(2, 3, 6, 9, seed=1)
    values = noise(1, 2, 6, 9, seed=2)
    probe = KnnProbe("regression", k=3, temperature=0.2, stride=step).partial_fit(image(support), values)
    pool = torch.nn.functional.avg_pool2d
    cells, stored, targets = (pool(x, step, ceil_mode=True) for x in (query, support, values))
    rows, _ = soft_knn(cells.movedim(1, -1).flatten(0, 2), stored[0].flatten(1).T, targets[0].flatten(1).T, 3, 0.2)
    expected = rows.view(2, *cells.shape[-2:], 2).movedim(-1, 1)
    upsample = torch.nn.functional.interpolate
    torch.testing.assert_close(probe.predict(image(query)), upsample(expected, (6, 9), mode="bilinear"))
    torch.testing.assert_close(probe.predict(image(query), (11, 20)), upsample(expected, (11, 20), mode="bilinear"))


def test_cells_that_are_partly_labelled():
    """A cell is the mean of all its pixels' features, and of its labelled pixels' values."""
    pixels, targets = noise(1, 2, 4, 4), noise(1, 1, 4, 4, seed=1)
    targets[0, 0, 0, 0] = targets[0, 0, 1, 1] = float("nan")
    targets[0, 0, 2:, 2:] = float("inf")
    probe = KnnProbe("regression", k=1, stride=2).partial_fit(image(pixels), targets)
    assert len(probe.keys_) == 3
    torch.testing.assert_close(probe.keys_[0], pixels[0, :, :2, :2].mean((1, 2)))
    torch.testing.assert_close(probe.values_[0], targets[0, :, [0, 1], [1, 0]].mean(1))
    several = torch.cat([targets, noise(1, 1, 4, 4, seed=2)], 1)
    assert len(KnnProbe("regression", k=1, stride=1).partial_fit(image(pixels), several).keys_) == 10
    with pytest.raises(InputError, match="No labelled pixel"):
        KnnProbe("regression").partial_fit(image(pixels), torch.full((1, 1, 4, 4), float("nan")))
    with pytest.raises(InputError, match="No labelled pixel"):
        KnnProbe().partial_fit(image(pixels), torch.full((1, 4, 4), -1))


def test_a_full_bank_has_each_cells_values_beside_its_key():
    """With threads that write at once, of which the last one's key and another one's values could stay."""
    side, memory, before = 256, 16_384, torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        probe = KnnProbe("regression", k=1, stride=1, memory=memory, seed=0)
        for image in range(2):
            numbers = (torch.arange(side * side) + image * side * side).float().view(1, 1, side, side)
            pixels = numbers.expand(1, 64, side, side)
            probe.partial_fit(DenseFeatures(pixels, pixels), numbers.expand(1, 12, side, side))
        assert torch.equal(probe.keys_[:, :1].expand(-1, 64), probe.keys_)
        assert torch.equal(probe.keys_[:, :12], probe.values_)
    finally:
        torch.set_num_threads(before)
