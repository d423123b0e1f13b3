"""Any sequence of edits gives what its drawings give afresh, in memory and from the disk after a kill."""

import shutil

import numpy as np
import pytest
from dense_ctx_predict import LabelClass
from dense_ctx_session import Session
from PIL import Image

from dense_ctx.errors import InputError
from dense_ctx.testing import tiny_model

SIZE = (40, 56)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def pictures(count=2):
    rng = np.random.default_rng(3)
    return [rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8) for _ in range(count)]


class Record:
    """What a session should hold, by the plainest means: classes, and of each item its drawings."""

    def __init__(self):
        self.state, self.past, self.future = ({0: "a", 1: "b"}, {}), [], []

    def change(self, classes, drawings):
        self.past.append(self.state)
        self.state, self.future = (classes, {i: d for i, d in drawings.items() if d}), []

    def step(self, source, target):
        if source:
            target.append(self.state)
            self.state = source.pop()

    def annotation(self, item):
        labels = np.full(SIZE, 255, np.uint8)
        for drawing in self.state[1].get(item, ()):
            labels = np.where(drawing == -1, labels, drawing).astype(np.uint8)
        return labels


def edit(session, record, rng, number):
    """One change of both at random."""
    classes, drawings = record.state
    item = int(rng.integers(2))
    kind = rng.choice(["stroke"] * 8 + ["mask", "undo", "undo", "redo", "erase", "clear", "add", "remove", "rename"])
    if kind in ("undo", "redo"):
        getattr(session, kind)()
        record.step(*((record.past, record.future) if kind == "undo" else (record.future, record.past)))
    elif kind in ("stroke", "erase"):
        points = rng.uniform(-3, 60, (int(rng.integers(1, 5)), 2))
        label = None if kind == "erase" or not classes else int(rng.choice(list(classes)))
        try:
            session.stroke(item, label, points, float(rng.uniform(1, 6)))
        except InputError:
            return
        with Session("rgb-xy+upsample", [np.zeros((*SIZE, 3), np.uint8)], classes=["one"]) as alone:
            alone.stroke(0, 0, points, session.strokes(item)[-1].radius)
            covered = alone.annotation(0) == 0
        value = 255 if label is None else label
        record.change(classes, {**drawings, item: (*drawings.get(item, ()), np.where(covered, value, -1))})
    elif kind == "mask" and classes:
        labels = rng.choice([*classes, 255], SIZE)
        session.mask_label(item, labels)
        record.change(classes, {**drawings, item: (*drawings.get(item, ()), np.where(labels == 255, -1, labels))})
    elif kind == "clear":
        session.clear(item)
        record.change(classes, {**drawings, item: ()})
    elif kind == "add":
        record.change({**classes, session.add_class(f"class {number}").id: f"class {number}"}, drawings)
    elif kind == "rename" and classes:
        label = int(rng.choice(list(classes)))
        session.rename_class(label, f"class {number}")
        record.change({**classes, label: f"class {number}"}, drawings)
    elif kind == "remove" and len(classes) > 1:
        label = int(rng.choice(list(classes)))
        session.remove_class(label)
        rest = {
            key: [np.where(d == label, -1, d) for d in value if (d != label).any() or (d != -1).all()]
            for key, value in drawings.items()
        }
        rest = {key: [d for d in value if (d != -1).any()] for key, value in rest.items()}
        record.change({i: name for i, name in classes.items() if i != label}, rest)


def check(session, record):
    assert {c.id: c.name for c in session.classes} == record.state[0]
    for item in range(2):
        assert (session.annotation(item) == record.annotation(item)).all()


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_edits_is_its_drawings_afresh(model, tmp_path, seed):
    rng, record, images = np.random.default_rng(seed), Record(), pictures()
    session = Session(model, images, classes=["a", "b"])
    for number in range(60):
        edit(session, record, rng, number)
        if rng.random() < 0.2:
            session.labels(int(rng.integers(2)))
        if rng.random() < 0.08:
            session.save(tmp_path / "session")
        if rng.random() < 0.08 and (tmp_path / "session").exists():  # as a kill leaves it
            shutil.copytree(tmp_path / "session", tmp_path / f"killed-{number}")
            with Session.open(tmp_path / f"killed-{number}", model) as again:
                check(again, record)
        check(session, record)
    classes = [LabelClass(i, name, (i, 0, 0)) for i, name in record.state[0].items()]
    with session, Session(model, images, classes=classes) as fresh:
        for item in range(2):
            if (record.annotation(item) != 255).any():
                fresh.mask_label(item, record.annotation(item))
        if len(np.unique([record.annotation(0), record.annotation(1)])) > 2:
            for item in range(2):
                np.testing.assert_allclose(session.probabilities(item), fresh.probabilities(item), atol=1e-5)


