"""J, F and the DAVIS averages where their rules tell: single pixels, halves, borders, borrowed types, few frames."""

import warnings

import numpy as np
import pytest
from dense_ctx_metrics import vos
from dense_ctx_metrics.davis import SequenceScorer, SequenceScores, score_folders, summarize
from dense_ctx_metrics.vos import boundary_f, jaccard, object_scores, statistics
from PIL import Image

from dense_ctx.errors import FileError, InputError


def test_counts_by_octets_are_those_of_words(monkeypatch):
    words = np.random.default_rng(0).integers(0, 2**64, (3, 5, 2), np.uint64)
    by_words = vos._count(words)
    assert by_words.tolist() == [sum(int(word).bit_count() for word in part.flat) for part in words]
    monkeypatch.delattr(np, "bitwise_count", raising=False)  # as NumPy 1
    assert vos._count(words).tolist() == by_words.tolist()
    assert vos._count(np.full((200, 40, 30), 2**64 - 1, np.uint64)).tolist() == [64 * 1200] * 200


def test_nothing_is_divided_by_nothing():
    """Empty masks, single pixels: no warning of NumPy's, and the defined values."""
    none, one, other = (np.zeros((9, 80), bool) for _ in range(3))
    one[4, 70] = other[0, 0] = True
    with np.errstate(all="raise"):
        for a, b, expected in ((none, none, 1), (none, one, 0), (one, none, 0), (one, one, 1), (one, other, 0)):
            assert jaccard(a, b) == expected
            assert boundary_f(a, b) == expected
        assert [scores.tolist() for scores in object_scores(one + 0, one + 0, 2)] == [[1, 1], [1, 1]]


@pytest.mark.parametrize(("tolerance", "radius"), [(1, 1), (1.9, 1), (2, 2), (0.02, 3), (0.5, 59)])
def test_a_tolerance_from_one_on_is_of_pixels(tolerance, radius):
    """Of the image's diagonal below it; here 116 pixels."""
    truth = np.zeros((100, 60), bool)
    truth[20] = True
    for away, expected in ((radius, 1.0), (radius + 1, 0.5)):  # of each line's two edges both, or one, is near
        other = np.zeros_like(truth)
        other[20 + away] = True
        assert boundary_f(truth, other, tolerance=tolerance) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(2, 400), (3, 700), (1, 130), (400, 1)])
def test_frames_that_are_wider_than_high(shape):
    truth = np.zeros(shape, bool)
    truth[:, shape[1] // 2 :] = True
    truth[shape[0] // 2 :] = True
    assert boundary_f(truth, truth) == 1
    last = np.zeros(shape, np.uint8)
    last[-1, -1] = 1
    np.testing.assert_array_equal(object_scores(last, last, 1), [[1], [1]])
    np.testing.assert_array_equal(object_scores(last, np.roll(last, 1, int(shape[1] > 1)), 1)[0], [0])


@pytest.mark.parametrize("place", [(0, 0), (0, 63), (0, 64), (19, 129), (19, 0), (10, 64), (7, 128), (18, 127)])
def test_scores_of_small_objects_do_not_depend_on_where_the_frame_ends_otherwise(place):
    """Against frames in which nothing is cropped: a far pixel in another object keeps the whole frame."""
    ids, moved = np.zeros((20, 130), np.uint8), np.zeros((20, 130), np.uint8)
    y, x = place
    ids[y : y + 2, x : x + 3] = 1
    moved[max(0, y - 1) : y + 1, max(0, x - 2) : x + 1] = 1
    alone = object_scores(ids, moved, 1)
    for corner in ((0, 0), (0, 129), (19, 0), (19, 129)):
        if ids[corner] == moved[corner] == 0:
            ids[corner] = moved[corner] = 2
    both = object_scores(ids, moved, 2)
    for score, other in zip(alone, both, strict=True):
        assert score[0] == other[0]
        assert other[1] == 1


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, np.float32])
def test_ids_that_a_type_cannot_hold_are_in_no_frame(kind):
    truth = np.zeros((20, 70), kind)
    truth[2:9, 3:11], truth[12:18, 15:28] = 1, 2
    for count in (2, 254, 255, 256, 300):
        j, f = object_scores(truth, np.roll(truth, 1, 1), count)
        assert j[:2].tolist() == [7 / 9, 12 / 14]
        assert (j[2:] == 1).all()
        assert (f == 1).all()


