"""J and F against the official evaluator's recorded numbers, and against definitions written out."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dense_ctx_metrics.davis import SequenceScorer, score_folders, summarize
from dense_ctx_metrics.vos import _boundary, _dilation, _pack, boundary_f, jaccard, object_scores, statistics
from PIL import Image
from scipy.ndimage import binary_dilation, maximum_filter

from dense_ctx.errors import InputError

ORACLES = Path(__file__).parent / "oracles"
SEQUENCES = ("car-shadow", "horsejump-high", "judo")
CHANGES = ("lag2", "dilate3", "shiftdrop")


@pytest.fixture(scope="module")
def edge():
    data = np.load(ORACLES / "davis_metrics_edge.npz")
    width = int(data["shape"][-1])
    masks = {k: np.unpackbits(data[k], axis=-1)[..., :width] == 1 for k in ("annotation", "prediction", "void")}
    return data, masks


def test_edge_cases_of_the_official_evaluator(edge):
    data, masks = edge
    truth, prediction, void = masks["annotation"], masks["prediction"], masks["void"]
    close = {"rtol": 0, "atol": 1e-9}
    np.testing.assert_allclose(jaccard(truth, prediction), data["J"], **close)
    np.testing.assert_allclose(boundary_f(truth, prediction), data["F"], **close)
    np.testing.assert_allclose(jaccard(truth, prediction, void), data["J_void"], **close)
    np.testing.assert_allclose(boundary_f(truth, prediction, void), data["F_void"], **close)
    np.testing.assert_allclose(boundary_f(truth, prediction, tolerance=2), data["F_bound2px"], **close)
    for i in range(len(truth)):  # one at a time as in a batch
        assert jaccard(truth[i], prediction[i]) == jaccard(truth, prediction)[i]
        assert boundary_f(truth[i], prediction[i], void[i]) == boundary_f(truth, prediction, void)[i]


def test_statistics_of_the_official_evaluator(edge):
    data, _ = edge
    for series, length, expected in zip(data["series"], data["series_len"], data["series_stats"], strict=True):
        np.testing.assert_allclose(statistics(series[:length]), expected, rtol=0, atol=1e-9)


def test_decay_of_long_sequences_does_not_wrap():
    """The official evaluator keeps the quarters' bounds in 8 bits; from 257 frames on it compares the wrong ones."""
    values = np.linspace(1, 0, 400)
    mean, recall, decay = statistics(values)
    assert decay == pytest.approx(values[:101].mean() - values[299:].mean(), abs=2e-3)
    assert (mean, recall) == (pytest.approx(0.5), 0.5)


def test_statistics_refuse_nothing_to_average():
    with pytest.raises(InputError, match=r"at least one frame, \[frames\]; got \[0\]"):
        statistics(np.empty(0))


@pytest.fixture(scope="module")
def clips():
    """The truth of the three recorded sequences; the predictions are deterministic changes of it (see the README)."""
    sequences = {}
    with zipfile.ZipFile(ORACLES / "davis_jf_open_gt.zip") as archive:
        for name in SEQUENCES:
            files = sorted(f for f in archive.namelist() if f.startswith(name + "/"))
            sequences[name] = [np.asarray(Image.open(archive.open(file))) for file in files]
    return sequences


def changed(frames, change):
    if change == "lag2":
        return [frames[max(t - 2, 0)] for t in range(len(frames))]
    predictions = []
    for t, frame in enumerate(frames):
        other = np.zeros_like(frame)
        if change == "dilate3":
            for index in range(1, frame.max() + 1):
                other[maximum_filter(frame == index, 7, mode="constant")] = index
        else:
            other[3:, 6:] = frame[:-3, :-6]
            other[(other == 1) & (t % 5 == 0)] = 0
            other[:] = 0 if t % 7 == 0 else other
        predictions.append(other)
    return predictions


