"""A session: what is drawn, what is learnt from it, and that taking it back leaves nothing behind."""

import threading

import numpy as np
import pytest
import torch
from dense_ctx_session import Item, Session
from dense_ctx_session.enlarging import best_classes, enlarged

from dense_ctx import registry
from dense_ctx.errors import InputError, NotFittedError
from dense_ctx.testing import tiny_model

SIZE = (48, 80)


def picture(seed=0):
    """A red box on blue noise; its place depends on the seed."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 80, (*SIZE, 3), dtype=np.uint8)
    image[:, :, 2] += 120
    left = 20 + 6 * seed
    image[12:36, left : left + 24] = (220, 30, 20)
    return image


def truth(seed=0):
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[12:36, 20 + 6 * seed : 44 + 6 * seed] = 1
    return mask


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def session(model):
    with Session(model, [picture(i) for i in range(3)], classes=["background", "box"]) as opened:
        yield opened


def draw(session, item=0):
    left = 20 + 6 * item
    session.stroke(item, 0, [(4, 4), (70, 5)], 3)
    session.stroke(item, 1, [(left + 6, 18), (left + 18, 30)], 3)


def test_items_and_classes(session):
    assert session.items[1] == Item("image-00001.png", 80, 48)
    assert not session.is_clip
    assert [(c.id, c.name) for c in session.classes] == [(0, "background"), (1, "box")]
    new = session.add_class("cup", (1, 2, 3))
    assert (new.id, new.colour) == (2, (1, 2, 3))
    assert session.rename_class(2, "mug").colour == (1, 2, 3)
    assert session.rename_class(2, "mug", (3, 2, 1)).colour == (3, 2, 1)
    session.remove_class(0)
    assert [c.name for c in session.classes] == ["box", "mug"]


def test_strokes_teach_and_stay_where_they_are_drawn(session):
    assert (session.labels(0) == 255).all()
    session.stroke(0, 0, [(4, 4), (70, 5)], 3)
    labels = session.labels(0)
    assert set(np.unique(labels)) == {0, 255}
    with pytest.raises(NotFittedError, match="1 class is annotated"):
        session.probabilities(0)
    session.stroke(0, 1, [(26, 18), (38, 30)], 3)
    labels = session.labels(0)
    assert (labels == truth()).mean() > 0.9
    assert (session.labels(2) == truth(2)).mean() > 0.9  # an image without annotation
    annotation = session.annotation(0)
    assert (labels[annotation != 255] == annotation[annotation != 255]).all()
    assert annotation[4, 4] == 0
    assert annotation[18, 26] == 1
    assert annotation[47, 79] == 255


def test_answers_have_the_size_asked_for(session):
    draw(session)
    assert session.labels(0).shape == SIZE
    assert session.labels(0, (30, 50)).shape == (30, 50)
    shares = session.probabilities(1, (30, 50))
    assert (shares.shape, shares.dtype) == ((2, 30, 50), np.float32)
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
    assert (shares.argmax(0) == session.labels(1, (30, 50))).mean() > 0.999  # but for ties
    uncertain = session.uncertainty(0, (30, 50))
    assert uncertain.shape == (30, 50)
    assert 0 <= uncertain.min() <= uncertain.max() <= 1
    assert (session.uncertainty(0)[session.annotation(0) != 255] == 0).all()
    top = np.sort(session.probabilities(1), 0)
    for bad in ((0, 5), (5,), (1 << 20, 5), "abc"):
        with pytest.raises(InputError):
            session.labels(0, bad)
    np.testing.assert_allclose(session.uncertainty(1), 1 - (top[1] - top[0]), atol=1e-6)
    assert session.pca(1, (30, 50)).shape == (30, 50, 3)
    assert session.pca(1).std() > 20
    assert session.picture(1).tolist() == picture(1).tolist()


@pytest.mark.parametrize("size", [(48, 80), (47, 83), (12, 20), (13, 20), (9, 30), (6, 7), (480, 854)])
@pytest.mark.parametrize("smooth", [True, False])
def test_the_best_class_is_that_of_all_probabilities(size, smooth):
    shares = torch.rand(7, 12, 20, generator=torch.Generator().manual_seed(0))
    if smooth:
        coarse = torch.nn.functional.interpolate(shares[None, :, :3, :3], size=(12, 20), mode="bilinear")[0]
        shares = coarse + 0.01 * shares
    shares = shares / shares.sum(0)
    wide = enlarged(shares, size)
    torch.testing.assert_close(wide.sum(0), torch.ones(size), rtol=0, atol=1e-5)
    best = best_classes(shares, size)
    assert best.dtype == torch.uint8
    margin = wide.topk(2, dim=0).values
    clear = margin[0] - margin[1] > 1e-5
    assert clear.float().mean() > 0.99
    assert (best == wide.argmax(0))[clear].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_probabilities_in_two_bytes_are_made_smaller_and_larger(dtype):
    """The CPU has no kernel in bfloat16 for the filter that makes them smaller."""
    shares = torch.rand(3, 12, 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    for size in ((6, 7), (9, 30), (48, 80)):
        wide = enlarged(shares, size)
        assert wide.dtype == dtype
        torch.testing.assert_close(wide.float(), enlarged(shares.float(), size), rtol=0, atol=4e-3)
        assert torch.equal(best_classes(shares, size), wide.max(0).indices.to(torch.uint8))


def test_similarity_is_the_cosine_to_a_pixel(session):
    own = session.similarity(0, 30, 24)
    assert own.shape == SIZE
    assert own[24, 30] == pytest.approx(1, abs=0.02)
    assert own[truth() == 1].mean() > own[truth() == 0].mean() + 0.1
    other = session.similarity(0, 30, 24, other=2, size=(24, 40))
    assert other.shape == (24, 40)
    assert other[12, 22] > other[2, 2] + 0.1
    with pytest.raises(InputError, match="outside of the image"):
        session.similarity(0, 80, 24)


@pytest.mark.parametrize("method", ["ridge", "ridge(penalty=0.1)", "ridge(bias=none)", "knn"])
def test_what_is_taken_back_leaves_nothing_behind(model, method):
    images = [picture(i) for i in range(3)]
    with Session(model, images, method=method, classes=["background", "box", "other"]) as session:
        draw(session, 0)
        session.labels(0)
        session.mask_label(1, np.where(truth(1) == 1, 2, 0))
        session.stroke(0, 2, [(60, 40), (70, 44)], 4)
        session.stroke(0, None, [(4, 4), (20, 5)], 4)
        session.labels(0)
        session.undo()  # the eraser
        session.labels(0)
        session.remove_class(2)  # a stroke, and a part of the mask
        session.clear(1)
        mine = session.probabilities(2)
    with Session(model, images, method=method, classes=["background", "box"]) as fresh:
        draw(fresh, 0)
        np.testing.assert_allclose(mine, fresh.probabilities(2), atol=1e-5)
    plain = Session(model, images, method="knn" if method != "knn" else "ridge", classes=["background", "box"])
    draw(plain, 0)
    assert np.abs(mine - plain.probabilities(2)).max() > 1e-3  # the method makes a difference


def test_the_fit_is_that_of_all_annotated_pixels_at_once(session, model):
    draw(session, 0)
    draw(session, 1)
    rows, targets = [], []
    for item in (0, 1):
        features = model(picture(item), size=(12, 20)).pixels[0].half().float()
        large = features.repeat_interleave(4, 1).repeat_interleave(4, 2)
        annotation = session.annotation(item)
        rows.append(large[:, annotation != 255].T)
        targets.append(torch.from_numpy(annotation[annotation != 255]).long())
    probe = registry().create("probe", "ridge")
    x, y = torch.cat(rows).double(), torch.nn.functional.one_hot(torch.cat(targets)).double()
    x = torch.nn.functional.pad(x, (0, 1), value=1.0)
    probe.load_state_dict({"gram": x.T @ x, "cross": x.T @ y})
    with torch.no_grad():
        reference = enlarged(probe.predict(_dense(model(picture(2), size=(12, 20))))[0], SIZE)
    np.testing.assert_allclose(session.probabilities(2), reference.numpy(), atol=1e-5)


def _dense(features):
    return type(features)(features.pixels.half().float(), features.patches, None, features.extent)


def test_undo_and_redo_walk_through_all_that_was_done(session):
    draw(session)
    maps = [session.annotation(0)]
    session.stroke(0, None, [(30, 20)], 8)
    maps.append(session.annotation(0))
    session.mask_label(0, np.where(truth() == 1, 1, 255))
    maps.append(session.annotation(0))
    session.clear(0)
    assert (session.annotation(0) == 255).all()
    for wanted in reversed(maps):
        assert session.undo() == (0,)
        assert (session.annotation(0) == wanted).all()
    session.undo()
    session.undo()
    assert session.undo() == ()  # the classes given at the beginning stay
    assert len(session.classes) == 2
    for _ in range(4):
        assert session.redo() == (0,)
    assert (session.annotation(0) == maps[2]).all()
    session.undo()
    session.stroke(0, 1, [(60, 40)], 2)
    assert session.redo() == ()  # what was undone is gone


def test_strokes_can_be_drawn_again(session):
    one = session.stroke(0, 1, [(30.5, 20.25)], 2.5)
    two = session.stroke(0, None, [(1, 1), (2, 2)], 1)
    assert [(s.id, s.class_id, s.radius) for s in session.strokes(0)] == [(one, 1, 2.5), (two, None, 1.0)]
    assert session.strokes(0)[0].points.tolist() == [[30.5, 20.25]]
    assert session.strokes(1) == []


def test_a_stroke_is_cut_at_the_border_and_refused_beyond(session):
    session.stroke(0, 1, [(-10, 20), (5, 20)], 2)
    annotation = session.annotation(0)
    assert annotation[20, 0] == 1
    assert not (annotation[:15] != 255).any()
    before = session.annotation(1)
    for points, radius, words in (
        ([(-10, 20), (-5, 20)], 2, "outside of the image"),
        ([(1e9, 20)], 2, "far outside of the image"),
        ([(np.nan, 20)], 2, "NaN"),
        ([], 2, "points"),
        ([(1, 2, 3)], 2, "points"),
        ("abc", 2, "points"),
        ([(1, 2)], 0, "radius"),
        ([(1, 2)], np.inf, "infinite"),
        ([(1, 2)], 1e6, "radius"),
        (np.zeros((30_000, 2)), 2, "20,000"),
    ):
        with pytest.raises(InputError, match=words):
            session.stroke(1, 1, points, radius)
    assert (session.annotation(1) == before).all()
    with pytest.raises(InputError, match="No class has the id 7; there are 0, 1"):
        session.stroke(1, 7, [(1, 2)], 2)
    with pytest.raises(InputError, match="No item 3; there are 3"):
        session.stroke(3, 1, [(1, 2)], 2)


def test_the_radius_is_that_of_the_brush(session):
    for item, radius in ((0, 2), (1, 6.5)):
        session.stroke(item, 1, [(40, 24)], radius)
        y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
        disc = np.hypot(x - 40, y - 24) <= radius
        assert ((session.annotation(item) == 1) == disc).all()


def test_masks_are_checked(session):
    for mask, words in (
        (np.zeros((48, 79), int), "resize it"),
        (np.full(SIZE, 9), "holds 9; the classes are 0, 1"),
        (np.full(SIZE, 255), "not annotated"),
        (np.zeros(SIZE), "whole numbers"),
    ):
        with pytest.raises(InputError, match=words):
            session.mask_label(0, mask)
    session.mask_label(0, truth())
    assert (session.labels(0) == truth()).all()


def test_there_is_room_for_254_classes(model):
    with Session(model, picture(), classes=[f"class {i}" for i in range(254)]) as session:
        with pytest.raises(InputError, match="at most 254 classes"):
            session.add_class("one more")
        session.stroke(0, 253, [(30, 20)], 4)
        session.stroke(0, 3, [(3, 3)], 3)
        assert session.probabilities(0).shape == (254, *SIZE)
        assert session.labels(0)[20, 30] == 253
    with pytest.raises(InputError, match="at most 254 classes"):
        Session(model, picture(), classes=[str(i) for i in range(300)])
    for name, words in (("class", "already"), ("", "printable"), (3, "printable"), ("a" * 201, "200 letters")):
        session = Session(model, picture(), classes=["class"])
        with pytest.raises(InputError, match=words):
            session.add_class(name)
    with pytest.raises(InputError, match="colour"):
        session.add_class("x", (1, 2, 300))


def test_the_next_item_is_the_most_uncertain_one(session):
    assert session.next_item() == 0
    session.mark(0, "rejected")
    assert session.next_item() == 1
    session.mark(0, None)
    draw(session, 0)
    assert session.next_item() == 1  # no features of the others yet
    means = {item: session.uncertainty(item).mean() for item in (1, 2)}
    assert session.next_item() == max(means, key=means.get)
    session.mark(session.next_item(), "accepted")
    assert session.next_item() == min(means, key=means.get)
    session.mark(session.next_item(), "accepted")
    assert session.status(1) == session.status(2) == "accepted"
    with pytest.raises(InputError, match="Every item"):
        session.next_item()
    with pytest.raises(InputError, match="mark"):
        session.mark(0, "good")


def test_threads_draw_and_ask_at_once(model):
    with Session(model, [picture(i) for i in range(3)], classes=["background", "box"]) as session:
        errors = []

        def work(item):
            try:
                for _ in range(8):
                    draw(session, item)
                    session.labels(item)
                    session.probabilities(item)
                    session.prefetch((item + 1) % 3)
                    session.uncertainty((item + 1) % 3, (12, 20))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(item,)) for item in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not errors
        assert sum(len(session.strokes(item)) for item in range(3)) == 48
        mine = session.probabilities(0)
    with Session(model, [picture(i) for i in range(3)], classes=["background", "box"]) as fresh:
        for item in range(3):
            draw(fresh, item)
        np.testing.assert_allclose(mine, fresh.probabilities(0), atol=1e-5)


def test_a_closed_session_takes_no_changes(session):
    draw(session)
    session.close()
    session.close()
    assert session.labels(0).shape == SIZE
    with pytest.raises(InputError, match="closed"):
        draw(session)


def test_a_large_image_is_encoded_at_a_megapixel(model, monkeypatch):
    large = picture().repeat(40, 0).repeat(40, 1)  # 1920 x 3200
    sizes = []
    encode = type(model).encode
    monkeypatch.setattr(type(model), "encode", lambda self, images: sizes.append(images.shape) or encode(self, images))
    with Session(model, large, classes=["background", "box"]) as session:
        session.stroke(0, 0, [(160, 160), (2800, 200)], 100)
        session.stroke(0, 1, [(1040, 720), (1500, 1200)], 100)
        labels = session.labels(0)
        assert labels.shape == large.shape[:2]
        assert (labels[20::40, 20::40] == truth()).mean() > 0.9
    assert sizes[0][-2] * sizes[0][-1] <= 1 << 20
    assert len(sizes) == 1
