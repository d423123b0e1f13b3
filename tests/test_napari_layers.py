"""What the plugin of napari reads of layers, and how strokes become a session's annotation; without napari."""

from types import SimpleNamespace

import numpy as np
import pytest
from dense_ctx_napari.annotator import Annotator
from dense_ctx_napari.layers import LARGEST, LayerSource, require_same_axes, require_same_place
from dense_ctx_session import Session
from test_session import SIZE, picture, truth

from dense_ctx.errors import InputError
from dense_ctx.images import load
from dense_ctx.testing import tiny_model


def layer(data, rgb=True, limits=(0, 255), name="a photo", multiscale=False):
    attributes = {"data": data, "rgb": rgb, "contrast_limits": limits, "name": name, "multiscale": multiscale}
    return SimpleNamespace(axis_labels=(), **attributes)  # napari's own are never empty: "axis -3" and so on


def facts(label):
    return f"class {label}", (label, 2 * label % 256, 3)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def annotator(model):
    tool = Annotator(model, LayerSource(layer(picture())))
    yield tool
    tool.close()


@pytest.fixture
def stack(model):
    tool = Annotator(model, LayerSource(layer(np.stack([picture(i) for i in range(3)]))))
    yield tool
    tool.close()


def test_pixels_are_those_that_are_shown():
    np.testing.assert_array_equal(LayerSource(layer(picture())).pixels(0), load(picture()))
    grey = picture()[..., 0].astype(np.int32) * 10 - 700
    source = LayerSource(layer(grey, rgb=False, limits=(-700, 1850)))
    np.testing.assert_allclose(source.pixels(0)[1], picture()[..., 0] / 255, atol=1e-6)
    assert float(LayerSource(layer(grey, rgb=False, limits=(0, 1))).pixels(0).max()) == 1
    frames = LayerSource(layer(np.stack([picture(0), picture(1)])))
    assert frames.is_clip
    assert [item.name for item in frames.items] == ["a-photo/00000.png", "a-photo/00001.png"]
    np.testing.assert_array_equal(frames.pixels(1), load(picture(1)))
    levels = LayerSource(layer([picture(), picture()[::2]], multiscale=True))
    assert levels.shape == SIZE


def test_digests_stand_for_what_is_shown():
    grey = picture()[..., 0]
    digests = {
        LayerSource(layer(data, rgb=False, limits=limits)).digest(0)
        for data, limits in ((grey, (0, 255)), (grey, (0, 99)), (grey + 1, (0, 255)), (grey.astype(int), (0, 255)))
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.zeros((2, 3, 40, 50)), {"rgb": False}, r"'a photo' is 2 x 3 x 40 x 50; expected one image"),
        (np.zeros(9), {"rgb": False}, r"'a photo' is 9; expected one image"),
        (np.zeros((40, 50), complex), {"rgb": False}, "holds complex128"),
        (np.zeros((7, 50)), {"rgb": False}, "expected sides of 8 or more"),
        (np.zeros((0, 40, 50)), {"rgb": False}, "has no frame"),
        (np.broadcast_to(np.uint8(0), (LARGEST // 1000, 1001)), {"rgb": False}, "megapixels; up to 33"),
    ],
)
def test_layers_that_are_no_images_are_refused(data, options, message):
    with pytest.raises(InputError, match=message):
        LayerSource(layer(data, **options))


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "holds NaN or infinity"), (1.5, "The image layer 'a photo', frame 1")]
)
def test_values_that_are_no_colours_are_refused_by_frame(value, message):
    frames = np.stack([picture(), picture()]).astype(np.float32) / 255
    frames[1, 2, 2] = value
    source = LayerSource(layer(frames))
    source.pixels(0)
    with pytest.raises(InputError, match=message):
        source.pixels(1)


def test_channels_are_no_frames():
    frames = layer(np.zeros((3, 40, 50), np.uint8), rgb=False)
    for names in (("axis -3", "axis -2", "axis -1"), ("t", "y", "x")):
        frames.axis_labels = names
        assert LayerSource(frames).is_clip
    frames.axis_labels = ("C", "y", "x")
    with pytest.raises(InputError, match="'a photo' has channels in its first axis"):
        LayerSource(frames)


