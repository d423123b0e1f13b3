"""Guards of the DAVIS scores: folders and sequences that cannot be scored, each with its message."""

import numpy as np
import pytest
from dense_ctx_metrics.davis import SequenceScorer, score_folders, summarize
from PIL import Image

from dense_ctx.errors import FileError, InputError


def write(root, name, frames):
    for index, frame in enumerate(frames):
        path = root / name / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.astype(np.uint8)).save(path)


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
    with pytest.raises(InputError, match="are the same folder"):
        score_folders(truth, truth)
    (tmp_path / "link").symlink_to(truth, target_is_directory=True)
    with pytest.raises(InputError, match="are the same folder"):
        score_folders(truth, tmp_path / "link")
    (tmp_path / "partly").mkdir()
    (tmp_path / "partly/cat").symlink_to(truth / "cat", target_is_directory=True)
    with pytest.raises(InputError, match="cat: the predictions and the truth are the same folder"):
        score_folders(truth, tmp_path / "partly")
    assert score_folders(truth, ours)["J-Mean"] < 1


def test_frames_must_be_the_same(folders):
    truth, ours, frames = folders
    write(ours, "cat", [*frames, frames[0]])
    with pytest.raises(InputError, match=r"holds 00004, which are not in .*truth/cat"):
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
    scores = summarize([result])
    assert scores["J-Mean"] == 0.75
    assert (scores["objects"]["clip_2"]["J-Mean"], scores["objects"]["clip_2"]["J-Recall"]) == (0.5, 0.5)
    assert np.isfinite(list(scores["objects"]["clip_2"].values())).all()


def test_binary_takes_any_value_and_says_so_when_it_is_needed(folders, tmp_path):
    _, _, frames = folders
    one = [(frame == 1).astype(np.uint8) for frame in frames]
    write(tmp_path / "t16", "cat", [255 * frame for frame in one])
    write(tmp_path / "p16", "cat", [7 * frame for frame in [one[0], *one[:-1]]])
    scores = score_folders(tmp_path / "t16", tmp_path / "p16", binary=True)
    write(tmp_path / "t1", "cat", one)
    write(tmp_path / "p1", "cat", [one[0], *one[:-1]])
    assert scores == score_folders(tmp_path / "t1", tmp_path / "p1")
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
