"""The ensemble of neighbours and kernel ridge: its parts against naive formulas, each argument, what it forgets."""

import pytest
import torch
from dense_ctx_probes import bank, guided_filter
from dense_ctx_probes.ensemble import EnsembleProbe, principal_axes
from dense_ctx_probes.guided_filter import refined
from tensor_sizes import Largest
from torch.nn import functional

from dense_ctx import registry
from dense_ctx.errors import CheckpointError, ConfigError, InputError
from dense_ctx.interfaces import DenseFeatures
from dense_ctx.testing import check_probe


def scene(seed=0, batch=1, classes=3, height=12, width=16):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(batch, 6, height, width, generator=generator)
    return DenseFeatures(pixels, pixels[:, :, ::4, ::4]), torch.randint(
        0, classes, (batch, height, width), generator=generator
    )


def test_the_contract_holds():
    check_probe("ensemble")


def rows(features):
    return features.pixels[0].flatten(1).T.double()


def exact_kernel_ridge(keys, targets, weights, query, gamma, penalty):
    """Every cell a landmark: (K + penalty / weights) alpha + b = Y, alpha sums to 0."""
    unit, other = functional.normalize(keys, dim=1), functional.normalize(query, dim=1)
    gram = (gamma * (unit @ unit.T - 1)).exp()
    ones = torch.ones(len(keys), 1, dtype=keys.dtype)
    top = torch.cat([gram + torch.diag(penalty / weights), ones], 1)
    bottom = torch.cat([ones.T, torch.zeros(1, 1, dtype=keys.dtype)], 1)
    right = torch.cat([targets, torch.zeros(1, targets.shape[1], dtype=keys.dtype)])
    solution = torch.linalg.solve(torch.cat([top, bottom]), right)
    return (gamma * (other @ unit.T - 1)).exp() @ solution[:-1] + solution[-1]


def test_the_regression_alone_is_exact_kernel_ridge():
    (features, _), (query, _) = scene(0), scene(1)
    values = torch.randn(1, 2, 12, 16, generator=torch.Generator().manual_seed(2))
    probe = EnsembleProbe("regression", weight=1.0, landmarks=500, penalty=1e-2)
    predicted = probe.partial_fit(features, values).predict(query)[0].flatten(1).T
    weights = torch.full((192,), 1 / 192, dtype=torch.float64)
    targets = values[0].flatten(1).T.double()
    expected = exact_kernel_ridge(rows(features), targets, weights, rows(query), 1.0, 1e-2)
    torch.testing.assert_close(predicted.double(), expected, rtol=1e-3, atol=1e-3)


def test_classes_weigh_by_the_square_root_of_their_size():
    (features, labels), (query, _) = scene(0), scene(1)
    labels[:, 2:] = 0
    one_hot = functional.one_hot(labels[0].flatten(), 3).double()
    size = one_hot.sum(0)
    weights = (one_hot / size.sqrt()).sum(1)
    weights = weights / weights.sum()
    expected = exact_kernel_ridge(rows(features), one_hot, weights, rows(query), 2.0, 1e-2).clamp_min(0)
    expected = (expected / expected.sum(1, keepdim=True)).clamp_min(1e-3)
    probe = EnsembleProbe(weight=1.0, uniform=0.0, landmarks=1000, gamma=2.0, penalty=1e-2)
    predicted = probe.partial_fit(features, labels).predict(query)[0].flatten(1).T
    torch.testing.assert_close(predicted.double(), expected / expected.sum(1, keepdim=True), rtol=1e-3, atol=1e-3)