def test_strokes_have_the_axes_of_the_image():
    source = LayerSource(layer(picture()))
    require_same_axes(SimpleNamespace(data=np.zeros(SIZE, int), name="s", multiscale=False), source)
    for shape, multiscale in ((SIZE[::-1], False), ((1, *SIZE), False), (SIZE, True)):
        with pytest.raises(InputError, match="choose a labels layer of the same size"):
            require_same_axes(SimpleNamespace(data=np.zeros(shape, int), name="s", multiscale=multiscale), source)


def test_annotation_follows_the_strokes(annotator):
    strokes = np.zeros(SIZE, np.int32)
    assert annotator.follow(strokes, facts) == []
    strokes[2:6, 2:60] = 1
    assert annotator.follow(strokes, facts) == [0]
    assert {*np.unique(annotator.labels(0))} == {0, 1}  # of one class nothing is predicted
    assert annotator.uncertainty(0) is None
    strokes[16:30, 26:40] = 5
    assert annotator.follow(strokes, facts) == [0]
    assert annotator.follow(strokes, facts) == []
    assert [(c.id, c.name, c.colour) for c in annotator.session.classes] == [
        (0, "class 1", (1, 2, 3)), (4, "class 5", (5, 10, 3)),
    ]  # fmt: skip
    labels = annotator.labels(0)
    assert {*np.unique(labels)} == {1, 5}
    assert (labels[strokes > 0] == strokes[strokes > 0]).all()
    with Session(annotator.session.model, picture()) as direct:
        for label in (1, 5):
            direct.add_class(f"class {label}", class_id=label - 1)
        direct.mask_label(0, np.where(strokes == 0, 255, strokes - 1).astype(np.uint8))
        np.testing.assert_array_equal(direct.labels(0) + 1, labels)
    assert annotator.uncertainty(0).shape == SIZE
    annotator.rename(5, "box")
    annotator.rename(9, "not painted yet")
    assert [c.name for c in annotator.session.classes] == ["class 1", "box"]
    strokes[:] = 0
    assert annotator.follow(strokes, facts) == [0]
    assert not annotator.labels(0).any()


def test_labels_that_are_no_classes_are_refused(annotator):
    for value in (255, 300, -1):
        with pytest.raises(InputError, match=f"The strokes hold the label {value}; expected 1 to 254"):
            annotator.follow(np.full(SIZE, value), facts)
    assert annotator.follow(np.full(SIZE, 254), facts) == [0]


def test_a_stack_is_propagated(stack, tmp_path):
    strokes = np.zeros((3, *SIZE), np.uint8)
    strokes[0] = truth(0) + 1
    assert stack.follow(strokes, facts) == [0]
    frames = dict(stack.propagate())
    assert [*frames] == [1, 2]
    assert ((frames[2] == 2) == (truth(2) == 1)).mean() > 0.9
    strokes[2, 20:24, 60:64] = 1
    assert stack.follow(strokes, facts) == [2]
    assert stack.export(tmp_path / "masks", "png") == tmp_path / "masks"
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 3


def test_a_stroke_that_is_painted_meanwhile_is_not_lost(annotator):
    strokes = np.zeros(SIZE, np.uint8)
    strokes[5:9, 5:9], strokes[20:24, 20:24] = 1, 2
    take = annotator.session.mask_label

    def slow(*args, **options):
        strokes[30:34, 30:34] = 2
        return take(*args, **options)

    annotator.session.mask_label = slow
    annotator.follow(strokes, facts)
    annotator.session.mask_label = take
    assert annotator.follow(strokes, facts) == [0]
    assert (annotator.session.annotation(0)[30:34, 30:34] == 1).all()


def test_strokes_lie_on_the_image():
    def placed(scale, shift=0.0):
        return SimpleNamespace(name="s", data_to_world=lambda p: np.array(p) * scale + shift,
                               world_to_data=lambda p: (np.array(p) - shift) / scale)  # fmt: skip

    for shape in (SIZE, (3, *SIZE)):
        require_same_place(placed(0.5, 3), placed(0.5, 3), shape)
        require_same_place(placed(0.5, 3.1), placed(0.5, 3), shape)
        for strokes in (placed(1), placed(0.5), placed(0.5, 4), placed(np.nan)):
            with pytest.raises(InputError, match="'s' lies elsewhere than the image layer 's'"):
                require_same_place(strokes, placed(0.5, 3), shape)
