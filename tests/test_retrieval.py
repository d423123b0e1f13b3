"""Retrieval from a memory bank: the published evaluator index by index, and the parts it is made of."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_metrics.segmentation import Segmentation, confusion_matrix
from dense_ctx_probes import retrieval_blocks
from dense_ctx_probes.knn import soft_knn
from dense_ctx_probes.retrieval import RetrievalProbe
from dense_ctx_probes.retrieval_bank import Bank
from dense_ctx_probes.retrieval_search import nearest
from torch.nn import functional

from dense_ctx.errors import FileError, InputError, MissingDependencyError, NotFittedError
from dense_ctx.interfaces import DenseFeatures

ORACLE = Path(__file__).parent / "oracles/hummingbird.npz"


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def features(rows):
    """Patch features [B, 64, C] of 8 x 8 grids; pixels are not read."""
    maps = rows.transpose(1, 2).unflatten(2, (8, 8))
    return DenseFeatures(torch.empty(len(rows), 1, 64, 64), maps)


def annotation(labels):
    return torch.where(labels == 255, -1, labels.long())


@pytest.mark.parametrize("engine", ["torch", "faiss"])
@pytest.mark.parametrize("case", ["full", "bounded"])
def test_published_evaluator(oracle, case, engine):
    bounded = case == "bounded"
    probe = RetrievalProbe(
        mode="official", sampling="balanced" if bounded else "uniform", classes=4, engine=engine,
        k=int(oracle["k"]), temperature=float(oracle["beta"]), memory=120 if bounded else 10_000,
    )  # fmt: skip
    draws = oracle["bounded_uniform_draws"].view(6, 64)
    for index in range(6):  # one at a time, as an evaluation gives them
        one = slice(index, index + 1)
        probe.partial_fit(features(oracle["train_features"][one]), annotation(oracle["train_labels"][one]), draws[one])
    keys, values = probe.bank_.whole()
    assert (values - oracle[f"{case}_label_memory"]).abs().max() < 1e-6
    expected = oracle["bounded_feature_memory"] if bounded else oracle["full_feature_memory_first64"]
    assert (keys[: len(expected)] - expected).abs().max() < 1e-6
    queries = oracle["val_features"].flatten(0, 1)
    label_hat, found, cosines = probe.retrieve(queries)
    assert torch.equal(found, oracle[f"{case}_knn_index"].long())
    assert (cosines * queries.norm(dim=1, keepdim=True) - oracle[f"{case}_knn_dot"]).abs().max() < 1e-4
    assert (label_hat.view(3, 64, 4) - oracle[f"{case}_label_hat"]).abs().max() < 1e-5
    predicted = probe.predict(features(oracle["val_features"]), (64, 64)).argmax(1)
    assert torch.equal(predicted, oracle[f"{case}_pred"].long())
    confusion = confusion_matrix(predicted, oracle["val_labels"].long(), 4)
    assert torch.equal(confusion, oracle[f"{case}_confusion"])
    official = Segmentation.of(confusion, "hungarian", "zero").miou
    assert official == pytest.approx(float(oracle[f"{case}_miou_official"]), abs=1e-9)
    sound = Segmentation.of(confusion).miou
    assert sound == pytest.approx(float(oracle[f"{case}_miou_direct_nanmean"]), abs=1e-9)


@pytest.mark.parametrize("sampling", ["balanced", "uniform"])
def test_given_draws_decide_what_a_bounded_memory_keeps(oracle, sampling):
    rows, labels = features(oracle["train_features"][:2]), annotation(oracle["train_labels"][:2])
    draws = torch.rand(2, 64, generator=torch.Generator().manual_seed(5))

    def kept(given, seed=0):
        probe = RetrievalProbe(mode="official", sampling=sampling, classes=4, memory=20, seed=seed)
        return probe.partial_fit(rows, labels, given).bank_.whole()[0]

    assert torch.equal(kept(draws), kept(draws, seed=1))
    assert not torch.equal(kept(draws), kept(draws.flip(1)))
    assert not torch.equal(kept(None), kept(None, seed=1))
    for wrong in (draws[:1], draws + 1, draws[:, :63]):
        with pytest.raises(InputError, match=r"draws are numbers in \[0, 1\), \[2, 64\]"):
            kept(wrong)


def test_void_stays_out_of_memory_unless_official(oracle):
    labels = annotation(oracle["train_labels"][:1])
    labels[:, :8] = -1  # the first row of patches
    rows = features(oracle["train_features"][:1])
    sound = RetrievalProbe(sampling="uniform", classes=4).partial_fit(rows, labels)
    official = RetrievalProbe(sampling="uniform", classes=4, mode="official").partial_fit(rows, labels)
    assert len(official.bank_.whole()[0]) == 64
    assert len(sound.bank_.whole()[0]) <= 56
    values = sound.bank_.whole()[1]
    assert torch.allclose(values.sum(1), torch.ones(len(values)))
    assert torch.equal(official.bank_.whole()[1][:8], torch.eye(4)[[0] * 8])


def world(images=5, size=(24, 40), classes=4, dim=12, seed=0, patch=8):
    """Patch features that tell the class of each patch, with noise; targets [B, H, W]."""
    draw = torch.Generator().manual_seed(seed)
    grid = (size[0] // patch, size[1] // patch)
    cells = torch.randint(classes, (images, *grid), generator=draw)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    rows = centres[cells] + 0.2 * torch.randn(images, *grid, dim, generator=draw)
    targets = cells.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return DenseFeatures(torch.zeros(images, 1, *size), rows.permute(0, 3, 1, 2)), targets


def test_the_prediction_is_soft_knn_over_histograms():
    support, targets = world()
    query, _ = world(2, seed=1)
    probe = RetrievalProbe(k=7, temperature=0.1).partial_fit(support, targets)
    keys, values = probe.bank_.whole()
    expected, index = soft_knn(query.patches.movedim(1, -1).flatten(0, 2), keys, values, 7, 0.1)
    found, order, _ = probe.retrieve(query.patches.movedim(1, -1).flatten(0, 2))
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(order, index)


def test_histograms_by_definition_where_the_image_was_padded():
    """A 20 x 37 image padded to 24 x 40: patches at the border see fewer pixels, none of them invented."""
    support, _ = world(1)
    target = torch.randint(-1, 4, (1, 20, 37), generator=torch.Generator().manual_seed(3))
    padded = DenseFeatures(torch.zeros(1, 1, 20, 37), support.patches, None, (20 / 24, 37 / 40))
    values, share = RetrievalProbe(classes=4)._cells(target[0], (3, 5), padded.extent)
    large = functional.pad(target, (0, 3, 0, 4), value=-1)
    one_hot = functional.one_hot(large.clamp_min(0), 4) * (large >= 0)[..., None]
    expected = one_hot.view(3, 8, 5, 8, 4).sum((1, 3)).view(15, 4).float()
    assert torch.equal(share, expected.sum(1))
    assert torch.allclose(values, expected / expected.sum(1, keepdim=True))
    probe = RetrievalProbe().partial_fit(padded, target)
    assert probe.predict(padded).shape == (1, 4, 20, 37)
    assert probe.predict(padded, (40, 74)).shape == (1, 4, 40, 74)


@pytest.mark.parametrize("memory", [1, 7, 30, 74, 10_000])
def test_the_share_of_an_image_needs_no_number_of_images(memory):
    """One at a time, all at once, or saved half-way: the bank of size // images rows each."""
    support, targets = world(6)
    straight = RetrievalProbe(memory=memory).partial_fit(support, targets)
    parts = RetrievalProbe(memory=memory)
    for index in range(6):
        one = DenseFeatures(support.pixels[index : index + 1], support.patches[index : index + 1])
        parts.partial_fit(one, targets[index : index + 1])
        if index == 2:
            state = {k: v.clone() for k, v in parts.state_dict().items()}
            parts = RetrievalProbe(memory=memory)
            parts.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(straight.bank_.whole(), parts.bank_.whole(), strict=True))
    counts = straight.bank_.counts().tolist()
    assert sum(counts) <= memory
    assert counts == [min(15, memory // 6)] * 6 if memory >= 6 else sum(counts) == memory


def test_balanced_sampling_keeps_the_rare_class():
    """One patch of 60 is of class 1; a tenth of the bank keeps it nearly always, a uniform one seldom."""
    target = torch.zeros(1, 48, 80, dtype=torch.int64)
    target[:, :8, :8] = 1
    rows = DenseFeatures(torch.zeros(1, 1, 48, 80), torch.randn(1, 5, 6, 10))
    counts = {
        sampling: sum(
            bool((RetrievalProbe(memory=6, sampling=sampling, seed=s).partial_fit(rows, target).bank_.whole()[1])
                 [:, 1].any())
            for s in range(40)
        )
        for sampling in ("balanced", "uniform")
    }  # fmt: skip
    assert counts["balanced"] > 35
    assert counts["uniform"] < 15


def test_depth():
    draw = torch.Generator().manual_seed(0)
    depth = 1 + 4 * torch.rand(3, 1, 3, 5, generator=draw)
    support = DenseFeatures(torch.zeros(3, 1, 24, 40), torch.cat([depth.cos(), depth.sin()], 1))
    target = depth.repeat_interleave(8, 2).repeat_interleave(8, 3)
    target[:, :, ::3] = float("nan")
    probe = RetrievalProbe("regression", k=1).partial_fit(support, target)
    near = probe.predict(support, (3, 5))
    assert torch.allclose(near, depth, atol=1e-5)


@pytest.mark.parametrize(("count", "k"), [(5, 30), (100, 3), (70_000, 30)])
def test_search_is_exact(count, k):
    draw = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(9, 8, generator=draw), torch.randn(count, 8, generator=draw)
    scores, indices = nearest(queries, keys, k, rows=4)
    reference = (queries @ keys.T).topk(min(k, count), 1)
    assert torch.equal(indices, reference.indices)
    assert torch.allclose(scores, reference.values)


@pytest.mark.parametrize("order", ["rising", "falling", "alike"])
def test_search_is_exact_whatever_block_holds_the_nearest(order):
    keys = torch.linspace(-1, 1, 40_000)[:, None] if order == "rising" else torch.linspace(1, -1, 40_000)[:, None]
    keys = torch.ones_like(keys) if order == "alike" else keys
    queries = torch.tensor([[1.0], [-2.0], [0.5]])
    scores, indices = nearest(queries, keys, 30)
    assert torch.equal(scores, (queries @ keys.T).topk(30, 1).values)
    assert torch.equal(queries * keys[indices, 0], scores)
    assert all(len(set(row)) == 30 for row in indices.tolist())


def rows(count, dim, kind, seed):
    """Unit rows: anywhere; or so near to each other that bfloat16 cannot tell them apart."""
    draw = torch.Generator().manual_seed(seed)
    spread = {"anywhere": 1.0, "near": 0.1, "nearer": 0.01}[kind]
    common = torch.full((dim,), float(kind != "anywhere"))
    return functional.normalize(common + spread * torch.randn(count, dim, generator=draw), dim=1)


@pytest.mark.parametrize("kind", ["anywhere", "near", "nearer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_first_look_in_bfloat16_finds_what_products_in_float32_find(kind, dtype):
    queries, keys = rows(70, 16, kind, 0), rows(9000, 16, kind, 1).to(dtype)
    scores, indices = retrieval_blocks.by_first_look(queries, keys, 5, rows=32)
    reference = (queries.double() @ keys.double().T).topk(5, 1)
    assert (scores - reference.values).abs().max() < 3e-7
    true = torch.einsum("qc,qkc->qk", queries.double(), keys[indices].double())  # keys equal in float32 change places
    assert (true - reference.values).abs().max() < 3e-7
    assert all(len(set(row)) == 5 for row in indices.tolist())


def test_what_the_first_look_cannot_prove_is_looked_at_again(monkeypatch):
    """2k keys ahead in bfloat16 by their rounding, the true nearest behind them: only a second look can find it."""
    queries = torch.tensor([[1.0, 2.0**-9]])  # the second number matters, and bfloat16 products drop it beside 1
    keys = torch.zeros(400, 2)
    keys[:, 0] = torch.linspace(-1, 0.5, 400)
    keys[:30] = torch.tensor([1.0, 0.0])
    keys[300] = torch.tensor([1.0, 0.1])  # 1.0002: the nearest
    results = []
    look = retrieval_blocks._all_above
    monkeypatch.setattr(retrieval_blocks, "_all_above", lambda *args: results.append(look(*args)) or results[-1])
    scores, indices = retrieval_blocks.by_first_look(queries, keys, 2, rows=32)
    assert len(results) == 1
    assert 300 in results[0]
    assert indices[0, 0] == 300
    assert scores[0, 0] == queries[0] @ keys[300]


def test_too_many_keys_for_a_second_look_are_compared_in_float32(monkeypatch):
    queries, keys = rows(40, 16, "nearer", 0), rows(3000, 16, "nearer", 1)
    counts = []
    search = retrieval_blocks.exhaustive
    monkeypatch.setattr(retrieval_blocks, "exhaustive", lambda *args: counts.append(len(args[0])) or search(*args))
    scores, _ = retrieval_blocks.by_first_look(queries, keys, 3, rows=32)
    assert counts
    assert torch.allclose(scores, (queries @ keys.T).topk(3, 1).values, atol=3e-7)


def test_first_look_is_for_processors_and_searches_that_gain_by_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    queries, keys = torch.zeros(1000, 4), torch.zeros(50_000, 4)
    assert retrieval_blocks.first_look_pays(queries, keys, 30, "product")
    assert not retrieval_blocks.first_look_pays(queries, keys, 30, "l2")
    assert not retrieval_blocks.first_look_pays(queries[:10], keys, 30, "product")
    assert not retrieval_blocks.first_look_pays(queries, keys[:100], 30, "product")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    assert not retrieval_blocks.first_look_pays(queries, keys, 30, "product")


def test_half_precision_halves_the_bank_and_finds_nearly_the_same():
    support, targets = world(8)
    query, _ = world(2, seed=1)
    full, half = (RetrievalProbe(dtype=dtype).partial_fit(support, targets) for dtype in ("float32", "float16"))
    assert half.bank_.whole()[0].element_size() == 2
    assert (full.predict(query) - half.predict(query)).abs().max() < 0.02


def test_dips_own_mode_searches_by_distance(oracle):
    """Neighbours at the least |q - k| of features as long as they are, weighed by cosine; void is class 0."""
    probe = RetrievalProbe(mode="dip", sampling="uniform", classes=4, k=5, temperature=0.1, memory=10_000)
    support, labels = oracle["train_features"], annotation(oracle["train_labels"])
    probe.partial_fit(features(support), labels)
    keys, values = probe.bank_.whole()
    assert torch.equal(keys, support.flatten(0, 1))
    queries = oracle["val_features"].flatten(0, 1)
    order = torch.cdist(queries.double(), keys.double()).topk(5, 1, largest=False).indices
    cosines = torch.einsum("qc,qkc->qk", functional.normalize(queries, dim=1), functional.normalize(keys[order], dim=2))
    expected = torch.einsum("qk,qkm->qm", (cosines / 0.1).softmax(1), values[order])
    found, index, scores = probe.retrieve(queries)
    assert torch.equal(index, order)
    assert torch.allclose(scores, cosines, atol=1e-5)
    assert torch.allclose(found, expected, atol=1e-5)
    unit = RetrievalProbe(mode="official", sampling="uniform", classes=4, k=5).partial_fit(features(support), labels)
    assert torch.equal(unit.bank_.whole()[1], values)
    assert not torch.equal(unit.retrieve(queries)[1], order)  # norms vary in this recording


@pytest.mark.parametrize("count", [100, 70_000])
def test_distance_by_each_exact_engine(count):
    draw = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(9, 8, generator=draw), torch.randn(count, 8, generator=draw)
    scores, indices = nearest(queries, keys, 6, metric="l2", rows=4)
    distance, order = torch.cdist(queries, keys).topk(6, 1, largest=False)
    assert torch.equal(indices, order)
    assert torch.allclose((queries.square().sum(1, keepdim=True) - 2 * scores).sqrt(), distance, atol=1e-4)
    again = nearest(queries, keys, 6, "faiss", metric="l2")
    assert torch.equal(again[1], order)
    assert torch.allclose(again[0], scores, atol=1e-4)


@pytest.mark.parametrize("memory", [7, 74, 10_000])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_bank_in_files_is_the_bank_in_memory(tmp_path, memory, dtype):
    support, targets = world(6)
    query, _ = world(2, seed=1)
    probes = []
    for folder in (None, tmp_path / "bank"):
        probe = RetrievalProbe(memory=memory, dtype=dtype, classes=4, folder=folder)
        for index in range(6):
            one = DenseFeatures(support.pixels[index : index + 1], support.patches[index : index + 1])
            probe.partial_fit(one, targets[index : index + 1])
            if index == 3:  # looked at half-way, then saved and taken back
                probe.predict(query)
                state = {key: value.clone() for key, value in probe.state_dict().items()}
                probe.load_state_dict(state)
        probes.append(probe)
    kept, mapped = probes
    assert all(torch.equal(a, b) for a, b in zip(kept.bank_.whole(), mapped.bank_.whole(), strict=True))
    assert torch.equal(kept.predict(query), mapped.predict(query))
    files = list((tmp_path / "bank").iterdir())
    assert len(files) == 2
    rows = len(kept.bank_.whole()[0])
    assert sum(file.stat().st_size for file in files) == rows * (12 + 4) * (2 if dtype == "float16" else 4)
    del probe, probes, mapped
    assert not list((tmp_path / "bank").iterdir())


@pytest.mark.parametrize("engine", ["ivf", pytest.param("ivfpq", marks=pytest.mark.slow)])
def test_an_approximate_index_says_how_much_it_finds(engine):
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 16, generator=draw)
    rows = centres[torch.randint(40, (40, 128), generator=draw)] + 0.3 * torch.randn(40, 128, 16, generator=draw)
    support = DenseFeatures(torch.zeros(40, 1, 64, 128), rows.view(40, 8, 16, 16).permute(0, 3, 1, 2))
    targets = torch.randint(3, (40, 64, 128), generator=draw)
    exact = RetrievalProbe(k=5).partial_fit(support, targets)
    probe = RetrievalProbe(k=5, engine=engine).partial_fit(support, targets)
    queries = centres[:20] + 0.3 * torch.randn(20, 16, generator=draw)
    with pytest.warns(UserWarning, match=rf"engine={engine} is approximate: of the true 5 nearest it finds"):
        values, found, cosines = probe.retrieve(queries)
    _, true, best = exact.retrieve(queries)
    recall = float((true[:, :, None] == found[:, None]).any(2).float().mean())
    assert probe.recall_ == pytest.approx(recall)
    assert recall > (0.9 if engine == "ivf" else 0.2)
    assert values.shape == (20, 3)
    assert torch.allclose(values.sum(1), torch.ones(20), atol=1e-4)
    assert bool((cosines <= best.amax(1, keepdim=True) + 1e-5).all())  # exact cosines of what was found
    with pytest.raises(InputError, match=f"engine={engine} wants from 4096 rows of memory; there are 75"):
        RetrievalProbe(engine=engine).partial_fit(*world()).retrieve(torch.randn(2, 12))


def test_bad_input(monkeypatch, tmp_path):
    support, targets = world()
    with pytest.raises(NotFittedError, match="The support set is empty"):
        RetrievalProbe().predict(support)
    with pytest.raises(NotFittedError, match="Nothing to save"):
        RetrievalProbe().state_dict()
    with pytest.raises(InputError, match="No labelled pixel"):
        RetrievalProbe().partial_fit(support, torch.full_like(targets, -1))
    with pytest.raises(InputError, match="A target holds class 3; the probe was made for 2 classes"):
        RetrievalProbe(classes=2).partial_fit(support, targets)
    with pytest.raises(InputError, match=r"integers \[B, H, W\] with B = 5"):
        RetrievalProbe().partial_fit(support, targets.float())
    with pytest.raises(InputError, match=r"floats \[B, K, H, W\]"):
        RetrievalProbe("regression").partial_fit(support, targets)
    with pytest.raises(InputError, match="features have 3 dimensions; those in memory 12"):
        RetrievalProbe().partial_fit(support, targets).retrieve(torch.randn(2, 3))
    for args in ({"k": 0}, {"memory": 0}, {"temperature": 0.0}, {"mode": "fast"}, {"sampling": "all"}, {"dtype": "i8"}):
        with pytest.raises(InputError, match=next(iter(args))):
            RetrievalProbe(**args)
    with pytest.raises(InputError, match="give classes, the number of them"):
        RetrievalProbe(folder=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="Cannot keep a memory bank in"):
        RetrievalProbe(folder=tmp_path / "file", classes=4)
    bank = Bank(9, folder=tmp_path)
    bank.add(torch.ones(2, 3), torch.ones(2, 1))
    with pytest.raises(InputError, match="needs the number of classes from the start"):
        bank.add(torch.ones(2, 3), torch.ones(2, 2))
    with pytest.raises(InputError, match="a bank of 2 keys, 2 values and 3 rows"):
        Bank(9).restore(torch.ones(2, 1), torch.ones(2, 1), torch.tensor([3]))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match="pip install faiss-cpu"):
        RetrievalProbe(engine="faiss").partial_fit(support, targets).predict(support)


def test_memory_larger_than_the_support_keeps_it_whole():
    support, targets = world()
    probe = RetrievalProbe(memory=10_240_000, k=500).partial_fit(support, targets)
    assert len(probe.bank_.whole()[0]) == 75
    assert probe.retrieve(torch.randn(2, 12))[1].shape == (2, 75)  # fewer rows than k