def test_void_of_one_frame_for_several_masks():
    draw = np.random.default_rng(0)
    truth, other, void = draw.random((4, 30, 70)) < 0.4, draw.random((4, 30, 70)) < 0.4, draw.random((30, 70)) < 0.2
    for score in (jaccard, boundary_f):
        each = [score(a, b, void) for a, b in zip(truth, other, strict=True)]
        np.testing.assert_array_equal(score(truth, other, void), each)
        np.testing.assert_array_equal(score(truth, other, np.stack([void] * 4)), each)
        np.testing.assert_array_equal(score(truth & ~void, other & ~void), each)
        for wrong in (void[:29], void[:, :69], void[0]):
            with pytest.raises(InputError, match="void is"):
                score(truth, other, wrong)
        for a, b in ((truth[0, 0], other[0, 0]), (truth[0], other), (truth, other[:, :20])):
            with pytest.raises(InputError, match="expected equal"):
                score(a, b)
    with pytest.raises(InputError, match="expected equal"):
        object_scores(truth[0] + 0, other[0, :20] + 0, 1)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 9, 11, 100])
def test_quarters_share_their_ends_and_halves_are_rounded_up(count):
    values = np.random.default_rng(count).random(count)
    ends = [int(1 + part * (count - 1) / 4 + 0.5) - 1 for part in range(5)]
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    mean, recall, decay = statistics(values)
    assert mean == pytest.approx(values.mean(), abs=1e-12)
    assert recall == (values > 0.5).mean()
    assert decay == pytest.approx(first.mean() - last.mean(), abs=1e-12)
    assert statistics(values.astype(np.float32))[0] == pytest.approx(
        values.astype(np.float32).astype(float).mean(), abs=1e-12
    )


