"""Propagation by its dense definition: long grids, cells without a label, several annotated frames, small votes."""

import pytest
import torch
from dense_ctx_predict import track
from dense_ctx_probes.local_knn import Propagator, upsampled_votes
from dense_ctx_probes.propagation import PropagationProbe

from dense_ctx.errors import CheckpointError, InputError, NonFiniteError, NotFittedError
from dense_ctx.interfaces import DenseFeatures
from dense_ctx.testing import tiny_model


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dense(query, frames, labels, annotated, radius, topk, temperature):
    """By the whole affinity: the best cells in the window vote, of all frames; unlabelled annotated ones do not."""
    _, height, width = query.shape
    unit = torch.nn.functional.normalize
    cosines = unit(query.flatten(1), dim=0).T @ torch.cat([unit(frame.flatten(1), dim=0) for frame in frames], 1)
    ys, xs = (axis.flatten() for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    near = ((ys[:, None] - ys).abs() <= radius) & ((xs[:, None] - xs).abs() <= radius)
    valid = torch.cat([values.flatten(1).sum(0) > 0 for values in labels])
    valid[annotated * height * width :] = True
    votes = cosines.masked_fill(~(near.repeat(1, len(frames)) & valid), -torch.inf)
    best, index = votes.topk(min(topk, votes.shape[1]), 1)
    weights = (best / temperature).exp()
    shares = weights / weights.sum(1, keepdim=True).clamp_min(1e-30)
    values = torch.cat([values.flatten(1) for values in labels], 1).T
    return torch.einsum("qk,qkc->cq", shares, values[index]).view(-1, height, width)


@pytest.mark.parametrize(
    ("size", "radius", "topk", "temperature", "last", "annotated"),
    [
        ((9, 14), 2, 4, 0.1, 2, 1), ((3, 17), 0, 5, 0.3, 1, 2), ((17, 3), 0, 300, 0.3, 1, 1),
        ((1, 13), 1, 2, 1.0, 0, 3),
        ((10, 4), 1, 9, 0.05, 3, 2), ((8, 12), 3, 1, 0.1, 1, 1), ((6, 25), 12, 5, 0.1, 1, 1),
    ],
)  # fmt: skip
def test_each_setting_is_its_definition(size, radius, topk, temperature, last, annotated):
    frames, labels = noise(annotated, 5, *size), noise(annotated, 3, *size, seed=1).abs()
    labels[:, :, :, -(size[1] // 3) :] = 0  # not annotated: votes for nothing
    labels[:, :, size[0] // 2 :, :1] = 0
    arguments = (frames, labels) if annotated > 1 else (frames[0], labels[0])
    propagator = Propagator(*arguments, last, radius, topk, temperature)
    recent = []
    for number in range(4):
        query = noise(5, *size, seed=10 + number)
        context = [*frames, *(frame for frame, _ in recent)], torch.stack([*labels, *(soft for _, soft in recent)])
        expected = dense(query, *context, annotated, radius or max(size), topk, temperature)
        soft = propagator.step(query)
        torch.testing.assert_close(soft, expected, rtol=1e-3, atol=1e-5)
        recent = [*recent, (query, soft)][-last:] if last else []


def test_where_no_annotated_cell_is_near_nobody_votes():
    labels = torch.zeros(2, 4, 12)
    labels[0, :, :2], labels[1, :, 2:4] = 1, 1
    soft = Propagator(noise(3, 4, 12), labels, 2, 1, 5, 0.1).step(noise(3, 4, 12, seed=1))
    torch.testing.assert_close(soft.sum(0)[:, :5], torch.ones(4, 5))
    assert soft[:, :, 5:].eq(0).all()
    again = Propagator(noise(3, 4, 12), labels, 0, 1, 5, 0.1)
    for seed in range(3):
        assert again.step(noise(3, 4, 12, seed=seed)).isfinite().all()


@pytest.mark.parametrize("topk", [1, 3])
def test_ties_with_the_last_of_the_best_vote_too(topk):
    """Two cells alike at the threshold; those below it do not."""
    features = torch.tensor([1.0, 0.9, 0.9, 0.1]).view(1, 1, 4).expand(1, 1, 4)
    features = torch.cat([features, (1 - features.square()).sqrt()])
    labels = torch.eye(4).view(4, 1, 4)
    query = torch.tensor([[[0.9]], [[0.19**0.5]]]).expand(2, 1, 4)
    soft = Propagator(features, labels, 0, 0, topk, 0.5).step(query)[:, 0, 0]
    cosines = torch.nn.functional.normalize(features[:, 0], dim=0).T @ torch.tensor([0.9, 0.19**0.5])
    weights = (cosines / 0.5).exp() * (cosines >= cosines.topk(topk).values[-1])
    assert int((weights > 0).sum()) == max(2, topk)
    torch.testing.assert_close(soft, weights / weights.sum())


def test_what_a_propagator_refuses():
    features, labels = noise(2, 3, 4, 5), noise(2, 2, 4, 5).abs()
    pairs = [
        (features, labels[:1]), (features, labels[0]), (features[0], labels), (features[0, 0], labels[0, 0]),
        (features[None], labels[None]), (features, labels[..., :4]), (features[:, :, 1:], labels),
    ]  # fmt: skip
    for one, other in pairs:
        with pytest.raises(InputError, match="share a grid"):
            Propagator(one, other)
    with pytest.raises(InputError, match="No cell of the annotated frames has a label"):
        Propagator(features, 0 * labels)
    propagator = Propagator(features, labels)
    for wrong in (noise(3, 5, 4), noise(3, 4, 4), noise(2, 4, 5), noise(1, 3, 4, 5)):
        with pytest.raises(InputError, match="the first frame's were"):
            propagator.step(wrong)
    assert propagator.step(noise(3, 4, 5)).shape == (2, 4, 5)


# ---------------------------------------------------------------------- votes


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_votes_of_a_flat_and_of_a_faint_class(stride):
    """A class alike everywhere gets nothing; one of next to no votes is scaled up like any other."""
    soft = torch.stack([torch.full((3, 4), 0.3), 1.5e-12 * noise(3, 4).sigmoid(), noise(3, 4, seed=1).sigmoid()])
    soft[1, 0, 0], soft[1, 2, 3] = 0, 1.5e-12
    votes = upsampled_votes(soft, (3 * stride, 4 * stride), stride)
    assert votes.shape == (3, 3 * stride, 4 * stride)
    assert votes[0].eq(0).all()
    for channel in (1, 2):
        assert votes[channel].min() == 0
        torch.testing.assert_close(votes[channel].max(), torch.tensor(1.0))
    large = upsampled_votes(soft, (6 * stride, 8 * stride), stride)
    assert torch.equal(large[:, ::2, ::2], votes)
    assert torch.equal(large[:, 1::2, 1::2], votes)


# ---------------------------------------------------------------------- the probe


def image(*frames):
    return DenseFeatures(torch.stack(frames), torch.stack(frames))


def test_annotated_frames_of_a_probe_add_up_and_restart_the_clip():
    first, second = noise(3, 4, 6), noise(3, 4, 6, seed=1)
    labels = [torch.arange(24).view(4, 6) % 2, torch.arange(24).view(4, 6) % 4 - 1]
    probe = PropagationProbe(topk=2, size_mask_neighborhood=1)
    for call in (probe.state_dict, lambda: probe.predict(image(first))):
        with pytest.raises(NotFittedError):
            call()
    with pytest.raises(CheckpointError, match="not of features of 3 channels"):
        probe.outputs(3, 9)
    probe.partial_fit(image(first), labels[0][None])
    once = probe.predict(image(second))
    assert not torch.equal(probe.predict(image(second)), once)  # the frame before is context now
    probe.partial_fit(image(second), labels[1][None])
    assert probe.outputs(3, 9) == 3
    with pytest.raises(CheckpointError, match="not of features of 4 channels"):
        probe.outputs(4, 9)
    one_hot = torch.zeros(2, 3, 4, 6)
    for index in range(2):
        for label in range(3):
            one_hot[index, label] = labels[index] == label
    other = Propagator(torch.stack([first, second]), one_hot, topk=2, size_mask_neighborhood=1)
    third = noise(3, 4, 6, seed=2)
    votes = upsampled_votes(other.step(third), (4, 6), 1)
    total = votes.sum(0)
    expected = torch.where(total > 0, votes / total, 1 / 3)
    torch.testing.assert_close(probe.predict(image(third))[0], expected)
    loaded = PropagationProbe(topk=2, size_mask_neighborhood=1)
    state = probe.state_dict()
    loaded.partial_fit(image(first), labels[0][None]).predict(image(first))
    loaded.load_state_dict(state)
    torch.testing.assert_close(loaded.predict(image(third))[0], expected)
    loaded.partial_fit(image(first), labels[0][None])
    assert loaded.labels_.shape == (3, 3, 4, 6)
    fewer = PropagationProbe().partial_fit(image(second), labels[1][None]).partial_fit(image(first), labels[0][None])
    assert fewer.labels_.shape == (2, 3, 4, 6)
    assert fewer.labels_[1, 2].eq(0).all()
    with pytest.raises(InputError, match=r"have one grid: \[3, 4, 6\], now \[3, 4, 5\]"):
        probe.partial_fit(image(noise(3, 4, 5)), labels[0][None, :, :5])


def test_a_batch_is_frames_in_order_and_a_stride_of_ones_own_counts():
    frames = [noise(3, 4, 6, seed=s) for s in range(4)]
    labels = torch.arange(24).view(1, 4, 6) % 3

    def fresh(**args):
        return PropagationProbe(topk=2, size_mask_neighborhood=2, **args).partial_fit(image(frames[0]), labels)

    together, apart = fresh().predict(image(*frames[1:])), fresh()
    assert torch.equal(together, torch.cat([apart.predict(image(frame)) for frame in frames[1:]]))
    for size, cell in (((4, 6), 1), ((8, 12), 2), ((9, 13), 3), ((3, 5), 1)):
        assert torch.equal(fresh().predict(image(frames[1]), size), fresh(stride=cell).predict(image(frames[1]), size))
    plain, other = fresh(), fresh(stride=1)
    assert not torch.equal(plain.predict(image(frames[1]), (8, 12)), other.predict(image(frames[1]), (8, 12)))
    partly = labels.clone()
    partly[:, :, 2:] = -1
    probe = PropagationProbe(topk=9, size_mask_neighborhood=1, temperature=1.0).partial_fit(image(frames[0]), partly)
    other = Propagator(probe.keys_, probe.labels_, 7, 1, 9, 1.0)
    votes = torch.stack([upsampled_votes(other.step(frame), (4, 6), 1).sum(0) for frame in frames[1:]])
    assert bool(((votes > 0) & (votes < 0.9)).any())
    assert bool((votes == 0).any())
    torch.testing.assert_close(probe.predict(image(*frames[1:])).sum(1), torch.ones(3, 4, 6))
    with pytest.raises(InputError, match="task='segmentation' only"):
        PropagationProbe("regression")


# ---------------------------------------------------------------------- tracking


class Recorder:
    """A model of one feature map; what it was asked for."""

    def __init__(self, broken=-1):
        self.model, self.calls, self.broken = tiny_model(), [], broken

    def __call__(self, image, size, max_memory):
        self.calls.append((size, max_memory))
        features = self.model(image, size=size)
        if len(self.calls) - 1 == self.broken:
            features.pixels.fill_(float("nan"))
        return features


def test_track_asks_for_its_grid_within_the_memory_given():
    frames, mask = [noise(3, 20, 33, seed=s).sigmoid() for s in range(3)], torch.zeros(20, 33, dtype=torch.int64)
    mask[:9, :20] = 5
    model = Recorder()
    maps = list(track(model, frames, mask, stride=8, max_memory="9 GB"))
    assert model.calls == [((2, 4), "9 GB")] * 3
    assert torch.equal(maps[0], mask)
    assert all(set(labels.unique().tolist()) <= {0, 5} for labels in maps)
    flat, thin = [frame[:, :3] for frame in frames], torch.arange(33).expand(3, 33) // 17
    model = Recorder()
    assert [labels.shape for labels in track(model, flat, thin, stride=8)] == [(3, 33)] * 3
    assert model.calls[0][0] == (1, 4)  # lower than a cell
    model = Recorder()
    list(track(model, [frame[:, :, :3] for frame in frames], thin[:, 7:27].T, stride=8))
    assert model.calls[0][0] == (2, 1)
    model = Recorder()
    list(track(model, [frame[:, :6, :5] for frame in frames[:2]], mask[6:12, :5], stride=1))
    assert model.calls[0][0] == (6, 5)
    for number, words in ((1, "Frame 1"), (2, "Frame 2")):
        with pytest.raises(NonFiniteError, match=rf"{words}.*votes"):
            list(track(Recorder(number), frames, mask))


def test_track_names_the_frame_that_cannot_be_read(tmp_path):
    mask = torch.arange(24).view(4, 6) % 2
    for number in (0, 1):
        frames = [noise(3, 4, 6).sigmoid()] * number + [str(tmp_path / "none.png")]
        with pytest.raises(Exception, match=rf"^Frame {number}\b.*none\.png"):
            list(track(tiny_model(), frames, mask, stride=2))
