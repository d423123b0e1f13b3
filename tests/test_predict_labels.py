"""dense-ctx predict with labels of annotation tools: strokes in, predictions out in any format, and in again."""

import json

import numpy as np
import pytest
from label_maps import part
from PIL import Image
from test_predict_cli import MODEL, files, iou, photo

from dense_ctx import cli


def strokes(image, *lines):
    shapes = [{"label": name, "points": points, "shape_type": "linestrip"} for name, points in lines]
    data = {"imagePath": image, "imageData": None, "imageHeight": 40, "imageWidth": 56, "shapes": shapes}
    return json.dumps(data)


@pytest.fixture
def room(tmp_path, monkeypatch):
    """Two photos, one with a stroke on the disc and one beside it, in labelme."""
    monkeypatch.chdir(tmp_path)
    truth = {name: photo(tmp_path / "photos" / f"{name}.png", seed) for seed, name in enumerate(("a", "s/b"))}
    y, x = (int(values.mean()) for values in np.nonzero(truth["a"]))
    far = [[2, 2], [52, 2]] if y > 20 else [[2, 37], [52, 37]]
    text = strokes("a.png", ("disc", [[x - 4, y], [x + 4, y]]), ("background", far))
    (tmp_path / "photos" / "a.json").write_text(text)
    return truth


def predict(*words):
    return cli.main(["predict", *words, *MODEL])


def test_a_stroke_of_each_class_is_enough_and_predictions_come_in_again(room, tmp_path, capsys):
    words = ["--labels-in", "photos/a.json", "--query", "photos", "--out", "out", "--no-overlay"]
    assert predict(*words, "--labels-out", "out.json", "--labels-to", "coco") == 0
    printed = capsys.readouterr().out
    assert "out.json, as coco" in printed
    assert files(tmp_path / "out")[:2] == ["masks/a.png", "masks/s/b.png"]
    predicted = part("coco").open("out.json", images="photos")
    assert predicted.classes.names == ("background", "disc")
    for annotation in predicted:
        assert iou(annotation.labels == 1, room[annotation.image.removesuffix(".png")] == 1) > 0.9
    assert predict("--labels-in", "out.json", "--images", "photos", "--query", "photos", "--out", "again",
                   "--labels-out", "again.xml", "--labels-to", "cvat(shape=polygon)") == 0  # fmt: skip
    for annotation, other in zip(predicted, part("cvat").open("again.xml"), strict=True):
        assert iou(annotation.labels == 1, other.labels == 1) > 0.9
    before = (tmp_path / "again.xml").read_bytes()
    assert predict("--labels-in", "out.json", "--images", "photos", "--query", "photos", "--out", "again",
                   "--labels-out", "again.gif", "--labels-to", "overlay-gif") == 0  # fmt: skip
    assert Image.open("again.gif").n_frames == 2
    assert (tmp_path / "again.xml").read_bytes() == before


def test_formats_and_their_options_are_passed_on(room, tmp_path):
    base = ["--labels-in", "photos", "--query", "photos", "--no-overlay"]
    assert predict(*base, "--labels-from", "labelme(stroke_width=1)", "--out", "thin") == 0
    assert predict(*base, "--labels-from", "labelme(stroke_width=9)", "--out", "thick") == 0
    thin, thick = (json.loads((tmp_path / name / "predictor.json").read_text()) for name in ("thin", "thick"))
    assert thin != thick


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--labels-in", "photos/a.json", "--support", "a.png:m.png"],
            "--support would have no effect with --labels-in",
        ),
        (["--labels-in", "photos/a.json", "--classes", "1=x"], "--classes would have no effect with --labels-in"),
        (["--labels-in", "gone.json"], "No labels at gone.json"),
        (["--labels-in", "photos/a.json", "--labels-from", "coco"], "'categories' must be a list|'images'"),
        (["--labels-in", "photos/a.json", "--images", "photos/s"], "No image at .*a.png"),
        (["--labels-in", "photos/a.json", "--labels-out", "x.json"], "--labels-out and --labels-to go together"),
        (["--labels-in", "photos/a.json", "--labels-out", "x", "--labels-to", "coco"], "x: this format is one .json"),
        (["--labels-in", "photos/a.json", "--labels-out", "x", "--labels-to", "auto"], "can be read but not written"),
        (["--labels-from", "coco", "--support", "a.png:m.png"], "--labels-from would have no effect without"),
    ],
)
def test_what_is_refused(room, words, message, capsys, tmp_path):
    import re

    before = files(tmp_path)
    assert predict(*words, "--query", "photos") == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])
    assert files(tmp_path) == before


