"""What a session annotates beside files: frames in memory, a source of one's own; and masks that replace others."""

import hashlib

import numpy as np
import pytest
from dense_ctx_session import Item, Session, Source
from test_session import SIZE, picture, truth

from dense_ctx.errors import InputError
from dense_ctx.images import load
from dense_ctx.testing import tiny_model

NONE = np.full(SIZE, 255, dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


class Drawn(Source):
    """Frames that are drawn when they are asked for."""

    is_clip = True

    def __init__(self, count):
        self.items = tuple(Item(f"drawn/{i:05d}.png", SIZE[1], SIZE[0]) for i in range(count))
        self.asked = []

    def pixels(self, index):
        self.asked.append(index)
        return load(picture(index))

    def digest(self, index):
        return hashlib.sha256(b"%d" % index).hexdigest()


def propagated(model, source, **options):
    with Session(model, source, classes=["background", "box"], **options) as session:
        assert session.is_clip
        session.mask_label(0, truth(0))
        assert list(session.propagate()) == [1, 2]
        return [session.labels(index) for index in range(3)], [item.name for item in session.items]


def test_frames_in_memory_are_a_clip(model, tmp_path):
    frames = [picture(i) for i in range(3)]
    labels, names = propagated(model, frames, frames=True)
    assert names == ["frame-00000.png", "frame-00001.png", "frame-00002.png"]
    assert (labels[2] == truth(2)).mean() > 0.9
    with Session(model, frames) as images:
        assert not images.is_clip
    with pytest.raises(InputError, match="frames of one clip have one size"):
        Session(model, [frames[0], frames[1][:-8]], frames=True)
    with Session(model, frames, frames=True, classes=["background", "box"]) as session:
        session.mask_label(0, truth(0))
        session.save(tmp_path / "saved")
    with Session.open(tmp_path / "saved", model) as again:
        assert again.is_clip
        assert [item.name for item in again.items] == names
        assert list(again.propagate()) == [1, 2]
        np.testing.assert_array_equal(again.labels(2), labels[2])


def test_a_source_of_ones_own_is_read_on_demand(model, tmp_path):
    source = Drawn(3)
    labels, names = propagated(model, source)
    assert names[0] == "drawn/00000.png"
    assert sorted(source.asked) == [0, 1, 2]
    for mine, other in zip(labels, propagated(model, [picture(i) for i in range(3)], frames=True)[0], strict=True):
        np.testing.assert_array_equal(mine, other)
    with Session(model, source) as session, pytest.raises(InputError, match="A Drawn cannot be opened again from a"):
        session.save(tmp_path / "saved")
    with pytest.raises(InputError, match="leave frames=True out"):
        Session(model, source, frames=True)


def test_a_mask_replaces_what_is_drawn_or_lies_over_it(model):
    first, second = NONE.copy(), NONE.copy()
    first[:8], second[16:32, 30:40] = 0, 1
    with Session(model, picture(), classes=["background", "box"]) as session:
        session.mask_label(0, first)
        session.stroke(0, 1, [(40, 20)], 2)
        session.mask_label(0, second)
        assert {*np.unique(session.annotation(0))} == {0, 1, 255}
        over = session.annotation(0)
        session.mask_label(0, np.where(second == 255, first, second), replace=True)
        np.testing.assert_array_equal(session.annotation(0), np.where(second == 255, first, second))
        labels = session.labels(0)
        assert session.undo() == (0,)
        np.testing.assert_array_equal(session.annotation(0), over)
    with Session(model, picture(), classes=["background", "box"]) as fresh:
        fresh.mask_label(0, np.where(second == 255, first, second))
        np.testing.assert_array_equal(labels, fresh.labels(0))


def test_a_replacement_is_in_the_journal(model, tmp_path):
    whole, part = truth(), NONE.copy()
    part[:4, :9], part[20:30, 30:40] = 0, 1
    with Session(model, picture(), classes=["background", "box"]) as session:
        session.save(tmp_path / "saved")
        session.mask_label(0, whole)
        session.mask_label(0, part, replace=True)
    with Session.open(tmp_path / "saved", model) as again:
        np.testing.assert_array_equal(again.annotation(0), part)


def test_a_class_may_have_an_id_of_its_own(model):
    with Session(model, picture(), classes=["background"]) as session:
        assert session.add_class("far", class_id=7).id == 7
        assert session.add_class("next").id == 1
        for wrong in (7, 254, -1, True, "2"):
            with pytest.raises(InputError, match="ids are whole numbers, distinct, and 0 to 253"):
                session.add_class("other", class_id=wrong)
