"""Functions for CVAT, by the SDK's own driver over HTTP, its checks of specs and answers, and its tracking protocol."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from cvat_server import Server, scene, truth
from dense_ctx_labels.shapes import points_of
from dense_ctx_predict import Predictor, track
from PIL import Image

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.errors import DenseCtxError, InputError

cvat = pytest.importorskip("cvat_sdk.auto_annotation")
from cvat_sdk.auto_annotation.driver import _DetectionFunctionContextImpl as Context  # noqa: E402
from cvat_sdk.core.client import AccessTokenCredentials, Client, Config  # noqa: E402
from cvat_sdk.datasets.common import UnsupportedDatasetError  # noqa: E402
from cvat_sdk.masks import decode_mask, encode_mask  # noqa: E402
from dense_ctx_cvat import detection, interaction, shapes, tracking  # noqa: E402

NAMES = {4: "red box", 9: "green box"}
LABELS = (("green box", "any"), ("red box", "mask"), ("other", "any"))
PLAIN = "rgb-xy+upsample"
ROOT = Path(__file__).parent.parent


def model():
    return AutoDenseModel.from_parts("rgb-xy", "upsample").eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("cvat")
    Predictor(InContext(model(), "ridge").fit([scene()], [truth()]), names=NAMES).save(home / "predictor")
    return home


@pytest.fixture(scope="module")
def detector(folder):
    return detection.create(str(folder / "predictor"))


def saved(path, targets, task=None, names=None, method="ridge"):
    source = InContext(model(), method, "regression" if task == "depth" else None)
    return str(Predictor(source.fit([scene()], targets), task, names).save(path))


def annotated(function, labels=LABELS, images=None, tmp_path=None, **options):
    """What the SDK uploads for a task, and the images."""
    server = Server([scene(1, 24), scene(2, 28), scene(3, 32)] if images is None else images, labels)
    with (
        server.running() as url,
        Client(url, config=Config(cache_dir=tmp_path / "cache"), check_server_version=False) as client,
    ):
        client.login(AccessTokenCredentials("token"))
        cvat.annotate_task(client, 1, function, **options)
    ((method, _, body),) = server.uploads
    assert body["tags"] == []
    return method, body["shapes"]


def decoded(points):
    return decode_mask([int(v) for v in points], image_width=80, image_height=48)


def test_a_task_is_annotated_by_the_sdk_s_driver(detector, tmp_path):
    method, uploaded = annotated(detector, tmp_path=tmp_path, allow_unmatched_labels=False)
    assert method == "PATCH"
    assert [(s["frame"], s["label_id"], s["type"], s["source"]) for s in uploaded] == [
        (frame, label, "mask", "auto") for frame in range(3) for label in (101, 100)
    ]
    for index, left in enumerate((24, 28, 32)):
        for item, value in zip(uploaded[2 * index : 2 * index + 2], (4, 9), strict=True):
            reference = truth(left) == value
            mask = decoded(item["points"])
            assert (mask & reference).sum() / (mask | reference).sum() > 0.9
            assert 0.5 < item["score"] <= 1
    assert annotated(detector, tmp_path=tmp_path, clear_existing=True)[0] == "PUT"


def test_polygons_by_shape_and_by_the_driver_s_wish(folder, detector, tmp_path):
    function = detection.create(str(folder / "predictor"), shape="polygon")
    _, own = annotated(function, (("red box", "polygon"), ("green box", "any")), tmp_path=tmp_path)
    _, asked = annotated(detector, LABELS[:1], tmp_path=tmp_path, conv_mask_to_poly=True, allow_unmatched_labels=True)
    assert {s["type"] for s in own + asked} == {"polygon"}
    _, masks = annotated(detector, tmp_path=tmp_path)
    whole = np.zeros((48, 80), dtype=bool)
    for item in own:
        if item["frame"] == 0 and item["label_id"] == 100:
            whole |= shapes.mask_of("polygon", item["points"], (48, 80))
    assert (whole == decoded(masks[0]["points"])).all()


def test_a_threshold_leaves_out_what_is_less_certain(detector):
    certain, all_of_it = (detector.detect(Context(frame_name="a", conf_threshold=t), scene(1)) for t in (0.9, None))
    assert sum(decoded(s.points).sum() for s in certain) < sum(decoded(s.points).sum() for s in all_of_it)
    assert all(s.score >= 0.9 for s in certain)
    scores = detector.predictor.scores(scene(1)).numpy()
    assert (decoded(certain[0].points) == ((scores.argmax(0) == 1) & (scores[1] >= 0.9))).all()


def test_min_area_leaves_out_small_regions_alone(folder):
    image = scene(1)
    image.paste((220, 30, 20), (70, 2, 73, 4))  # a speck of 3 x 2 pixels

    def regions(min_area):
        function = detection.create(str(folder / "predictor"), shape="polygon", min_area=min_area)
        reds = [s for s in function.detect(Context(frame_name="a"), image) if s.label_id == 4]
        return [shapes.mask_of("polygon", s.points, (48, 80)) for s in reds]

    assert any(mask[2:4, 70:73].all() and mask.sum() == 6 for mask in regions(0))
    assert any(mask[2:4, 70:73].any() for mask in regions(6))
    large = regions(7)
    assert len(large) >= 1
    assert not any(mask[2:4, 70:73].any() for mask in large)


def test_a_tolerance_saves_points(folder, tmp_path):
    y, x = np.mgrid[:48, :80]
    disc = (y - 24) ** 2 + (x - 40) ** 2 < 300
    (ring,) = shapes.outlines(disc)
    exact, coarse = shapes.polygon_points(ring), shapes.polygon_points(ring, 1.0)
    assert len(coarse) < len(exact) / 2
    close = shapes.mask_of("polygon", coarse, disc.shape)
    assert (close & disc).sum() / (close | disc).sum() > 0.9
    speck = np.zeros((48, 80), dtype=bool)
    speck[3, 4] = True
    assert len(shapes.polygon_points(shapes.outlines(speck)[0], 5.0)) >= 6

    def points(tolerance):
        function = detection.create(str(folder / "predictor"), shape="polygon", tolerance=tolerance)
        return sum(len(s.points) for s in function.detect(Context(frame_name="a", conf_threshold=0.9), scene(1)))

    def tracked(tolerance):
        function = tracking.create(PLAIN, stride=4, tolerance=tolerance)
        return len(carried(function, "polygon", disc, frames(2))[0].points)

    assert points(1.5) < points(0.0)
    assert tracked(1.5) < tracked(0.0)


def test_the_largest_regions_come_first_and_holes_stay_open():
    mask = np.zeros((30, 40), dtype=bool)
    mask[2:20, 3:30] = True
    mask[6:12, 8:15] = False
    mask[25:28, 35:39] = True
    rings = shapes.outlines(mask)
    again = [shapes.mask_of("polygon", shapes.polygon_points(ring), mask.shape) for ring in rings]
    assert [int(part.sum()) for part in again] == [18 * 27 - 42, 12]
    assert (again[0] | again[1] == mask).all()


@pytest.mark.parametrize("seed", range(3))
def test_masks_are_those_of_the_sdk(seed):
    mask = np.random.default_rng(seed).random((23, 31)) > 0.7
    mask[:4] = mask[:, 25:] = False
    assert shapes.mask_points(mask) == encode_mask(mask)
    assert (shapes.mask_of("mask", encode_mask(mask), mask.shape) == mask).all()


def test_more_than_255_classes(tmp_path):
    image = Image.fromarray(np.arange(300 * 3, dtype=np.uint8).reshape(15, 20, 3))
    target = np.arange(300, dtype=np.int64).reshape(15, 20)
    source = InContext(model(), "knn", "segmentation", None, k=1).fit([image], [target])
    function = detection.create(str(Predictor(source).save(tmp_path / "many")))
    assert len(function.spec.labels) == 299
    by_label = {s.label_id: s for s in function.detect(Context(frame_name="a"), image)}
    assert set(by_label) == set(range(1, 300))
    assert by_label[256].points[-4:] == [16, 12, 16, 12]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16", "1"])
def test_images_of_other_modes_are_read(detector, mode):
    image = scene(1).convert("L").convert("I;16") if mode == "I;16" else scene(1).convert(mode)
    assert isinstance(detector.detect(Context(frame_name="a"), image), list)


def test_an_image_of_32_bits_is_refused(detector):
    with pytest.raises(InputError, match="does not say what is white"):
        detector.detect(Context(frame_name="a"), scene(1).convert("I"))


def test_a_large_photo_is_tiled(folder):
    function = detection.create(str(folder / "predictor"), max_memory="1 banana")
    with pytest.raises(DenseCtxError, match="banana"):
        function.detect(Context(frame_name="a"), scene())
    with pytest.raises(DenseCtxError, match="no-such-device"):
        detection.create(str(folder / "predictor"), device="no-such-device")


def test_refused_predictors(tmp_path):
    depth = saved(tmp_path / "depth", [np.full((48, 80), 2.5, dtype=np.float32)], "depth")
    values = saved(tmp_path / "values", [np.full((2, 48, 80), 2.5, dtype=np.float32)])
    twins = saved(tmp_path / "twins", [truth()], names={4: "box", 9: "box"})
    long = saved(tmp_path / "long", [truth()], names={4: "b" * 65})
    grounds = saved(tmp_path / "grounds", [np.minimum(truth(), 1)], names={1: "_background_"})
    cases = [
        (lambda: detection.create(depth), "predicts depth, which is no annotation of CVAT's"),
        (lambda: detection.create(values), "predicts regression"),
        (lambda: detection.create(twins), "Class names are distinct; 'box' occurs twice"),
        (lambda: detection.create(long), "at most 64 letters; class 4"),
        (lambda: detection.create(grounds), "no class but background"),
        (lambda: detection.create(PLAIN), "has features but no trained head: give annotated examples"),
        (lambda: detection.create(depth, shape="box"), "shape='box': expected mask or polygon"),
        (lambda: detection.create(depth, min_area=-1), "min_area=-1"),
        (lambda: detection.create(depth, tolerance=-1.0), "tolerance=-1.0"),
        (lambda: tracking.create(PLAIN, tolerance=float("nan")), "tolerance=nan"),
        (lambda: detection.create(depth, min_area="9"), "min_area is int; got str"),
        (lambda: detection.create(str(tmp_path / "missing")), "missing"),
    ]
    for call, message in cases:
        with pytest.raises(DenseCtxError, match=message):
            call()


def test_labels_that_the_task_has_not(detector, tmp_path):
    with pytest.raises(cvat.BadFunctionError, match="label 'red box' is not in dataset"):
        annotated(detector, (("green box", "any"),), tmp_path=tmp_path)
    with pytest.raises(cvat.BadFunctionError, match="has type 'mask' in the function, but 'polygon' in the dataset"):
        annotated(detector, (("red box", "polygon"), ("green box", "any")), tmp_path=tmp_path)
    _, uploaded = annotated(detector, (("green box", "any"),), tmp_path=tmp_path, allow_unmatched_labels=True)
    assert {s["label_id"] for s in uploaded} == {100}


def test_a_task_without_images(detector, tmp_path):
    with pytest.raises(UnsupportedDatasetError, match="The task has no data"):
        annotated(detector, images=[], tmp_path=tmp_path)


class Shape(cvat.TrackingFunctionShapeContext):
    original_shape_type = None

    def __init__(self, kind):
        self.original_shape_type = kind


def frames(count=4):
    return [scene(0, 20 + 3 * i) for i in range(count)]


def carried(function, kind, mask, clip):
    points = encode_mask(mask) if kind == "mask" else shapes.polygon_points(shapes.outlines(mask)[0])
    first = function.preprocess_image(None, clip[0])
    state = function.init_tracking_state(Shape(kind), first, cvat.TrackableShape(type=kind, points=points))
    return [function.track(Shape(kind), function.preprocess_image(None, frame), state) for frame in clip[1:]]


@pytest.mark.parametrize("kind", ["mask", "polygon"])
def test_a_shape_is_carried_as_track_carries_it(kind):
    function, mask = tracking.create(PLAIN, stride=4), truth() == 4
    assert function.spec.supported_shape_types == {"mask", "polygon"}
    results = carried(function, kind, mask, frames())
    expected = list(track(model(), frames(), mask.astype(np.int64), stride=4))[1:]
    for shape, ids in zip(results, expected, strict=True):
        assert shape.type == kind
        if kind == "mask":
            assert (decoded(shape.points) == (ids.numpy() == 1)).all()
        else:
            largest = shapes.outlines(ids.numpy() == 1)[0]
            assert (points_of(shape.points) == largest).all()
    coarse = carried(tracking.create(PLAIN), kind, mask, frames())
    assert coarse[-1].points != results[-1].points


def test_an_object_that_is_gone_has_no_shape(monkeypatch):
    function = tracking.create(PLAIN)
    monkeypatch.setattr("dense_ctx_predict.tracking.Track.step", lambda self, frame: self.mask * 0)
    assert carried(function, "mask", truth() == 4, frames(2)) == [None]


def test_two_objects_of_a_clip_are_tracked_apart():
    function, clip = tracking.create(PLAIN, stride=4), frames()
    red, green = (carried(function, "mask", truth() == value, clip)[-1].points for value in (4, 9))
    assert (decoded(red) & (truth(29) == 4)).sum() > 0.7 * 360
    assert (decoded(green) & (truth() == 9)).sum() > 0.7 * 160


def test_refused_shapes_and_frames():
    function = tracking.create(PLAIN)
    first = function.preprocess_image(None, scene())

    def begin(kind, points, frame=first):
        return function.init_tracking_state(Shape(kind), frame, cvat.TrackableShape(type=kind, points=points))

    cases = [
        (lambda: begin("rectangle", [1, 1, 5, 5]), "type 'rectangle'; expected mask or polygon"),
        (lambda: begin("polygon", [1, 1, 5, 5]), "points are at least 3 pairs"),
        (lambda: begin("polygon", [100, 1, 120, 5, 130, 9]), "covers no pixel of the image of 80 x 48"),
        (lambda: begin("polygon", [-1, -1, 81, -1, 81, 50, -1, 50]), "only label 1: nothing to track"),
        (lambda: begin("mask", [0, 4, 0, 0, 90, 0]), "within the image of 80 x 48"),
        (lambda: begin("mask", [0, 4, 0, 0, 4, 0]), "run lengths fill 4 pixels of 1 x 5"),
        (lambda: begin("mask", [0, 4.5, 0, 0, 4, 0]), "run lengths and then left"),
        (lambda: begin("mask", [4]), "run lengths and then left"),
        (lambda: function.preprocess_image(None, scene().convert("I")), "does not say what is white"),
        (lambda: tracking.create(PLAIN, stride=0), "stride=0"),
        (lambda: tracking.create(PLAIN, device="no-such-device"), "no-such-device"),
        (lambda: tracking.create(PLAIN, max_memory="much").preprocess_image(None, scene()), "much"),
        (lambda: tracking.create("no-such-model"), "no-such-model"),
    ]
    for call, message in cases:
        with pytest.raises(DenseCtxError, match=message):
            call()
    state = begin("mask", encode_mask(truth() == 4))
    with pytest.raises(InputError, match=r"it is 24 x 40 .* the first was 48 x 80"):
        function.track(Shape("mask"), function.preprocess_image(None, scene().resize((40, 24))), state)


class Prompts(cvat.InteractionPrompts):
    pos_points, neg_points, bounding_box = (), (), None

    def __init__(self, pos=(), neg=(), box=None):
        self.pos_points, self.neg_points, self.bounding_box = pos, neg, box


def two_boxes():
    image = scene()
    image.paste((220, 30, 20), (56, 12, 76, 30))  # a second red box
    return image


def clicked(function, session, *prompts, **named):
    (shape,) = function.detect(None, session, Prompts(*prompts, **named))
    assert shape.type == "mask"
    assert shape.attributes[0].spec_id == cvat.InteractionResultAttributes.CONFIDENCE
    assert 0.5 < float(shape.attributes[0].value) <= 1
    return decoded(shape.points)


def test_clicks_give_the_object_that_was_clicked():
    function = interaction.create(PLAIN)
    session = function.preprocess_image(None, two_boxes())
    first, second = truth() == 4, np.roll(truth() == 4, 36, axis=1)
    one = clicked(function, session, [(30, 20)], [(50, 20)])
    assert (one & first).sum() > 0.9 * 360
    assert not (one & second).any()
    both = clicked(function, session, [(30, 20), (66, 20)], [(50, 20)])
    assert (both & second).sum() > 0.9 * 360
    assert (clicked(function, session, [(30, 20)], [(50, 20)]) == one).all()  # nothing of the call between is left


def test_a_box_limits_the_answer():
    function = interaction.create(PLAIN)
    session = function.preprocess_image(None, two_boxes())
    free = clicked(function, session, [(30, 20)], [(50, 20)])
    part = clicked(function, session, [(30, 20)], [(50, 20)], box=((18, 10), (42, 24)))
    assert not part[24:].any()
    assert (part[10:24, 18:42] == free[10:24, 18:42]).all()  # nothing is learnt from the box
    assert part.sum() > 0.9 * 12 * 20


def test_the_method_counts():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8))
    points = []
    for method in ("ridge", "knn(k=5)", "knn(k=1)"):
        function = interaction.create(PLAIN, method=method)
        session = function.preprocess_image(None, image)
        points.append(function.detect(None, session, Prompts([(30, 20)], [(50, 20)]))[0].points)
    assert points[0] != points[1] != points[2]


def test_the_radius_counts():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8))
    sums = []
    for radius in (1.0, 6.0):
        function = interaction.create(PLAIN, radius=radius)
        session = function.preprocess_image(None, image)
        sums.append(function.detect(None, session, Prompts([(30, 20)], [(50, 20)]))[0].points)
    assert sums[0] != sums[1]


def test_refused_clicks():
    function = interaction.create(PLAIN)
    spec = function.spec
    assert (spec.min_pos_points, spec.min_neg_points, spec.min_bounding_boxes) == (1, 1, 0)
    session = function.preprocess_image(None, scene())
    cases = [
        (Prompts([(90, 2)], [(5, 5)]), r"\(90, 2\) is outside of the image of 80 x 48"),
        (Prompts([(float("nan"), 2)], [(5, 5)]), "outside of the image"),
        (Prompts([(30, 20)]), "no pixel beside the object: add a point"),
        (Prompts([], [(30, 20)]), "no pixel on the object"),
        (Prompts([(30, 20)], [(30, 20)]), "no pixel on the object"),
        (Prompts([(30, 20)], [], ((20, 12), (40, 22))), "no pixel beside the object"),
        (Prompts([(70, 40)], [], ((20, 12), (40, 22))), r"\(70, 40\) of the object is outside of its box"),
        (Prompts([(30, 20)], [], ((40, 22), (40, 22))), "holds no pixel"),
    ]
    for prompts, message in cases:
        with pytest.raises(InputError, match=message):
            function.detect(None, session, prompts)
    with pytest.raises(InputError, match="does not say what is white"):
        function.preprocess_image(None, scene().convert("I"))
    for options, message in [
        ({"radius": 0.0}, "radius=0.0"),
        ({"method": "nearest"}, "nearest"),
        ({"method": "ridge(k=3)"}, "k"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"device": "no-such-device"}, "no-such-device"),
    ]:
        with pytest.raises(DenseCtxError, match=message):
            interaction.create(**{"model": PLAIN, **options})


def test_an_export_of_cvat_becomes_a_function_for_the_rest(tmp_path):
    from dense_ctx import cli, registry

    (tmp_path / "photos").mkdir()
    scene().save(tmp_path / "photos" / "a.png")
    names = ["background", "red box", "green box"]
    labels = np.select([truth() == 4, truth() == 9], [1, 2], 0).astype(np.uint8)
    colours = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]
    writer = registry().create("label-format", "cvat", shape="polygon")
    export = writer.write_maps(tmp_path / "annotations.xml", names, colours, [("a.png", labels, None)])
    words = ["--labels-in", export, "--images", tmp_path / "photos", "--save", tmp_path / "boxes"]
    assert cli.main(["predict", "--model", PLAIN, "--method", "ridge", *map(str, words)]) == 0
    function = detection.create(str(tmp_path / "boxes"))
    assert [label.name for label in function.spec.labels] == names[1:]
    method, uploaded = annotated(function, tmp_path=tmp_path)
    assert method == "PATCH"
    assert {s["label_id"] for s in uploaded} == {100, 101}


def commands():
    text = (ROOT / "docs" / "cvat.md").read_text(encoding="utf-8")
    return [line.strip() for line in re.findall(r"^ *cvat-cli .*$", text, re.MULTILINE)]


def test_the_page_s_commands_are_those_of_cvat_cli():
    import argparse

    from cvat_cli._internal.commands_all import COMMANDS
    from cvat_cli._internal.common import configure_common_arguments

    parser = argparse.ArgumentParser()
    configure_common_arguments(parser)
    COMMANDS.configure_parser(parser)
    lines = commands()
    assert len(lines) == 7
    for line in lines:
        args = parser.parse_args(shlex.split(line)[1:])
        assert args.function_module.startswith("dense_ctx_cvat.")
        assert set(args.function_parameters) == {"model"}


def test_the_page_has_every_parameter():
    import inspect

    text = (ROOT / "docs" / "cvat.md").read_text(encoding="utf-8")
    for module in (detection, tracking, interaction):
        for name in inspect.signature(module.create).parameters:
            assert f"{name}=" in text, (module.__name__, name)


def test_a_file_of_one_s_own_is_a_function(folder, tmp_path):
    from cvat_cli._internal.common import FunctionLoader

    text = (ROOT / "docs" / "cvat.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "function.py").write_text(source.strip() + "\n")
    function = FunctionLoader(None, tmp_path / "function.py", {"model": str(folder / "predictor")}).load()
    assert [label.name for label in function.spec.labels] == ["red box", "green box"]
