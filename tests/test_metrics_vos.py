"""J and F against the official evaluator's recorded numbers, and against definitions written out."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, maximum_filter

from dense_ctx.errors import FileError, InputError
from dense_ctx.metrics import SequenceScorer, boundary_f, jaccard, object_scores, score_folders, statistics, summarize
from dense_ctx.metrics.vos import _boundary, _dilated, _pack

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
    found = {}
    with zipfile.ZipFile(ORACLES / "davis_jf_open_gt.zip") as archive:
        for name in SEQUENCES:
            files = sorted(f for f in archive.namelist() if f.startswith(name + "/"))
            found[name] = [np.asarray(Image.open(archive.open(file))) for file in files]
    return found


def changed(frames, change):
    if change == "lag2":
        return [frames[max(t - 2, 0)] for t in range(len(frames))]
    made = []
    for t, frame in enumerate(frames):
        other = np.zeros_like(frame)
        if change == "dilate3":
            for index in range(1, frame.max() + 1):
                other[maximum_filter(frame == index, 7, mode="constant")] = index
        else:
            other[3:, 6:] = frame[:-3, :-6]
            other[(other == 1) & (t % 5 == 0)] = 0
            other[:] = 0 if t % 7 == 0 else other
        made.append(other)
    return made


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
    found = summarize(results)
    for key, value in expected["global"].items():
        assert found[key] == pytest.approx(value, abs=1e-9), key
    for row in expected["per_object"]:
        ours = found["objects"][row.pop("object")]
        for key, value in row.items():
            metric, part = key.split("_")
            assert ours[f"{metric}-{part.capitalize()}"] == pytest.approx(value, abs=1e-9), key


def write(root, name, frames):
    for index, frame in enumerate(frames):
        path = root / name / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.astype(np.uint8)).save(path)


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
    got = unpack(_dilated(_pack(masks), radius, width), width)
    for mask, ours in zip(masks, got, strict=True):
        np.testing.assert_array_equal(ours, binary_dilation(mask, disk(radius)))


@pytest.mark.parametrize(("radius", "width"), [(64, 300), (70, 129), (130, 131), (200, 90)])
def test_dilation_wider_than_a_word(radius, width):
    mask = np.zeros((1, 61, width), bool)
    mask[0, 20, width // 3] = mask[0, 60, width - 1] = True
    got = unpack(_dilated(_pack(mask), radius, width), width)[0]
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


# ---------------------------------------------------------------------- guards of folders and sequences


@pytest.fixture
def folders(tmp_path):
    """Truth and a prediction of one sequence: two objects in four frames of 20 x 30."""
    frames = [np.zeros((20, 30), np.uint8) for _ in range(4)]
    for index, frame in enumerate(frames):
        frame[3:9, 2 + index : 10 + index] = 1
        frame[12:18, 15:25] = 2
    write(tmp_path / "truth", "cat", frames)
    write(tmp_path / "ours", "cat", [frames[0], *frames[:-1]])
    return tmp_path / "truth", tmp_path / "ours", frames


def test_truth_as_prediction_is_refused(folders, tmp_path):
    truth, ours, _ = folders
    with pytest.raises(InputError, match="are one folder"):
        score_folders(truth, truth)
    (tmp_path / "link").symlink_to(truth, target_is_directory=True)
    with pytest.raises(InputError, match="are one folder"):
        score_folders(truth, tmp_path / "link")
    (tmp_path / "partly").mkdir()
    (tmp_path / "partly/cat").symlink_to(truth / "cat", target_is_directory=True)
    with pytest.raises(InputError, match="cat: the predictions are the truth itself"):
        score_folders(truth, tmp_path / "partly")
    assert score_folders(truth, ours)["J-Mean"] < 1


def test_frames_must_be_the_same(folders):
    truth, ours, frames = folders
    write(ours, "cat", [*frames, frames[0]])
    with pytest.raises(InputError, match=r"holds 00004, which .*truth/cat has not"):
        score_folders(truth, ours)
    (ours / "cat/00004.png").unlink()
    (ours / "cat/00002.png").unlink()
    with pytest.raises(FileError, match="lacks 00002 of the 4 frames"):
        score_folders(truth, ours)


def test_ids_and_sizes_must_fit(folders):
    truth, ours, frames = folders
    wrong = frames[2].copy()
    wrong[0, 0] = 3
    write(ours, "cat", [frames[0], frames[1], wrong, frames[3]])
    with pytest.raises(InputError, match="cat, frame 2: the prediction holds id 3; the first true mask has objects 1"):
        score_folders(truth, ours, processes=2)  # the error comes back from another process whole
    write(ours, "cat", [frames[0], frames[1][:10], *frames[2:]])
    with pytest.raises(InputError, match=r"cat, frame 1: .*prediction \[10, 30\].* Resize predictions by nearest"):
        score_folders(truth, ours)


def test_masks_that_are_no_ids(folders):
    truth, ours, frames = folders
    path = ours / "cat/00001.png"
    Image.fromarray(np.stack([frames[1]] * 3, -1)).save(path)
    with pytest.raises(InputError, match=r"00001.png is a RGB picture; expected object ids"):
        score_folders(truth, ours)
    Image.fromarray(frames[1].astype(np.uint16) * 1000).save(path)
    with pytest.raises(InputError, match="frame 1: the prediction holds id 2000"):
        score_folders(truth, ours)
    Image.fromarray(frames[1].astype(np.uint16)).save(path)  # 16 bits, but the right ids
    assert score_folders(truth, ours)["J-Mean"] > 0
    path.write_bytes(b"no picture")
    with pytest.raises(FileError, match=r"00001\.png"):
        score_folders(truth, ours)


def test_short_and_empty_sequences(folders):
    truth, ours, frames = folders
    for count in (1, 2):
        name = f"short{count}"
        write(truth, name, frames[:count])
        write(ours, name, frames[:count])
        with pytest.raises(InputError, match=rf"{name} has {count} frame\(s\); the first and the last are not scored"):
            score_folders(truth, ours, [name])
    write(truth, "empty", [np.zeros_like(frames[0])] * 3)
    write(ours, "empty", [np.zeros_like(frames[0])] * 3)
    with pytest.raises(InputError, match="empty: the first mask holds no object"):
        score_folders(truth, ours, ["empty"])
    (truth / "bare").mkdir()
    (ours / "bare").mkdir()
    with pytest.raises(FileError, match="bare holds no PNG masks"):
        score_folders(truth, ours, ["bare"])


def test_missing_folders(folders, tmp_path):
    truth, ours, _ = folders
    with pytest.raises(FileError, match=r"No folder of predictions at .*nowhere"):
        score_folders(truth, tmp_path / "nowhere")
    with pytest.raises(FileError, match=r"No folder of truth at .*dog"):
        score_folders(truth, ours, ["dog"])
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileError, match="holds no sequence folders"):
        score_folders(tmp_path / "bare", ours)


def test_an_object_that_vanishes_keeps_its_scores_defined():
    """Gone from truth and prediction: 1; predicted where it is gone: 0."""
    first, gone = np.zeros((12, 18), np.uint8), np.zeros((12, 18), np.uint8)
    first[2:6, 3:9], first[8:11, 3:9], gone[2:6, 3:9] = 1, 2, 1
    scorer = SequenceScorer("clip", first)
    for prediction in (gone, first, first):
        scorer.add(gone, prediction)
    result = scorer.result()
    np.testing.assert_array_equal(result.j, [[1, 1], [1, 0]])
    np.testing.assert_array_equal(result.f, [[1, 1], [1, 0]])
    found = summarize([result])
    assert found["J-Mean"] == 0.75
    assert (found["objects"]["clip_2"]["J-Mean"], found["objects"]["clip_2"]["J-Recall"]) == (0.5, 0.5)
    assert np.isfinite(list(found["objects"]["clip_2"].values())).all()


def test_binary_takes_any_value_and_says_so_when_it_is_needed(folders, tmp_path):
    _, _, frames = folders
    one = [(frame == 1).astype(np.uint8) for frame in frames]
    write(tmp_path / "t16", "cat", [255 * frame for frame in one])
    write(tmp_path / "p16", "cat", [7 * frame for frame in [one[0], *one[:-1]]])
    found = score_folders(tmp_path / "t16", tmp_path / "p16", binary=True)
    write(tmp_path / "t1", "cat", one)
    write(tmp_path / "p1", "cat", [one[0], *one[:-1]])
    assert found == score_folders(tmp_path / "t1", tmp_path / "p1")
    with pytest.raises(InputError, match="are these 0/255 masks of DAVIS-2016"):
        score_folders(tmp_path / "t1", tmp_path / "t16")


def test_grey_colour_pictures_of_davis_2016_are_read(folders, tmp_path):
    """A few official masks of 2016 are RGB pictures of grey values; `evaluate` takes them, so does `score`."""
    _, _, frames = folders
    one = [255 * (frame == 1).astype(np.uint8) for frame in frames]
    write(tmp_path / "t", "cat", one)
    write(tmp_path / "p", "cat", [one[0], *one[:-1]])
    expected = score_folders(tmp_path / "t", tmp_path / "p", binary=True)
    Image.fromarray(np.stack([one[1]] * 3, -1)).save(tmp_path / "t/cat/00001.png")
    assert score_folders(tmp_path / "t", tmp_path / "p", binary=True) == expected
