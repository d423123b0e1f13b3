"""Retrieval's search: blocks of any size, the first look in bfloat16 and its bound, an approximate index."""

import pytest
import torch
from dense_ctx_probes import retrieval, retrieval_blocks, retrieval_search
from dense_ctx_probes.retrieval import RetrievalProbe

from dense_ctx.interfaces import DenseFeatures


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("metric", ["product", "l2"])
@pytest.mark.parametrize(("block", "rows"), [(7, 3), (64, 2), (300, 100), (1000, 1)])
@pytest.mark.parametrize("k", [1, 5, 40, 320])
def test_blocks_of_any_size_find_the_nearest(monkeypatch, metric, block, rows, k):
    monkeypatch.setattr(retrieval_blocks, "BLOCK", block)
    queries, keys = noise(11, 6, seed=1), noise(333, 6)
    keys[300:] = keys[:33] * 1.5
    scores, indices = retrieval_blocks.exhaustive(queries, keys, k, metric, rows)
    reference = queries @ keys.T - (keys.square().sum(1) / 2 if metric == "l2" else 0)
    best = reference.topk(k, 1)
    torch.testing.assert_close(scores, best.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reference.gather(1, indices), best.values, rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == k for row in indices.tolist())


def test_the_first_look_bounds_what_rounding_takes():
    """A key each number of which is rounded down, behind 2k that are not: the bound is that of the whole vector."""
    keys = torch.ones(120, 64)
    for row in range(59):
        keys[row, row : row + 13 if row < 51 else 64] = 1 + 2.0**-7
    keys[51:59] = keys[:8].roll(3, 1)
    keys[59] = 1.0037  # 1 in bfloat16; the largest sum
    keys[60:] = -keys[:60]  # the mean of all keys, which is taken off, is 0
    scores, indices = retrieval_blocks.by_first_look(torch.ones(1, 64), keys, 2, 8)
    assert indices[0, 0] == 59
    torch.testing.assert_close(scores[0], (keys.sum(1)).topk(2).values)


ABOVE = 1 + 3 * 2.0**-10  # 1 in bfloat16, by nearly the most that rounding takes: 2^-8


def rounding_case(kind, dim):
    """A query and keys, each also with the other sign (their mean is 0), of which rounding takes nearly the bound.

    All that is rounded is parallel: Cauchy-Schwarz holds with equality. Lengths differ, the longest key is not the one
    that loses most, and they lie in blocks of their own.
    """
    query, keys = torch.ones(dim), noise(6, dim).sign() / 4
    keys[0] = 1.5
    keys[1] = 1
    if kind in ("queries", "both"):
        query *= ABOVE
    if kind in ("keys", "both"):
        keys[1] *= ABOVE
    if kind == "sums":  # at right angles: only sums round
        query[::2], keys = torch.tensor(0.5), torch.ones(6, dim)
        keys[:, ::2] = -2
        keys *= torch.tensor([1, 0.5, 0.25, 2, 1, 1])[:, None]
    if kind == "anywhere":
        query, keys = noise(dim, seed=3), noise(6, dim, seed=4)
    return query, torch.stack([keys, -keys], 1).flatten(0, 1)