def test_statistics_at_their_limits():
    assert statistics([0.5, 0.5]) == (0.5, 0.0, 0.0)  # a half is not above a half
    assert statistics([0.5000001]) == (0.5000001, 1.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy's, of the mean of nothing
        mean, recall, decay = statistics([np.nan, np.nan])
    assert np.isnan(mean)
    assert np.isnan(decay)
    assert recall == 0
    assert statistics([np.nan, 0.75])[:2] == (0.75, 0.5)
    for wrong in (np.zeros((2, 2)), np.float64(0.5), []):
        with pytest.raises(InputError, match=r"\[frames\]"):
            statistics(wrong)


# ---------------------------------------------------------------------- sequences


def test_averages_are_over_objects_and_name_them():
    draw = np.random.default_rng(0)
    parts = [SequenceScores("a", draw.random((2, 9)), draw.random((2, 9))),
             SequenceScores("b", draw.random((1, 5)), draw.random((1, 5)))]  # fmt: skip
    scores = summarize(parts)
    rows = {
        f"{part.name}_{index + 1}": (part.j[index], part.f[index]) for part in parts for index in range(len(part.j))
    }
    assert list(scores["objects"]) == list(rows) == ["a_1", "a_2", "b_1"]
    for name, pair in rows.items():
        for letter, values in zip("JF", pair, strict=True):
            expected = dict(zip(("Mean", "Recall", "Decay"), statistics(values), strict=True))
            assert {key: scores["objects"][name][f"{letter}-{key}"] for key in expected} == expected
    for key in ("J-Mean", "F-Recall", "J-Decay"):
        assert scores[key] == pytest.approx(np.mean([row[key] for row in scores["objects"].values()]))
    assert scores["J&F-Mean"] == pytest.approx((scores["J-Mean"] + scores["F-Mean"]) / 2)
    with pytest.raises(InputError, match="No sequence"):
        summarize([])


def frame(*objects, shape=(12, 20)):
    ids = np.zeros(shape, np.uint8)
    for number, (top, left) in enumerate(objects, 1):
        ids[top : top + 3, left : left + 4] = number
    return ids


def test_a_sequence_leaves_its_ends_out_and_counts_from_the_first_mask():
    first = frame((1, 1), (6, 9))
    first[0] = 255  # void counts as no object
    scorer = SequenceScorer("clip", first)
    assert scorer.objects == 2
    for prediction in (frame((1, 2), (6, 9)), frame((1, 1), (6, 9)), frame((9, 1))):
        scorer.add(frame((1, 1), (6, 9)), prediction)
    result = scorer.result()
    assert result.j.shape == result.f.shape == (2, 2)  # of frames 2 and 3 of 4
    np.testing.assert_allclose(result.j, [[9 / 15, 1], [1, 1]])
    with pytest.raises(InputError, match=r"clip, frame 4: the prediction holds id 3; .* has objects 1 to 2"):
        scorer.add(first, frame((1, 1), (1, 6), (6, 9)))
    for truth, prediction in ((frame(shape=(12, 21)), first), (first, frame(shape=(12, 21)))):
        with pytest.raises(InputError, match=r"clip, frame 4: truth \[12, 2.\], prediction \[12, 2.\]"):
            scorer.add(truth, prediction)
    with pytest.raises(InputError, match=r"holds id 255(?!.*DAVIS-2016)"):  # two objects: no masks of 2016
        scorer.add(first, np.full((12, 20), 255, np.uint8))
    one = SequenceScorer("one", frame((1, 1)))
    with pytest.raises(InputError, match=r"holds id 2(?!.*DAVIS-2016)"):
        one.add(frame((1, 1)), frame((1, 1), (6, 9)))
    with pytest.raises(InputError, match="holds no object"):
        SequenceScorer("void", np.full((4, 5), 255, np.uint8))
    one.add(frame((1, 1)), frame((1, 1)))
    with pytest.raises(InputError, match=r"one has 2 frame\(s\)"):
        one.result()
    one.add(frame((1, 1)), frame((1, 1)))
    assert one.result().j.tolist() == [[1.0]]


def test_any_value_is_the_object_where_there_is_one():
    scorer = SequenceScorer("binary", frame((1, 1), (6, 9)), binary=True)
    assert scorer.objects == 1
    for _ in range(2):
        scorer.add(255 * frame((1, 1)), frame((1, 1), (6, 9)))
    assert scorer.result().j.tolist() == [[0.5]]


def write(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(frame((1, 1))).save(folder / f"{name:05d}.png")


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "00003"), (3, "00003, 00004, 00005"), (5, "00003, 00004, 00005 and 2 more")],
)
def test_frames_that_are_missing_or_too_many_are_named(tmp_path, count, words):
    write(tmp_path / "long/cat", range(3 + count))
    write(tmp_path / "short/cat", range(3))
    with pytest.raises(FileError, match=rf"lacks {words} of the {3 + count} frames"):
        score_folders(tmp_path / "long", tmp_path / "short")
    with pytest.raises(InputError, match=rf"long/cat holds {words}, which are not in .*short/cat"):
        score_folders(tmp_path / "short", tmp_path / "long")
    (tmp_path / "long/cat/note.txt").touch()
    (tmp_path / "long/read.me").touch()
    write(tmp_path / "same/cat", range(3 + count))
    assert score_folders(tmp_path / "long", tmp_path / "same")["J&F-Mean"] == 1
    with pytest.raises(InputError, match="processes=0 is not at least 1"):
        score_folders(tmp_path / "long", tmp_path / "same", processes=0)
    with pytest.raises(FileError, match=r"No folder of truth at .*nowhere"):
        score_folders(tmp_path / "nowhere", tmp_path / "same")
    with pytest.raises(FileError, match="holds no sequence folders"):
        score_folders(tmp_path / "long", tmp_path / "same", [])