def test_labels_without_any_are_refused(room, tmp_path, capsys):
    (tmp_path / "photos" / "a.json").write_text(strokes("a.png"))
    with pytest.warns(UserWarning, match="has no shapes"):
        assert predict("--labels-in", "photos/a.json", "--query", "photos") == 2
    assert "has 1 image(s), and none with labels" in capsys.readouterr().err


def test_masks_that_were_predicted_keep_names_and_colours_in_other_formats(room, tmp_path, capsys):
    """Ids 2 and 5, a palette of one's own, and the folder of masks converted afterwards."""
    y, x = (int(values.mean()) for values in np.nonzero(room["a"]))
    mask = np.full((40, 56), 255, np.uint8)
    mask[2 if y > 20 else 37], mask[y - 1 : y + 2, x - 4 : x + 5] = 2, 5
    image = Image.fromarray(mask)
    image.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    image.save("mask.png")
    words = ["--support", "photos/a.png:mask.png", "--query", "photos", "--out", "out", "--no-overlay"]
    assert predict(*words, "--classes", "2=far away", "5=disc") == 0
    names = (tmp_path / "out" / "masks" / "labelmap.txt").read_text().splitlines()[1:]
    assert [line.partition(":")[0] for line in names] == [
        "unused 0",
        "unused 1",
        "far away",
        "unused 3",
        "unused 4",
        "disc",
    ]
    masks = part("png").open("out/masks")
    for form, target in (
        ("coco", "o.json"),
        ("cvat", "o.xml"),
        ("labelme", "o"),
        ("yolo", "y"),
        ("label-studio", "s.json"),
    ):
        assert cli.main(["labels", "out/masks", "--images", "photos", "--out", target, "--format", form]) == 0
        back = part(form).open(target, images="photos")
        annotations = {annotation.image: annotation for annotation in back}
        assert {*annotations} == {"a.png", "s/b.png"}
        for annotation in masks:
            other = annotations[annotation.image]
            for name in ("far away", "disc"):
                one = annotation.labels == masks.classes.id(name)
                assert iou(one, other.labels == other.classes.id(name)) > (0.99 if form != "yolo" else 0.9), (
                    form,
                    name,
                )
        if form in ("coco", "cvat", "label-studio"):
            assert back.classes.colours[back.classes.id("disc")] == (5, 250, 7)
            assert back.classes.colours[back.classes.id("far away")] == (2, 253, 7)
    stamp = (tmp_path / "out" / "masks" / "labelmap.txt").stat().st_mtime_ns
    assert predict(*words, "--classes", "2=far away", "5=disc") == 0
    assert (tmp_path / "out" / "masks" / "labelmap.txt").stat().st_mtime_ns == stamp


def test_names_that_a_list_cannot_hold_are_said(room, tmp_path):
    words = ["--labels-in", "photos/a.json", "--query", "photos", "--no-overlay", "--save", "saved", "--out", "one"]
    assert predict(*words) == 0
    facts = json.loads((tmp_path / "saved" / "predictor.json").read_text())
    assert [item["name"] for item in facts["classes"]] == ["background", "disc"]
    mask = np.zeros((40, 56), np.uint8)
    mask[10:20, 10:20] = 1
    Image.fromarray(mask).save("mask.png")
    with pytest.warns(UserWarning, match="masks has no names of its classes: Class names are distinct; 'x' occurs"):
        assert predict("--support", "photos/a.png:mask.png", "--query", "photos", "--out", "two", "--no-overlay",
                       "--classes", "0=x", "1=x") == 0  # fmt: skip
    assert (tmp_path / "two" / "masks" / "a.png").exists()
    assert not (tmp_path / "two" / "masks" / "labelmap.txt").exists()
