"""How samples come to the model and to the loss: sizes, crops, flips, the same on every run."""

import pytest
import torch

from dense_ctx.data.base import Sample
from dense_ctx.errors import InputError
from dense_ctx.evaluate import load_protocol
from dense_ctx.evaluate.fit import batch
from dense_ctx.evaluate.samples import extract, grid_size, model_size, training_target, training_view
from dense_ctx.images import nearest, resized
from dense_ctx.testing import tiny_model

H, W = 12, 20


def sample(kind="segmentation"):
    """The red channel is x, the green one y; the target says the same of each pixel."""
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    image = torch.stack([x / 100, y / 100, torch.full((H, W), 0.5)]).float()
    if kind == "segmentation":
        target = x + 100 * y
    elif kind == "depth":
        target = (x + 100 * y)[None].float()
    else:
        target = torch.stack([x, y, torch.ones_like(x)]).float()
        target = target / target.norm(dim=0)
    return Sample("a", image, target)


def protocol(*settings):
    return load_protocol("camvid-linear-grid4-v1", settings)


def places(found):
    """x and y that each pixel of the shown image came from."""
    return (found.image[0] * 100).round().long(), (found.image[1] * 100).round().long()


def test_nothing_is_changed_without_augmentation():
    view = training_view(sample(), protocol(), "segmentation", 0)
    assert torch.equal(view.image, sample().image)
    assert torch.equal(view.target, sample().target)


def test_a_crop_moves_image_and_target_alike():
    chosen, corners = protocol("train.crop=[6,8]"), set()
    for seed in range(20):
        view = training_view(sample(), chosen, "segmentation", seed)
        x, y = places(view)
        assert view.image.shape == (3, 6, 8)
        assert torch.equal(view.target, x + 100 * y)
        corners.add((int(x[0, 0]), int(y[0, 0])))
    assert len(corners) > 10


@pytest.mark.parametrize(("kind", "blank"), [("segmentation", -1), ("depth", float("nan"))])
def test_a_crop_larger_than_the_image_is_padded_with_what_does_not_count(kind, blank):
    view = training_view(sample(kind), protocol("train.crop=[16,24]"), kind, 0)
    target = view.target if kind == "segmentation" else view.target[0]
    assert view.image.shape == (3, 16, 24)
    assert torch.equal(view.image[:, :H, :W], sample().image)
    outside = torch.ones(16, 24, dtype=torch.bool)
    outside[:H, :W] = False
    assert (target[outside].isnan() if blank != blank else target[outside] == blank).all()
    assert torch.equal(target[:H, :W], sample(kind).target.reshape(H, W))


def test_a_flip_mirrors_half_of_the_images_and_the_normals_x():
    chosen, flipped = protocol("train.flip=true"), 0
    plain = sample("normals")
    for seed in range(40):
        view = training_view(plain, chosen, "normals", seed)
        if torch.equal(view.image, plain.image):
            assert torch.equal(view.target, plain.target)
            continue
        flipped += 1
        assert torch.equal(view.image, plain.image.flip(-1))
        assert torch.equal(view.target, plain.target.flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None])
        depth = training_view(sample("depth"), chosen, "depth", seed)
        assert torch.equal(depth.target, sample("depth").target.flip(-1))  # a distance has no direction
    assert 10 < flipped < 30


def test_a_random_scale_keeps_labels_and_their_places():
    chosen, sizes = protocol("train.scale=[0.5,2.0]"), set()
    for seed in range(20):
        view = training_view(sample(), chosen, "segmentation", seed)
        assert view.image.shape[1:] == view.target.shape
        factor = view.target.shape[0] / H
        assert 0.45 <= factor <= 2.05
        assert torch.isin(view.target, sample().target).all()  # no label between two
        x, y = view.target % 100, view.target // 100
        agreement = ((view.image[0] * 100 - x).abs() <= 2 / min(factor, 1)) & (
            (view.image[1] * 100 - y).abs() <= 2 / min(factor, 1)
        )
        assert agreement.all()
        sizes.add(tuple(view.target.shape))
    assert len(sizes) > 10