@pytest.mark.parametrize("change", CHANGES)
def test_sequences_equal_the_official_evaluator(clips, change):
    """Every object and frame, and every average, of three 480p sequences."""
    frames = np.load(ORACLES / "davis_jf_open_perframe.npz")
    expected = json.loads((ORACLES / "davis_jf_open.json").read_text())[change]
    results = []
    for name in SEQUENCES:
        scorer = SequenceScorer(name, clips[name][0])
        for truth, prediction in zip(clips[name][1:], changed(clips[name], change)[1:], strict=True):
            scorer.add(truth, prediction)
        results.append(scorer.result())
        np.testing.assert_allclose(results[-1].j, frames[f"{change}__{name}__J"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(results[-1].f, frames[f"{change}__{name}__F"], rtol=0, atol=1e-9)
    scores = summarize(results)
    for key, value in expected["global"].items():
        assert scores[key] == pytest.approx(value, abs=1e-9), key
    for row in expected["per_object"]:
        ours = scores["objects"][row.pop("object")]
        for key, value in row.items():
            metric, part = key.split("_")
            assert ours[f"{metric}-{part.capitalize()}"] == pytest.approx(value, abs=1e-9), key


def write(root, name, frames):
    for index, frame in enumerate(frames):
        path = root / name / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.astype(np.uint8)).save(path)


@pytest.mark.slow
def test_folders_in_one_and_two_processes(clips, tmp_path):
    for name in ("car-shadow", "judo"):  # the first 8 frames: reading PNGs is what takes the time
        write(tmp_path / "truth", name, clips[name][:8])
        write(tmp_path / "lag", name, changed(clips[name][:8], "lag2"))
    one = score_folders(tmp_path / "truth", tmp_path / "lag")
    assert score_folders(tmp_path / "truth", tmp_path / "lag", processes=2) == one
    assert set(one["objects"]) == {"car-shadow_1", "judo_1", "judo_2"}
    recorded = np.load(ORACLES / "davis_jf_open_perframe.npz")["lag2__judo__F"][1, :6]
    assert one["objects"]["judo_2"]["F-Mean"] == pytest.approx(recorded.mean(), abs=1e-9)
    assert one["J-Mean"] == pytest.approx(np.mean([row["J-Mean"] for row in one["objects"].values()]))
    only = score_folders(tmp_path / "truth", tmp_path / "lag", ["judo"])
    assert set(only["objects"]) == {"judo_1", "judo_2"}


def disk(radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


@pytest.mark.parametrize("width", [1, 7, 63, 64, 65, 130, 200])
@pytest.mark.parametrize("radius", [0, 1, 2, 5, 8, 13])
def test_dilation_against_scipy(radius, width):
    masks = np.random.default_rng(radius * 1000 + width).random((2, 37, width)) < 0.02
    got = unpack(_dilation(_pack(masks), radius), width)
    for mask, ours in zip(masks, got, strict=True):
        np.testing.assert_array_equal(ours, binary_dilation(mask, disk(radius)))


@pytest.mark.parametrize(("radius", "width"), [(64, 300), (70, 129), (130, 131), (200, 90)])
def test_dilation_wider_than_a_word(radius, width):
    mask = np.zeros((1, 61, width), bool)
    mask[0, 20, width // 3] = mask[0, 60, width - 1] = True
    got = unpack(_dilation(_pack(mask), radius), width)[0]
    y, x = np.mgrid[:61, :width]
    near = lambda py, px: (y - py) ** 2 + (x - px) ** 2 <= radius**2  # noqa: E731
    np.testing.assert_array_equal(got, near(20, width // 3) | near(60, width - 1))


def unpack(words, width):
    return np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[..., :width] == 1


@pytest.mark.parametrize("width", [1, 2, 64, 65, 101])
def test_boundary_against_the_definition(width):
    mask = np.random.default_rng(width).random((23, width)) < 0.5
    right, below, both = (np.roll(mask, shift, axis) for shift, axis in ((-1, 1), (-1, 0), ((-1, -1), (0, 1))))
    expected = (mask ^ right) | (mask ^ below) | (mask ^ both)
    expected[-1] = (mask ^ right)[-1]
    expected[:, -1] = (mask ^ below)[:, -1]
    expected[-1, -1] = False
    np.testing.assert_array_equal(unpack(_boundary(_pack(mask), width), width), expected)


def test_properties_of_j_and_f():
    rng = np.random.default_rng(0)
    a, b = (rng.random((3, 40, 67)) < p for p in (0.3, 0.5))
    np.testing.assert_allclose(jaccard(a, b), (a & b).sum((1, 2)) / (a | b).sum((1, 2)))
    np.testing.assert_array_equal(jaccard(a, b), jaccard(b, a))
    np.testing.assert_allclose(boundary_f(a, b), boundary_f(b, a))
    assert (boundary_f(a, a) == 1).all()
    assert (jaccard(a, ~a) == 0).all()
    scores = [boundary_f(a, b, tolerance=t) for t in (1, 2, 4)]
    assert (scores[0] <= scores[1]).all()
    assert (scores[1] <= scores[2]).all()


def test_objects_of_a_frame_are_scored_one_by_one_outside_void():
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 4, (50, 71)), rng.integers(0, 4, (50, 71))
    truth[10:14] = 255
    j, f = object_scores(truth, prediction, 3)
    for i in range(3):
        assert j[i] == jaccard(truth == i + 1, prediction == i + 1, truth == 255)
        assert f[i] == boundary_f(truth == i + 1, prediction == i + 1, truth == 255)


def test_shapes_are_checked():
    a = np.zeros((4, 5), bool)
    with pytest.raises(InputError, match=r"Truth \[4, 5\] and prediction \[5, 4\]"):
        jaccard(a, a.T)
    with pytest.raises(InputError, match=r"void is \[5, 4\]"):
        boundary_f(a, a, a.T)


def test_the_part_that_holds_masks_gives_the_whole_frame_s_numbers(monkeypatch):
    """Boxes at borders and at the edges of 64-pixel words, alone, together and void; labels of every integer type."""
    from dense_ctx_metrics import vos

    rng = np.random.default_rng(0)
    frames = []
    for _ in range(60):
        height, width = (int(n) for n in rng.integers(2, 200, 2))
        pair = []
        for _ in range(2):
            ids = np.zeros((height, width), rng.choice([np.uint8, np.int16, np.int64]))
            for index in range(1, int(rng.integers(1, 4))):
                top, left = int(rng.integers(height)), int(rng.choice([0, 63, 64, 127, width - 1]))
                ids[top : top + int(rng.integers(1, 40)), left : left + int(rng.choice([1, 64, 65, 30]))] = index
            pair.append(ids)
        frames.append(pair)
    cropped = [object_scores(*pair, 3) for pair in frames]
    monkeypatch.setattr(vos, "_crop", lambda truth, prediction, width: (truth, prediction, width))
    for pair, scores in zip(frames, cropped, strict=True):
        np.testing.assert_array_equal(scores, object_scores(*(ids.astype(np.int64) for ids in pair), 3))
