"""InContext: what users do with it, on small models and on a real picture."""

import numpy as np
import pytest
import torch
from dense_ctx_predict.context_files import load_context, save_context
from PIL import Image

from dense_ctx import AutoDenseModel, DenseModel, InContext
from dense_ctx.errors import CheckpointError, DenseCtxError, FileError, InputError, NotFittedError, UnknownNameError
from dense_ctx.testing import tiny_model
from dense_ctx.visualize import save_labels

METHODS = ("ridge", "knn", "ensemble", "linear")


@pytest.fixture(scope="module")
def model():
    return AutoDenseModel.from_parts("efficientnet-lite0", "upsample", decoder_args={"layers": [0, 1, 2]})


@pytest.fixture(scope="module")
def coffee():
    from skimage import data

    return np.ascontiguousarray(data.coffee()[40:360:2, 100:500:2])  # 160 x 200: a cup on a table


def scene(height, width, seed):
    """Colour blocks and their labels: 0, 10, 20, 30."""
    rng = np.random.default_rng(seed)
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [220, 220, 60]])
    labels = np.kron(rng.integers(0, 4, (height // 32, width // 32)), np.ones((32, 32), int))
    noise = rng.integers(-20, 20, (*labels.shape, 3))
    return (colours[labels] + noise).clip(0, 255).astype(np.uint8), labels * 10


@pytest.mark.parametrize("method", METHODS)
def test_segments_a_new_picture_from_examples_of_other_sizes(model, method):
    pairs = [scene(96, 160, 1), scene(128, 96, 2)]
    context = InContext(model, method).fit([p[0] for p in pairs], [p[1] for p in pairs])
    image, labels = scene(128, 160, 3)
    predicted = context.predict(image)
    assert predicted.shape == (128, 160)
    assert predicted.dtype == torch.int64
    assert sorted(context.classes_) == [0, 10, 20, 30]
    assert (predicted.numpy() == labels).mean() > 0.85
    probabilities = context.predict_proba(image)
    assert probabilities.shape == (4, 128, 160)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(128, 160), rtol=0, atol=1e-4)
    assert torch.equal(torch.tensor(context.classes_)[probabilities.argmax(0)], predicted)


@pytest.mark.parametrize("method", METHODS)
def test_regresses_depth_and_normals(model, method):
    image, labels = scene(96, 160, 1)
    depth = labels.astype(np.float32) / 10 + 1
    depth[:8] = np.nan
    context = InContext(model, method).fit(image, depth)
    predicted = context.predict(image)
    assert predicted.shape == (1, 96, 160)
    error = (predicted[0].numpy() - labels / 10 - 1)[8:]
    assert np.abs(error).mean() < 0.25
    normals = np.stack([depth, -depth, 2 * depth])
    assert InContext(model, method).fit(image, normals).predict(image).shape == (3, 96, 160)
    with pytest.raises(InputError, match="no class probabilities"):
        context.predict_proba(image)


@pytest.mark.parametrize("method", METHODS)
def test_one_by_one_equals_all_at_once_and_new_classes_may_come(model, method):
    first, second = scene(96, 160, 1), scene(64, 96, 2)
    second = (second[0], np.where(second[1] == 30, 777, second[1]))
    together = InContext(model, method).fit([first[0], second[0]], [first[1], second[1]])
    apart = InContext(model, method).fit(first[0], first[1]).partial_fit(second[0], second[1])
    assert 777 in apart.classes_
    image = scene(64, 128, 3)[0]
    torch.testing.assert_close(apart.predict_proba(image), together.predict_proba(image), rtol=1e-3, atol=1e-4)
    assert apart.fit(*first).classes_ == [0, 10, 20, 30]  # fit forgets


def test_ignored_pixels_do_not_matter():
    model = tiny_model()
    image = torch.rand(3, 24, 40)
    mask = torch.randint(0, 3, (24, 40))
    mask[:, :10] = 255
    changed = image.clone()
    context = InContext(model, "ridge").fit(image, mask)
    assert 255 not in context.classes_
    # ridge sees only labelled pixels: their count is what was kept
    assert context.probe_.stats_.count == 24 * 30
    assert torch.equal(changed, image)  # inputs are left alone


def test_files_arrays_and_tensors_agree(tmp_path, model, coffee):
    mask = (np.hypot(*(np.mgrid[:160, :200] - np.array([[[80]], [[100]]]))) < 50).astype(np.uint8)
    Image.fromarray(coffee).save(tmp_path / "i.png")
    save_labels(tmp_path / "m.png", torch.from_numpy(mask))
    tensor = torch.from_numpy(coffee).permute(2, 0, 1)
    results = [
        InContext(model).fit(image, target).predict_proba(image)
        for image, target in [
            (coffee, mask),
            (tmp_path / "i.png", str(tmp_path / "m.png")),
            (Image.fromarray(coffee), Image.fromarray(mask)),
            (tensor, torch.from_numpy(mask)),
            (tensor.float() / 255, mask.astype(bool)),
        ]
    ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-5)
    np.save(tmp_path / "depth.npy", mask.astype(np.float32))
    values = InContext(model, task="regression").fit(coffee, tmp_path / "depth.npy").predict(coffee)
    assert values.is_floating_point()


def test_lists_give_lists(model):
    image, labels = scene(64, 96, 1)
    context = InContext(model).fit([image], [labels])
    out = context.predict([image, scene(32, 64, 2)[0]])
    assert [tuple(o.shape) for o in out] == [(64, 96), (32, 64)]


def test_three_hundred_classes(model):
    image, _ = scene(96, 160, 1)
    labels = np.arange(96 * 160).reshape(96, 160) * 300 // (96 * 160)
    with pytest.raises(InputError, match="ids up to 299 and holds 255, which is ignored by default"):
        InContext(model).fit(image, labels)
    context = InContext(model, ignore_index=None).fit(image, labels)
    assert len(context.classes_) == 300
    assert context.predict(image).max() == 299


def test_an_image_that_cannot_be_learnt_leaves_the_context_as_it_was(model):
    """Its classes stayed, and every prediction after it was refused for the lack of them."""
    (image, mask), (other, _) = scene(96, 160, 1), scene(64, 96, 2)
    context = InContext(model, "ridge").fit(image, mask)
    before = context.predict(other)
    with pytest.raises(DenseCtxError, match="max_memory"):
        context.partial_fit(image, mask + 1, max_memory="1MB")
    assert context.classes_ == [0, 10, 20, 30]
    assert torch.equal(context.predict(other), before)
    first = InContext(model, "ridge")
    with pytest.raises(DenseCtxError, match="max_memory"):
        first.partial_fit(image, mask / 7.5, max_memory="1MB")
    assert first.partial_fit(image, mask).task_ == "segmentation"
    assert torch.equal(first.predict(other), before)


def test_windows_cells_are_the_whole_image_s_where_they_are_fixed():
    """What docs/large_images.md says: by default a window's are smaller, and so are its labels' parts."""
    near = AutoDenseModel.from_parts("efficientnet-lite0", "upsample", decoder_args={"layers": [0]})
    image, mask = scene(96, 128, 1)
    large, _ = scene(96, 1024, 2)
    for options, same in (({"stride": 8}, True), ({}, False)):
        context = InContext(near, **options).fit(image, mask)
        whole, tiled = context.predict_proba(large), context.predict_proba(large, max_memory="35MB")
        assert ((whole - tiled).abs().max() < 1e-3) == same


@pytest.mark.parametrize("method", ["ridge", "ensemble"])
def test_tiled_prediction_agrees_inside(model, method):
    image, labels = scene(256, 320, 1)
    context = InContext(model, method).fit(image, labels)
    whole, tiled = context.predict_proba(image), context.predict_proba(image, max_memory="70MB approximate")
    assert tiled.shape == whole.shape
    torch.testing.assert_close(tiled.sum(0), torch.ones(256, 320), rtol=0, atol=1e-3)
    assert (tiled.argmax(0) == whole.argmax(0)).float().mean() > 0.97
    estimator = InContext(model, method).fit(image, labels, max_memory="70MB approximate")
    if method == "ridge":
        assert estimator.probe_.stats_.count == 256 * 320  # each pixel once
    assert (estimator.predict(image) == context.predict(image)).float().mean() > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded(tmp_path, model, method):
    first, second = scene(96, 160, 1), scene(64, 96, 2)
    context = InContext(model, method).fit(*first)
    again = load_context(save_context(context, tmp_path / "mémoire"), model)
    image = second[0]
    assert torch.equal(again.predict_proba(image), context.predict_proba(image))
    torch.testing.assert_close(
        again.partial_fit(*second).predict_proba(image), context.partial_fit(*second).predict_proba(image)
    )
    assert sorted(p.name for p in (tmp_path / "mémoire").iterdir()) == [
        "manifest.json", "probe.json", "probe.safetensors",
    ]  # fmt: skip


def test_loaded_with_the_same_model_only(tmp_path):
    """The digest of the weights tells models apart, arguments of the decoder those with the same weights."""
    args = {"dim": 6, "width": 8}
    model = AutoDenseModel.from_parts("efficientnet-lite0", "dpt", decoder_args=args)
    folder = save_context(InContext(model).fit(*scene(32, 64, 1)), tmp_path / "dpt")
    other = AutoDenseModel.from_parts("efficientnet-lite0", "dpt", decoder_args=args)
    with pytest.raises(
        CheckpointError, match=r"of another model: weights was '\w+', is '\w+'\. Load it with the model"
    ):
        load_context(folder, other)
    other.load_state_dict(model.state_dict())
    assert load_context(folder, other).classes_
    assert load_context(folder, other.to(torch.bfloat16)).classes_  # of another precision
    plain = AutoDenseModel.from_parts("efficientnet-lite0", "upsample")
    folder = save_context(InContext(plain).fit(*scene(32, 64, 1)), tmp_path / "upsample")
    other = AutoDenseModel.from_parts("efficientnet-lite0", "upsample", decoder_args={"normalize": False})
    with pytest.raises(CheckpointError, match=r"decoder_args was \{\}, is \{'normalize': False\}"):
        load_context(folder, other)
    assert load_context(folder, DenseModel(plain.backbone, plain.decoder)).classes_


def test_save_and_load_faults(tmp_path, model):
    context = InContext(model)
    with pytest.raises(NotFittedError, match="call fit first"):
        save_context(context, tmp_path)
    context.fit(*scene(32, 64, 1))
    folder = save_context(context, tmp_path / "c")
    with pytest.raises(CheckpointError, match="was fitted on the features of"):
        load_context(folder, tiny_model())
    with pytest.raises(FileError, match="is not a fitted InContext folder"):
        save_context(context, tmp_path)  # which holds something else
    (folder / "probe.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="damaged"):
        load_context(folder, model)
    (folder / "probe.safetensors").unlink()
    with pytest.raises(FileError, match=r"probe\.safetensors"):
        load_context(folder, model)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="Cannot write"):
        save_context(context, tmp_path / "file" / "c")


def test_bad_input_says_what_to_do():
    model = tiny_model()
    image = torch.rand(3, 16, 24)
    mask = torch.randint(0, 2, (16, 24))
    with pytest.raises(NotFittedError, match=r"call fit\(images, targets\)"):
        InContext(model).predict(image)
    with pytest.raises(UnknownNameError, match="ridge"):
        InContext(model, "rigde")
    with pytest.raises(InputError, match="task='depth'"):
        InContext(model, task="depth")
    with pytest.raises(InputError, match="penalty=-1 is not at least 0"):
        InContext(model, "ridge", penalty=-1).fit(image, mask)
    with pytest.raises(InputError, match="does not take"):
        InContext(model, banana=1).fit(image, mask)
    cases = [
        (image, torch.zeros(24, 16, dtype=torch.int64), "24 x 16"),
        (image, torch.full((16, 24), 255), "The mask is empty: every pixel is 255"),
        (image, Image.new("RGB", (24, 16)), "RGB picture"),
        (image, torch.full((16, 24), float("nan")), "no finite value"),
        (image, torch.rand(2, 24, 16), r"of the image's size \[16, 24\]; got \[2, 24, 16\]"),
        ([image, image], [mask], "2 images need as many targets, in a list; got 1"),
        ([image], mask, "need as many targets, in a list; got a Tensor"),
        ([], [], "No support images"),
        (torch.full((3, 16, 24), float("nan")), mask, "NaN"),
        ("gone.png", mask, "No image at gone.png"),
        (image, "gone.npy", r"Cannot read gone\.npy"),
    ]
    for images, targets, message in cases:
        with pytest.raises(DenseCtxError, match=message):
            InContext(model).fit(images, targets)
    context = InContext(model).fit(image, torch.rand(2, 16, 24))
    with pytest.raises(InputError, match="has 1 channels; earlier ones had 2"):
        context.partial_fit(image, torch.rand(16, 24))
    with pytest.raises(InputError, match="not pictures"):
        context.partial_fit(image, Image.new("L", (24, 16)))


def test_one_pixel_images_work(model):
    dark, light = (np.full((1, 1, 3), value, np.uint8) for value in (9, 250))
    context = InContext(model).fit([dark, light], [np.array([[4]]), np.array([[7]])])
    assert context.predict(dark).tolist() == [[4]]