def test_the_neighbours_alone_are_all_cells_by_their_cosines_with_the_prior_moved():
    (features, labels), (query, _) = scene(0), scene(1)
    labels[:, 2:] = 0
    one_hot = functional.one_hot(labels.flatten(), 3).double()
    keys, queries = (functional.normalize(rows(part), dim=1) for part in (features, query))
    plain = (queries @ keys.T / 0.1).softmax(1) @ one_hot
    prior = one_hot.mean(0)
    moved = plain * (0.6 * prior + 0.4 / 3) / prior
    expected = (moved / moved.sum(1, keepdim=True)).clamp_min(1e-3)
    probe = EnsembleProbe(weight=0.0, area=0.0, uniform=0.4, temperature=0.1).partial_fit(features, labels)
    predicted = probe.predict(query)[0].flatten(1).T
    torch.testing.assert_close(predicted.double(), expected / expected.sum(1, keepdim=True), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_a_class_of_one_pixel_has_no_votes_elsewhere(weight):
    """A stray pixel of a mask: its prior is moved by a factor of thousands, of no votes too if they had a floor."""
    looks, rest = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    labels = torch.zeros(1, 96, 96, dtype=torch.int64)
    labels[:, :, 48:] = 1
    pixels = looks[labels[0]].permute(2, 0, 1)[None] + 0.3 * torch.randn(1, 16, 96, 96, generator=rest)
    clean = labels.clone()
    labels[0, 30, 20] = 2
    features = DenseFeatures(pixels, pixels[:, :, ::8, ::8])
    predicted = EnsembleProbe(weight=weight, area=0.0, stride=4).partial_fit(features, labels).predict(features)[0]
    assert predicted[2].mean() < 0.03
    assert (predicted.argmax(0) == clean).float().mean() > 0.99


def test_shares_of_classes_in_cells_are_those_of_one_hot_maps():
    labels = torch.randint(-1, 4, (2, 13, 10), generator=torch.Generator().manual_seed(0))
    labels[:, :4, :4] = -1
    one_hot = (functional.one_hot(labels.clamp_min(0), 5) * (labels >= 0)[..., None]).movedim(-1, 1).float()
    for step in (1, 4):
        sums = bank.pooled(one_hot, step).movedim(1, -1)
        labelled = sums.sum(-1) > 0
        expected = sums[labelled] / sums[labelled].sum(1, keepdim=True)
        torch.testing.assert_close(bank.class_shares(labels, labelled, step, 5), expected)


@pytest.mark.parametrize("name", ["ensemble", "knn"])
def test_memory_does_not_grow_with_the_number_of_classes(name):
    """Of a mask of 300 classes a map of each would be 300 times the mask."""
    labels = (torch.arange(128)[:, None] // 8 * 16 + torch.arange(128) // 8)[None]
    pixels = torch.rand(1, 4, 128, 128, generator=torch.Generator().manual_seed(0))
    features = DenseFeatures(pixels, pixels[:, :, ::8, ::8])
    probe = registry().create("probe", name, stride=8)
    with Largest() as largest:
        probe.partial_fit(features, labels)
    assert probe.values_.shape == (256, 256)
    assert largest.size < 10 * labels.numel()


@pytest.mark.parametrize("name", ["ensemble", "knn"])
def test_nothing_annotated_is_refused(name):
    features, labels = scene()
    with pytest.raises(InputError, match="No labelled pixel"):
        registry().create("probe", name).partial_fit(features, torch.full_like(labels, -1))


def test_channels_that_a_rare_class_needs_are_among_the_principal_ones():
    keys = torch.zeros(1000, 4)
    keys[:500, 0], keys[500:996, 1], keys[996:, 2] = 1, 1, 1
    counts = torch.tensor([500.0] * 500 + [496.0] * 496 + [4.0] * 4)
    assert principal_axes(keys, counts.rsqrt(), 3)[2].norm() == pytest.approx(1)
    assert principal_axes(keys, torch.ones(1000), 2)[2].norm() == pytest.approx(0)
    assert torch.equal(principal_axes(keys, counts, 4), torch.eye(4))


def test_a_cold_softmax_does_not_underflow():
    (features, labels), (query, _) = scene(0), scene(1)
    keys, queries = (functional.normalize(rows(part), dim=1) for part in (features, query))
    votes = (queries @ keys.T / 1e-3).softmax(1) @ functional.one_hot(labels.flatten(), 3).double()
    votes = votes.clamp_min(1e-3) / votes.clamp_min(1e-3).sum(1, keepdim=True)
    probe = EnsembleProbe(weight=0.0, area=0.0, uniform=0.0, temperature=1e-3).partial_fit(features, labels)
    torch.testing.assert_close(probe.predict(query)[0].flatten(1).T.double(), votes, rtol=1e-2, atol=1e-3)


def test_a_sample_of_the_bank_stands_for_all_of_it():
    generator = torch.Generator().manual_seed(0)
    looks, weak = torch.randn(3, 6, generator=generator), torch.randn(1, 6, 12, 16, generator=generator) * 1e-4
    labels = torch.zeros(1, 12, 16, dtype=torch.int64)
    labels[:, 9:], labels[0, 11, 12:] = 1, 2  # 144, 44 and 4 cells
    pixels = looks[labels[0]].permute(2, 0, 1)[None] + weak
    query, _ = scene(1)
    for weight in (0.0, 1.0, 0.4):
        args = {"temperature": 0.2, "area": 0.0, "weight": weight, "gamma": 2.0}
        whole, part = (
            EnsembleProbe(**args, keys=keys).partial_fit(DenseFeatures(pixels, weak), labels) for keys in (192, 20)
        )
        assert [len(probe.readings[1]) for probe in (whole, part)] == [192, 20]
        assert part.readings[2].sum(0).tolist() == pytest.approx([144, 44, 4])
        torch.testing.assert_close(part.predict(query), whole.predict(query), rtol=0, atol=2e-3)


def test_few_channels_are_the_cosines_on_the_principal_axes():
    (features, labels), (query, _) = scene(0), scene(1)
    probe = EnsembleProbe(weight=0.0, area=0.0, uniform=0.0, channels=3).partial_fit(features, labels)
    axes = probe.readings[0].double()
    keys, queries = (functional.normalize(rows(part), dim=1) @ axes for part in (features, query))
    votes = (queries @ keys.T / 0.02).softmax(1) @ functional.one_hot(labels.flatten(), 3).double()
    votes = votes.clamp_min(1e-3) / votes.clamp_min(1e-3).sum(1, keepdim=True)
    torch.testing.assert_close(probe.predict(query)[0].flatten(1).T.double(), votes, rtol=1e-3, atol=1e-3)


def test_the_filter_is_a_linear_fit_in_each_window():
    generator = torch.Generator().manual_seed(0)
    image, scores = (torch.rand(1, c, 7, 9, generator=generator, dtype=torch.float64) for c in (3, 2))
    scores = scores / scores.sum(1, keepdim=True)
    fits = torch.zeros(7, 9, 4, dtype=torch.float64)
    for y in range(7):
        for x in range(9):
            window = (0, slice(None), slice(max(0, y - 2), y + 3), slice(max(0, x - 2), x + 3))
            colours, values = image[window].flatten(1).T, scores[window].flatten(1).T[:, 0]
            centred = colours - colours.mean(0)
            system = centred.T @ centred / len(centred) + 1e-2 * torch.eye(3, dtype=torch.float64)
            slopes = torch.linalg.solve(system, centred.T @ (values - values.mean()) / len(centred))
            fits[y, x] = torch.cat([slopes, (values.mean() - slopes @ colours.mean(0))[None]])
    expected = torch.zeros(7, 9, dtype=torch.float64)
    for y in range(7):
        for x in range(9):
            mean = fits[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].flatten(0, 1).mean(0)
            expected[y, x] = mean[:3] @ image[0, :, y, x] + mean[3]
    expected = torch.stack([expected, 1 - expected]).clamp_min(0)
    result = refined(scores, image, 1, 2, 1e-2)[0]  # of a step of 1, where a half cell is a pixel too
    torch.testing.assert_close(result, expected / expected.sum(0))


@pytest.mark.parametrize("step", [1, 5])
def test_classes_are_refined_a_few_at_a_time(monkeypatch, step):
    draw = torch.Generator().manual_seed(0)
    image, scores = (
        torch.rand(2, 3, 23, 31, generator=draw),
        torch.rand(2, 6, -(-23 // step), -(-31 // step), generator=draw),
    )
    scores = scores / scores.sum(1, keepdim=True)
    whole = refined(scores, image, step, 2, 1e-3)
    torch.testing.assert_close(whole.sum(1), torch.ones(2, 23, 31))
    monkeypatch.setattr(guided_filter, "_NUMBERS", 1)
    torch.testing.assert_close(refined(scores, image, step, 2, 1e-3), whole)


@pytest.mark.parametrize("step", [2, 5, 8])
def test_an_edge_inside_of_cells_becomes_that_of_the_image(step):
    image, labels = torch.zeros(1, 3, 41, 66), torch.zeros(41, 66, dtype=torch.int64)
    image[..., 23:], labels[:, 23:] = 0.9, 1
    image[:, 2] = 0.5
    cells = functional.one_hot(labels, 2).movedim(-1, 0)[None].float()
    cells = functional.avg_pool2d(cells, step, ceil_mode=True)
    assert torch.equal(refined(cells, image, step, 2, 2e-4)[0].argmax(0), labels)


def test_cells_are_means_also_of_cut_and_large_features(monkeypatch):
    pixels = torch.randn(2, 5, 30, 40)[..., :29, :37].contiguous(memory_format=torch.channels_last)
    whole = functional.avg_pool2d(pixels, 4, ceil_mode=True)
    monkeypatch.setattr(bank, "_STRIP", 3000)
    torch.testing.assert_close(bank.pooled(pixels, 4), whole)
    assert bank.pooled(pixels, 1) is pixels


@pytest.mark.parametrize("step", [2, 3, 4, 5, 8])
def test_cells_are_read_at_four_pixels(step):
    pixels = torch.randn(2, 3, 30, 41)
    near, far = step // 4, step - 1 - step // 4
    result = bank.sampled(pixels, step)
    for y in range(-(-30 // step)):
        for x in range(-(-41 // step)):
            rows, columns = [min(y * step + o, 29) for o in (near, far)], [min(x * step + o, 40) for o in (near, far)]
            expected = pixels[:, :, rows][..., columns].mean((2, 3))
            torch.testing.assert_close(result[:, :, y, x], expected)
    assert result.shape == (2, 3, -(-30 // step), -(-41 // step))


def test_features_that_carry_the_image_are_refined_at_its_edges():
    generator = torch.Generator().manual_seed(0)
    image, labels = torch.rand(1, 3, 24, 32, generator=generator) * 0.1, torch.zeros(1, 24, 32, dtype=torch.int64)
    image[..., 13:] += 0.8
    labels[..., 13:] = 1
    plain = DenseFeatures(image - 0.5, image[..., ::8, ::8])
    probe = EnsembleProbe(stride=8).partial_fit(plain, labels)
    apart = (probe.predict(plain)[0].argmax(0) != labels[0]).float().mean()
    carried = DenseFeatures(plain.pixels, plain.patches, image=image)
    assert apart > 0
    assert torch.equal(probe.predict(carried)[0].argmax(0), labels[0])
    assert torch.equal(
        EnsembleProbe(stride=8, radius=0).partial_fit(plain, labels).predict(carried), probe.predict(plain)
    )
    # an image of another size than the features, and a result of a third
    large = functional.interpolate(image, size=(48, 64), mode="nearest")
    other = probe.predict(DenseFeatures(plain.pixels, plain.patches, image=large), size=(12, 16))
    assert other.shape == (1, 2, 12, 16)
    assert torch.equal(other[0].argmax(0)[:, ::6], labels[0, ::2, ::12])


def test_a_regression_has_no_probabilities_to_refine():
    features, _ = scene(0)
    for argument in ("uniform", "radius", "epsilon"):
        with pytest.raises(ConfigError, match=f"{argument} would have no effect"):
            EnsembleProbe("regression", **{argument: 1})
    values = torch.randn(1, 2, 12, 16)
    image = torch.rand(1, 3, 12, 16)
    probe = EnsembleProbe("regression").partial_fit(features, values)
    assert torch.equal(probe.predict(DenseFeatures(*features, image=image)), probe.predict(features))


def test_the_neighbours_weigh_by_how_much_is_annotated():
    (features, labels), (query, _) = scene(0), scene(1)
    few = torch.full_like(labels, -1)
    few[:, ::4, ::4] = labels[:, ::4, ::4]  # 12 pixels of 192, so 0.75 of 12 patches
    for given, annotated in ((labels, 12.0), (few, 0.75)):
        alone = [
            EnsembleProbe(weight=w, area=0.0).partial_fit(features, given).predict(query).log() for w in (0.0, 1.0)
        ]
        share = 0.6 * annotated**2 / (annotated**2 + 3.0**2)
        both = EnsembleProbe(area=3.0).partial_fit(features, given).predict(query)
        expected = (share * alone[0] + (1 - share) * alone[1]).softmax(1)
        torch.testing.assert_close(both, expected, rtol=1e-3, atol=1e-4)


def test_cells_under_strokes_are_single_pixels():
    features, labels = scene(0, height=120, width=160)
    strokes = torch.full_like(labels, -1)
    strokes[:, 7, 10:50] = labels[:, 7, 10:50]
    probe = EnsembleProbe().partial_fit(features, strokes)
    torch.testing.assert_close(probe.keys_, functional.normalize(features.pixels[0, :, 7, 10:50].T, dim=1))
    assert len(EnsembleProbe().partial_fit(features, labels).keys_) == 60 * 80  # of 2 x 2 pixels


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.5}, {"stride": 2}, {"memory": 40}, {"weight": 0.9}, {"area": 3.0}, {"uniform": 0.5},
     {"landmarks": 9}, {"gamma": 4.0}, {"penalty": 1.0}, {"channels": 3}, {"keys": 40}, {"radius": 1},
     {"epsilon": 0.1}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_each_argument_counts(change):
    (features, labels), (query, _) = scene(0), scene(1)
    query = DenseFeatures(query.pixels, query.patches, image=query.pixels[:, :3].sigmoid())
    base = {"area": 0.0} if "area" not in change else {}  # few pixels, of which the neighbours would say little
    plain = EnsembleProbe(**base).partial_fit(features, labels).predict(query)
    other = EnsembleProbe(**base, **change).partial_fit(features, labels).predict(query)
    assert not torch.allclose(plain, other, atol=1e-4)
    if change in ({"memory": 40}, {"keys": 40}):
        seeded = EnsembleProbe(**base, **change, seed=1).partial_fit(features, labels).predict(query)
        assert not torch.allclose(other, seeded, atol=1e-4)


def test_what_was_solved_is_solved_again_after_more_examples_or_another_state():
    first, second, (query, _) = scene(0), scene(2), scene(1)
    apart = EnsembleProbe().partial_fit(*first)
    apart.predict(query)
    apart.partial_fit(*second)
    together = EnsembleProbe().partial_fit(*first).partial_fit(*second)
    assert torch.equal(apart.predict(query), together.predict(query))
    state = EnsembleProbe().partial_fit(*first).state_dict()
    apart.load_state_dict(state)
    assert torch.equal(apart.predict(query), EnsembleProbe().partial_fit(*first).predict(query))


def test_images_of_a_batch_are_predicted_apart():
    (features, labels), (query, _) = scene(0), scene(1, batch=3)
    probe = EnsembleProbe().partial_fit(features, labels)
    whole = probe.predict(query)
    for number in range(3):
        one = DenseFeatures(query.pixels[number : number + 1], query.patches[number : number + 1])
        torch.testing.assert_close(probe.predict(one), whole[number : number + 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "args",
    [
        {"weight": 1.1},
        {"uniform": -0.1},
        {"gamma": 0},
        {"penalty": 0},
        {"landmarks": 0},
        {"weight": float("nan")},
        {"channels": 0},
        {"keys": 0},
        {"radius": -1},
        {"epsilon": 0.0},
    ],
)
def test_arguments_out_of_range_are_refused(args):
    with pytest.raises(InputError, match=next(iter(args))):
        EnsembleProbe(**args)


@pytest.mark.parametrize("area", [0.0, -1.0, float("nan"), float("inf")])
def test_a_state_of_no_annotated_area_is_refused(area):
    features = DenseFeatures(torch.randn(1, 3, 4, 5), torch.randn(1, 3, 2, 3))
    probe = EnsembleProbe().partial_fit(features, torch.arange(20).view(1, 4, 5) % 3)
    state = {**probe.state_dict(), "annotated": torch.tensor(area, dtype=torch.float64)}
    before = probe.predict(features)
    with pytest.raises(CheckpointError, match=r"annotated area is|annotated holds NaN or infinity"):
        probe.load_state_dict(state)
    assert torch.equal(probe.predict(features), before)
