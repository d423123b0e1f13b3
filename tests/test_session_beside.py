"""A session of another model beside one, and how many changes there were."""

import numpy as np
import pytest
from dense_ctx_session import Session
from explore_site import HEIGHT, WIDTH, box, line, model, photos

from dense_ctx.errors import InputError
from dense_ctx.testing import tiny_model


@pytest.fixture
def session(tmp_path):
    with Session(model(), photos(tmp_path / "photos"), classes=["background", "object"]) as session:
        yield session


def paint(session):
    session.stroke(0, 1, line(26, 24, 38, 24), 2)
    session.stroke(0, 0, line(4, 4, 60, 4), 2)


def test_changes_of_either_are_changes_of_both(session):
    session.stroke(0, 1, line(26, 24, 38, 24), 2)
    other = session.beside(tiny_model())
    same = session.beside(model())
    session.stroke(0, 0, line(4, 4, 60, 4), 2)
    np.testing.assert_array_equal(same.labels(1), session.labels(1))
    assert (other.probabilities(1) != session.probabilities(1)).any(), "its own features"
    np.testing.assert_array_equal(other.annotation(0), session.annotation(0))
    leaf = other.add_class("leaf").id
    assert session.classes == other.classes
    other.stroke(2, leaf, [(3, 3)], 2)
    assert len(session.strokes(2)) == 1
    assert session.probabilities(1).shape == other.probabilities(1).shape == (3, HEIGHT, WIDTH)
    session.undo()
    assert other.strokes(2) == []
    session.mark(1, "accepted")
    assert other.status(1) == "accepted"


def test_the_one_beside_answers_after_an_undo(session):
    other = session.beside(model())
    paint(session)
    assert ((other.labels(1) == 1) == box(3)).mean() > 0.97
    session.undo()
    assert (other.labels(1) == 255).all()


def test_the_one_beside_has_no_folder_and_closes_with_the_other(session, tmp_path):
    other = session.beside(model())
    with pytest.raises(InputError, match="saved with it"):
        other.save(tmp_path / "other")
    with pytest.raises(InputError, match="ask that one"):
        other.beside(model())
    session.close()
    with pytest.raises(InputError, match="closed"):
        other.stroke(0, 1, [(3, 3)], 2)


def test_a_cache_is_read_by_the_one_beside(session, tmp_path):
    session.beside(model(), cache_dir=tmp_path / "cache").labels(0)
    again = session.beside(model(), cache_dir=tmp_path / "cache")
    again.labels(0)
    assert again._store.computed == 0
    assert session.beside(model(), max_memory="64MB")._store.budget < again._store.budget


def test_the_revision_counts_on_after_a_restart(session, tmp_path):
    assert session.revision == 2  # the classes
    session.save(tmp_path / "kept")
    paint(session)
    session.undo()
    session.mark(2, "rejected")
    assert session.revision == 6
    paths = session.paths
    assert [path.name for path in paths] == ["photo0.png", "photo1.png", "photo2.png"]
    session.close()
    with Session.open(tmp_path / "kept", model()) as again:
        assert (again.revision, again.paths) == (6, paths)
        again.save(tmp_path / "kept")
    with Session.open(tmp_path / "kept", model()) as again:
        assert again.revision == 6, "of a snapshot too"