def test_the_same_seed_shows_the_same_pixels():
    settings = protocol("train.crop=[6,8]", "train.flip=true", "train.scale=[0.5,2.0]")
    for seed in range(5):
        first, second = (training_view(sample(), settings, "segmentation", seed) for _ in range(2))
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.target, second.target)
    first, second = (training_view(sample(), settings, "segmentation", seed) for seed in (0, 1))
    assert not torch.equal(first.image, second.image)


def test_sizes():
    assert model_size((480, 854), protocol("image.short_side=448")) == (448, 797)
    assert model_size((854, 480), protocol("image.short_side=448")) == (797, 448)
    assert model_size((480, 854), protocol("image.size=[32,48]")) == (32, 48)
    assert model_size((480, 854), protocol()) == (480, 854)
    assert grid_size((480, 854), 8) == (60, 107)
    assert grid_size((2, 3), 8) == (1, 1)


def test_a_small_image_is_the_average_of_a_large_one():
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    small = resized(image, (10, 15))
    assert small.std() < 0.6 * image.std()  # antialiased, not picked
    assert (small - image.unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4))).abs().mean() < 0.06
    assert resized(image, (40, 60)) is image


@pytest.mark.parametrize("size", [(6, 10), (5, 7), (12, 20), (25, 41), (1, 1)])
def test_nearest_is_the_pixel_a_cells_centre_falls_on(size):
    target = sample().target
    labels = nearest(target, size)
    for row in range(size[0]):
        for column in range(size[1]):
            expected = target[int((row + 0.5) * H / size[0]), int((column + 0.5) * W / size[1])]
            assert labels[row, column] == expected
    stacked = torch.stack([target, -target])
    assert torch.equal(nearest(stacked, size)[1], -labels)


def test_the_loss_sees_every_nth_pixel():
    train = protocol("train.label_stride=2").train
    assert training_target(sample().target, (3, 5), train).shape == (6, 10)
    assert training_target(sample().target, (3, 5), protocol("train.label_stride=1").train).shape == (H, W)
    assert training_target(sample().target, (3, 5), None).shape == (3, 5)


def test_batches_are_whole_passes_in_an_order_of_their_own():
    indices = [3, 5, 8, 9, 11]
    order = [index for step in range(10) for index in batch(indices, 3, 0, step)]
    passes = [order[start : start + 5] for start in range(0, 30, 5)]
    assert all(sorted(each) == indices for each in passes)
    assert len({tuple(each) for each in passes}) > 1
    assert order != [index for step in range(10) for index in batch(indices, 3, 1, step)]
    assert batch(indices, 3, 0, 7) == order[21:24]  # a step does not depend on those before it
    assert len(batch([0, 1], 5, 0, 0)) == 5  # fewer images than a batch


def test_stack_names_the_sizes():
    from dense_ctx.evaluate.samples import stack

    with pytest.raises(InputError, match=r"Images of one batch differ in size: \[\(3, 4\), \(3, 5\)\]"):
        stack([torch.zeros(3, 4), torch.zeros(3, 5)], "Images")


def test_the_network_may_run_in_bfloat16_and_the_probe_reads_float32():
    model, image = tiny_model(), torch.rand(1, 3, 32, 48)
    exact, rough = extract(model, image, protocol()), extract(model, image, protocol("precision=bfloat16"))
    assert rough.pixels.dtype == rough.patches.dtype == torch.float32
    assert rough.extent == exact.extent
    away = (rough.pixels - exact.pixels).norm() / exact.pixels.norm()
    assert 1e-5 < away < 0.05


def test_a_choice_of_precision_is_part_of_what_is_compared():
    assert protocol().digest() != protocol("precision=bfloat16").digest()
    assert protocol("precision=bfloat16").resolved_id.endswith("[precision=bfloat16]")