@pytest.mark.parametrize("common", [0.0, 4.0])
@pytest.mark.parametrize("dim", [2, 64, 1024])
@pytest.mark.parametrize("kind", ["keys", "queries", "both", "sums", "anywhere"])
def test_the_bound_of_the_first_look_is_above_all_errors_and_reached(monkeypatch, kind, dim, common):
    """No error, in double precision, is above the bound; where what is rounded is parallel, the largest error is it."""
    query, keys = rounding_case(kind, dim)
    if kind != "anywhere":
        keys += common  # taken off again before rounding: multiples of 2^-10, all exact
    keys = keys.repeat(20, 1)  # as near twenty times: nothing is proven, all come to the second look
    monkeypatch.setattr(retrieval_blocks, "BLOCK", 16)
    least, look = [], retrieval_blocks._all_above
    monkeypatch.setattr(
        retrieval_blocks, "_all_above", lambda *args: least.append(args[2].double().item()) or look(*args)
    )
    scores, _ = retrieval_blocks.by_first_look(query[None], keys, 2, 1)
    centre = keys[:: len(keys) // 16].mean(0)
    exact, apart = query.double(), (keys - centre).double()
    short, rounded = query.bfloat16().double(), (keys - centre).bfloat16().double()
    best = (keys.double() @ exact).topk(2).values[-1]
    assert scores[0, -1].item() == pytest.approx(best.item(), rel=1e-6, abs=1e-6)
    errors = (apart @ exact - rounded @ short).abs()
    parallel = exact.norm() * (apart - rounded).norm(dim=1).max() + (exact - short).norm() * rounded.norm(dim=1).max()
    # two products in single precision, each of an error of at most n u |a| |b| (Higham 2002, section 3.1)
    sums = 2 * dim * 2.0**-24 * (exact.norm() + (exact - short).norm())
    sums *= rounded.norm(dim=1).max() + (apart - rounded).norm(dim=1).max()
    assert errors.max() <= parallel * (1 + 1e-12)
    if kind in ("keys", "queries") and not common:
        assert errors.max() > 0.99 * parallel
    level = best - centre.double() @ exact - parallel - sums
    level -= 2.0**-8 * level.abs()  # rounding of the product itself
    noise_of_sums = 4 * 2.0**-24 * (best.abs() + (centre.double() @ exact).abs())
    assert least == [pytest.approx(level.item(), rel=1e-6, abs=noise_of_sums.item() + 1e-7 * parallel.item())]
    first = (rounded @ short)[(keys.double() @ exact) >= best]
    assert first.bfloat16().double().min() >= level  # no neighbour is missed


def test_keys_above_a_level_are_filled_up_with_none():
    keys = torch.tensor([[3.0], [1.0], [2.0], [-1.0]])
    blocks = iter([(keys[:3], None), (keys[3:], None)])
    rows = retrieval_blocks._all_above(torch.tensor([[1.0], [1.0], [-1.0]]), blocks, torch.tensor([3.0, 1.5, 1.5]))
    assert rows.tolist() == [[0, -1], [0, 2], [-1, -1]]


def test_only_the_neighbours_that_are_asked_for_have_scores():
    keys, candidates = torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([[1, 0, -1], [2, -1, -1]])
    scores, indices = retrieval_blocks._rescored(torch.ones(2, 1), keys, candidates, 2)
    assert scores.tolist() == [[3, 1], [2, -float("inf")]]
    assert (indices[0].tolist(), indices[1, 0].item()) == ([0, 1], 2)


def test_the_last_neighbour_is_looked_for_again_and_not_only_the_first():
    """Two keys far ahead; the third, 32 (ABOVE - 1) = 0.09 by sums, is 0 in bfloat16 and behind many of 0.05."""
    keys = torch.zeros(200, 64)
    keys[:2, 0], keys[10:30, 0] = 2, 0.05
    keys[5, :32], keys[5, 32:] = ABOVE, -1
    keys[100:] = -keys[:100]
    scores, indices = retrieval_blocks.by_first_look(torch.ones(1, 64), keys, 3, 4)
    assert sorted(indices[0].tolist()) == [0, 1, 5]
    torch.testing.assert_close(scores[0], torch.tensor([2, 2, 32 * (ABOVE - 1)]))


def test_what_is_clearly_ahead_needs_no_second_look(monkeypatch):
    """Of 2k = 4 candidates the third may be the second, but the last, far below it, proves that none is missing."""
    keys = torch.zeros(400, 8)
    keys[::2, 0], keys[1::2, 0] = 0.1, -0.1
    keys[[0, 390, 30], 0] = torch.tensor([1.5, 1.0, 0.999])  # 0.999 is 1 in bfloat16
    keys[[1, 391, 31], 0] = -keys[[0, 390, 30], 0]
    monkeypatch.setattr(retrieval_blocks, "_all_above", lambda *args: pytest.fail("a second look"))
    monkeypatch.setattr(retrieval_blocks, "exhaustive", lambda *args: pytest.fail("a search in float32"))
    queries = torch.eye(8)[:1].repeat(3, 1) * torch.tensor([[1.0], [2.0], [0.3]])
    _, indices = retrieval_blocks.by_first_look(queries, keys, 2, 2)
    assert indices.tolist() == [[0, 390]] * 3


@pytest.mark.parametrize("pays", [False, True])
def test_the_first_look_is_taken_where_it_pays(monkeypatch, pays):
    calls = []
    monkeypatch.setattr(retrieval_search, "first_look_pays", lambda *args: pays)
    for name in ("by_first_look", "exhaustive"):
        search = getattr(retrieval_search, name)
        monkeypatch.setattr(retrieval_search, name, lambda *args, n=name, f=search: calls.append(n) or f(*args))
    queries, keys = noise(5, 6, seed=1), noise(90, 6)
    scores, _ = retrieval_search.nearest(queries, keys, 3)
    torch.testing.assert_close(scores, (queries @ keys.T).topk(3).values)
    assert calls == ["by_first_look" if pays else "exhaustive"]
    assert not retrieval_search.nearest(queries.requires_grad_(), keys, 3)[0].requires_grad


@pytest.mark.parametrize("count", [63, 64, 65, 700, 3000])
@pytest.mark.parametrize("k", [1, 2, 9])
def test_two_looks_find_the_largest(count, k):
    scores = noise(5, count)
    scores[:, -1] = 9  # in a group that is filled up
    values, index = retrieval_blocks.largest(scores, k)
    assert torch.equal(values, scores.topk(k, 1).values)
    assert torch.equal(scores.gather(1, index), values)
    least = values[:, -1]
    row, column, hit = retrieval_blocks._hits(scores, least)
    assert sorted(zip(row.tolist(), column.tolist(), strict=True)) == [tuple(p) for p in (
        scores > least[:, None]).nonzero().tolist()]  # fmt: skip
    assert torch.equal(hit, scores[row, column])


# ---------------------------------------------------------------------- approximate


def support(rows, height=64):
    maps = rows.view(1, height, -1, rows.shape[1]).movedim(-1, 1)
    return DenseFeatures(torch.zeros(1, 1, *maps.shape[-2:]), maps)


def test_fewer_neighbours_than_asked_for_weigh_alone(monkeypatch):
    """An index that finds two of four and then none of the rest: those -1 have no weight, whatever the first row is."""
    rows, labels = noise(64, 5), torch.arange(64).view(1, 8, 8) % 3
    made, measured = [], []

    class Index:
        def __init__(self, keys, kind, metric, seed):
            made.append((keys, kind, metric, seed))

        def search(self, queries, k):
            return torch.tensor([[7, 3] + [-1] * (k - 2)]).repeat(len(queries), 1)

        def recall(self, queries, keys, k):
            assert k == 4
            measured.append(queries)
            return 0.5

    monkeypatch.setattr(retrieval, "ApproximateIndex", Index)
    probe = RetrievalProbe(k=4, temperature=0.3, engine="ivf", seed=5).partial_fit(support(rows, 8), labels)
    keys, values = probe.bank_.whole()
    with pytest.warns(UserWarning, match="finds 50.0%"):
        found, index, cosines = probe.retrieve(keys[:1])
    assert index.tolist() == [[7, 3, -1, -1]]
    assert cosines[0, 2:].tolist() == [-float("inf")] * 2
    near = keys[[7, 3]] @ keys[0]
    torch.testing.assert_close(cosines[0, :2], near)
    torch.testing.assert_close(found[0], (near / 0.3).softmax(0) @ values[[7, 3]])
    probe.retrieve(keys[:2])
    assert len(made) == 1  # the same keys, the same index: built once, measured and warned of once
    queries = noise(1024, 5)
    with pytest.warns(UserWarning, match=r"finds 50.0% \(256 queries, 128 rows\)"):
        probe.partial_fit(support(rows, 8), labels).retrieve(queries)
    assert len(measured[0]) == 1
    torch.testing.assert_close(measured[1], torch.nn.functional.normalize(queries[::4], dim=1))
    few = RetrievalProbe(k=4, engine="ivf", seed=5).partial_fit(support(rows, 8), labels)
    with pytest.warns(UserWarning, match=r"\(3 queries, 64 rows\)"):
        few.retrieve(keys[:3])
    assert [len(item[0]) for item in made] == [64, 128, 64]
    assert all(item[1:] == ("ivf", "product", 5) for item in made)