def draw(session):
    session.stroke(0, 0, [(4, 4), (50, 5)], 3)
    session.stroke(0, 1, [(26, 18), (38, 30)], 3)


def killed(folder):
    """What a kill leaves of a session's folder."""
    shutil.rmtree(folder.with_name("killed"), ignore_errors=True)
    return shutil.copytree(folder, folder.with_name("killed"))


def same(session, folder, model):
    with Session.open(folder, model) as again:
        assert again.classes == session.classes
        for item in range(len(session.items)):
            assert (again.annotation(item) == session.annotation(item)).all()


def test_undo_beyond_a_save_is_on_disk_too(model, tmp_path):
    with Session(model, pictures(), classes=["a", "b"]) as session:
        draw(session)
        session.undo()
        session.save(tmp_path / "session")
        for step in (session.undo, session.redo, session.redo, session.undo, session.undo):
            step()
            same(session, killed(tmp_path / "session"), model)
        session.stroke(1, 0, [(9, 9)], 2)
        same(session, killed(tmp_path / "session"), model)


def test_ids_of_numpy_are_saved(model, tmp_path):
    with Session(model, pictures(), classes=[LabelClass(np.int64(0), "a", (0, 0, 0)), "b"]) as session:
        session.save(tmp_path / "session")
        for label in np.array([0, 1]):
            session.stroke(0, label, [(5, 9 + 10 * label)], 2)
        session.stroke(0, 1.0, [(30, 9)], 2)
        session.rename_class(np.int64(1), "c")
        session.remove_class(np.int64(0))
        with Session.open(killed(tmp_path / "session"), model) as again:
            assert [c.name for c in again.classes] == ["c"]
            assert [s.class_id for s in again.strokes(0)] == [1, 1]


def frames(folder):
    folder.mkdir()
    for i in range(4):
        image = np.zeros((*SIZE, 3), np.uint8)
        image[:, 10 + 2 * i : 30 + 2 * i, 0] = 250
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def test_propagated_labels_of_a_class_never_stand_for_another(model, tmp_path):
    with Session(model, frames(tmp_path / "frames"), frames=True, classes=["a", "b"]) as session:
        draw(session)
        session.remove_class(1)
        other = session.add_class("other").id
        session.stroke(0, other, [(20, 18), (20, 30)], 3)
        list(session.propagate())
        assert other in session.labels(3)
        for _ in range(3):
            session.undo()
        assert [c.name for c in session.classes] == ["a", "b"]
        assert not session._predictions.carried(3)  # b's stroke has labels of its own


def test_propagated_labels_of_a_class_that_is_gone_do_not_come_back_with_its_id(model, tmp_path):
    source = frames(tmp_path / "frames")
    with Session(model, source, frames=True, classes=["a", "b"]) as session:
        draw(session)
        session.save(tmp_path / "session")
        cat = session.add_class("cat").id
        session.stroke(0, cat, [(48, 9), (48, 30)], 3)
        list(session.propagate())
        session.remove_class(cat)
    with Session.open(tmp_path / "session", model) as session:  # which knows of no class but those that are left
        session.save(tmp_path / "session")
    with Session.open(tmp_path / "session", model) as session:
        assert session.add_class("dog").id == cat
        with Session.open(killed(tmp_path / "session"), model) as again:
            assert all((again.labels(i) != cat).all() for i in range(4))


def test_a_file_given_twice_is_refused(tmp_path, model):
    for name in ("a.png", "b.png"):
        Image.fromarray(pictures()[0]).save(tmp_path / name)
    (tmp_path / "link.png").symlink_to("a.png")
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for more in ("a.png", "link.png"):
        with pytest.raises(InputError, match="twice"):
            Session(model, [*files, tmp_path / more])


def test_a_folder_inside_is_left_out(tmp_path, model):
    for name in ("a.png", "masks/a.png", "more/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pictures()[0]).save(tmp_path / name)
    with Session(model, tmp_path, skip=[tmp_path / "masks"]) as session:
        assert [item.name for item in session.items] == ["a.png", "more/b.png"]


def test_a_brush_as_wide_as_a_panorama_takes_the_memory_of_the_image(model):
    with Session(model, np.zeros((20, 20_000, 3), np.uint8), classes=["a", "b"]) as session:
        session.stroke(0, 0, [(0, 0), (20_000, 20)], 20_000)
        assert (session.annotation(0) == 0).all()
