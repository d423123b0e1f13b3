"""dense-ctx labels: lists, checks and converts; what it refuses is one line."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from label_maps import CLASSES, noise, part
from PIL import Image

from dense_ctx import cli, registry

FILES = Path(__file__).parent / "labels"


def printed(capsys, *words):
    assert cli.main(["labels", *map(str, words)]) == 0
    return capsys.readouterr().out


def fails(capsys, *words):
    assert cli.main(["labels", *map(str, words)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_it_lists_formats(capsys):
    lines = printed(capsys).splitlines()
    assert [line.split()[0] for line in lines[1:]] == registry().names("label-format")
    assert [line.split()[:3] for line in lines if line.startswith("auto")] == [["auto", "yes", "-"]]


def test_it_counts_what_a_file_holds(capsys):
    lines = printed(capsys, FILES / "coco" / "instances.json").splitlines()
    assert lines[0].endswith("instances.json: 2 images")
    assert lines[1].split() == ["0", "background", "3,829", "pixels", "in", "2", "images"]
    assert lines[-1].split()[:4] == ["255", "not", "annotated", "79"]
    assert sum(int(line.split("pixels")[0].split()[-1].replace(",", "")) for line in lines[1:]) == 2 * 48 * 64


def test_labels_go_round_through_every_format(tmp_path, capsys):
    source = part("coco").open(FILES / "coco" / "instances.json")
    (tmp_path / "photos" / "val").mkdir(parents=True)
    for image in source.images:
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "photos" / image)
    path, of = FILES / "coco" / "instances.json", "auto"
    ways = [
        ("a.xml", "cvat(shape=polygon)"),
        ("b", "labelme"),
        ("c", "png"),
        ("d.json", "label-studio"),
        ("e", "png-grey"),
    ]
    for name, form in ways:
        out = printed(
            capsys, path, "--from", of, "--out", tmp_path / name, "--format", form, "--images", tmp_path / "photos"
        )
        assert f"-> {tmp_path / name}: 2 images, 3 classes" in out
        path, of = tmp_path / name, "auto(unlabelled=background)" if name == "d.json" else "auto"
    back = part("png").open(path, images=tmp_path / "photos")
    assert back.images == source.images
    for annotation, other in zip(source, back, strict=True):
        assert np.array_equal(annotation.labels, other.labels)
    out = printed(capsys, path, "--classes", "car, dog, background", "--from", "png")
    assert [line.split()[1] for line in out.splitlines()[1:4]] == ["car", "dog", "background"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x"], "--out would have no effect without PATH"),
        (["FILE", "--out", "x"], "--out and --format are given together"),
        (["FILE", "--format", "png"], "--out and --format are given together"),
        (["FILE", "--out", "x", "--format", "auto"], "auto can be read but not written"),
        (["FILE", "--out", "x", "--format", "cvta"], "Unknown label-format 'cvta'. Closest: cvat"),
        (["FILE", "--out", "x", "--format", "png(shape=mask)"], "png.*does not take"),
        (["FILE", "--from", "labelme"], "is not a labelme file: it has no shapes"),
        (["FILE", "--classes", "a,b"], "There is no class 'dog'"),
        (["FILE", "--images", "gone"], "gone is not a folder; expected the folder of the images"),
        (["gone.json"], "No labels at gone.json"),
    ],
)
def test_what_is_refused(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [str(FILES / "coco" / "instances.json") if word == "FILE" else word for word in words]
    assert re.search(message, fails(capsys, *words))
    assert list(tmp_path.iterdir()) == []


def test_a_third_party_adds_a_format(tmp_path, monkeypatch, capsys):
    """Registered by anyone, it is listed, recognised and converted to, as ours are."""
    from dense_ctx_labels.annotation import Annotation, AnnotationSet
    from dense_ctx_labels.base import LabelFormat

    from dense_ctx.kinds import Entry, Owner

    class Npy(LabelFormat):
        title, suffix, scope = "an array", ".npy", "data set"

        @classmethod
        def recognises(cls, path):
            return path.suffix == ".npy"

        def load(self, source):
            labels = np.load(source.path, allow_pickle=False)
            return AnnotationSet(CLASSES, ["a.jpg"], lambda _: source.checked(labels, CLASSES, "a.jpg"))

        def save(self, path, classes, annotations):
            np.save(path, next(annotations).labels)

    module = types.ModuleType("npy_format")
    module.Npy = Npy
    monkeypatch.setitem(sys.modules, "npy_format", module)
    entry = Entry("label-format", "npy", "npy_format:Npy", Owner("npy", "npy", "1"))
    monkeypatch.setitem(registry()._entries, ("label-format", "npy"), entry)
    part("npy").write(tmp_path / "a.npy", [Annotation(noise(1), CLASSES, "a.jpg")])
    assert "npy" in printed(capsys)
    assert "1 images, 3 classes" in printed(capsys, tmp_path / "a.npy", "--out", tmp_path / "o", "--format", "png")
    assert np.array_equal(part("png").read(tmp_path / "o").labels, noise(1))
