"""Clips in a session: frames by number, labels through the clip both ways, and corrections."""

import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from dense_ctx_session import Session
from dense_ctx_session.clip import Clip
from PIL import Image

from dense_ctx.data.video import Video, write_video
from dense_ctx.errors import FileError, InputError, NotFittedError
from dense_ctx.testing import tiny_model

MODEL = "rgb-xy+upsample"
SIZE = (96, 160)
FRAMES = 13


def frame(number):
    image = np.full((*SIZE, 3), (30, 60, 120), dtype=np.uint8)
    image += np.random.default_rng(number).integers(0, 20, image.shape, dtype=np.uint8)
    image[24:72, 16 + 4 * number : 64 + 4 * number] = (220, 30, 20)
    return image


def truth(number):
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[24:72, 16 + 4 * number : 64 + 4 * number] = 1
    return mask


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "box.mp4"
    return write_video(path, [frame(i) for i in range(FRAMES)])


@pytest.fixture
def session(file):
    with Session(MODEL, file, classes=["background", "box"]) as opened:
        yield opened


def score(session, number):
    labels = session.labels(number)
    one, other = labels == 1, truth(number) == 1
    return (one & other).sum() / (one | other).sum()


def test_frames_of_a_video_are_items(session):
    assert session.is_clip
    assert len(session.items) == FRAMES
    assert (session.items[3].name, session.items[3].width, session.items[3].height) == ("box/00003.png", 160, 96)
    for number in (7, 3, 4, 12, 0):
        assert np.abs(session.picture(number).astype(int) - frame(number)).mean() < 12


def variable(path, gop):
    """A file whose frames last one to five ticks, with B-frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"g": str(gop), "bf": "2", "crf": "10"}
        stream.codec_context.time_base = Fraction(1, 1000)
        time = 0
        for number in range(40):
            picture = np.full((*SIZE, 3), 6 * number, dtype=np.uint8)
            item = av.VideoFrame.from_ndarray(picture, format="rgb24")
            item.pts, item.time_base = time, Fraction(1, 1000)
            time += (7, 40, 93)[number % 3]
            container.mux(stream.encode(item))
        container.mux(stream.encode())


@pytest.mark.parametrize("gop", [1, 12, 250])
def test_any_frame_is_read_exactly(tmp_path, gop):
    variable(tmp_path / "variable.mkv", gop)
    clip = Clip(tmp_path / "variable.mkv")
    decoded = list(Video(tmp_path / "variable.mkv"))
    assert clip.count == len(decoded) == 40
    order = [0, 39, 1, 2, 3, 20, 19, 18, 38, 0, 5, *np.random.default_rng(0).integers(0, 40, 20).tolist()]
    for number in order:
        assert (clip.read(number) == decoded[number]).all(), number


def test_a_file_without_time_stamps_is_read_too(tmp_path):
    path = tmp_path / "raw.y4m"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("wrapped_avframe", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(5):
            picture = np.full((*SIZE, 3), 40 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode())
    clip = Clip(path)
    decoded = list(Video(path))
    clip.stamps = []  # as of a raw stream
    assert clip.count == 5
    for number in (0, 3, 4, 1, 2):
        assert (clip.read(number) == decoded[number]).all()


def test_a_damaged_video_is_refused(tmp_path, file):
    (tmp_path / "cut.mp4").write_bytes(file.read_bytes()[:400])
    with pytest.raises(FileError, match=r"cut\.mp4"):
        Session(MODEL, tmp_path / "cut.mp4")


def test_a_folder_of_frames_is_a_clip(tmp_path):
    for number in range(3):
        Image.fromarray(frame(number)).save(tmp_path / f"{number}.png")
    with Session(MODEL, tmp_path, frames=True) as session:
        assert session.is_clip
        assert session.items[1].name == "1.png"
    with Session(MODEL, tmp_path) as images:
        assert not images.is_clip
        with pytest.raises(InputError, match="propagate is of a clip"):
            images.propagate()
    Image.fromarray(frame(0)[:80]).save(tmp_path / "3.png")
    with pytest.raises(InputError, match="frames of one clip have one size"):
        Session(MODEL, tmp_path, frames=True)


def test_labels_go_both_ways_from_an_annotated_frame(session):
    with pytest.raises(NotFittedError, match="No class is annotated"):
        session.propagate()
    assert session.pending() == []
    session.mask_label(6, truth(6))
    assert session.pending() == [i for i in range(FRAMES) if i != 6]
    assert list(session.propagate()) == [*range(7, FRAMES), *range(5, -1, -1)]
    assert session.pending() == []
    assert list(session.propagate()) == []
    scores = [score(session, number) for number in range(FRAMES)]
    assert scores[6] == 1
    assert min(scores) > 0.7, scores
    assert session.probabilities(2).shape == (2, *SIZE)
    np.testing.assert_allclose(session.probabilities(2).sum(0), 1, atol=1e-3)


def test_a_range_is_propagated_alone_and_goes_on(session):
    session.mask_label(0, truth(0))
    assert list(session.propagate(start=2, stop=6)) == [2, 3, 4, 5]
    assert session.pending() == [1, *range(6, FRAMES)]
    steps = session.propagate()
    assert [next(steps), next(steps), next(steps)] == [1, 6, 7]
    steps.close()
    count = session._store.computed
    assert list(session.propagate()) == list(range(8, FRAMES))
    assert session._store.computed <= count + FRAMES - 8
    with pytest.raises(InputError, match="the clip has 13"):
        session.propagate(5, 14)
    whole = [session.probabilities(number) for number in range(FRAMES)]
    with Session(MODEL, session._source.paths[0], classes=["background", "box"]) as fresh:
        fresh.mask_label(0, truth(0))
        list(fresh.propagate())
        for number in range(FRAMES):
            np.testing.assert_allclose(whole[number], fresh.probabilities(number), atol=2e-3)


def test_a_correction_changes_the_frames_around_it_alone(session):
    session.mask_label(0, truth(0))
    list(session.propagate())
    before = [session.labels(number) for number in range(FRAMES)]
    session.stroke(8, 0, [(54, 40), (60, 60)], 4)  # the left of the box is called background
    corrected = session.labels(8)
    assert (corrected[40:60, 50:64] == 0).mean() > (before[8][40:60, 50:64] == 0).mean()
    assert (corrected[:, :10] == before[8][:, :10]).all()  # far from the stroke nothing changes
    assert session.pending() == [5, 6, 7, *range(9, FRAMES)]
    assert list(session.propagate()) == [*range(9, FRAMES), 7, 6, 5]
    after = [session.labels(number) for number in range(FRAMES)]
    for number in range(1, 5):
        assert (after[number] == before[number]).all(), number
    assert any((after[number] != before[number]).any() for number in range(9, FRAMES))
    session.undo()
    assert session.pending() == [5, 6, 7, *range(9, FRAMES)]  # what frame 8 was given before is still there
    assert list(session.propagate()) == [5, 6, 7, *range(9, FRAMES)]
    for number in range(FRAMES):
        assert (session.labels(number) == before[number]).all(), number


def test_a_class_that_goes_takes_its_propagated_labels_along(session):
    session.add_class("left")
    mask = truth(0)
    mask[:, :16] = 2
    session.mask_label(0, mask)
    list(session.propagate())
    assert (session.labels(5) == 2).any()
    session.remove_class(2)
    assert not (session.labels(5) == 2).any()
    new = session.add_class("right")
    assert new.id == 3  # 2 would be another class after an undo
    assert not (session.labels(5) == 3).any()
    assert session.probabilities(5)[2].max() == 0


def test_strokes_alone_are_enough_to_propagate(session):
    session.stroke(0, 0, [(8, 8), (140, 10)], 3)
    session.stroke(0, 1, [(28, 36), (52, 60)], 3)
    list(session.propagate())
    assert min(score(session, number) for number in range(FRAMES)) > 0.7


def test_a_propagated_frame_is_shown_without_its_features(file):
    with Session(MODEL, file, classes=["background", "box"], max_memory=1000) as session:
        session.mask_label(0, truth(0))
        list(session.propagate())
        session._store.close()  # what it computes in the background ends first
        count = session._store.computed
        for number in range(1, FRAMES):
            session.labels(number)
            session.uncertainty(number)
            session.probabilities(number)
        assert session._store.computed == count
        session.pca(2)
        assert session._store.computed > count


def test_a_stroke_while_labels_are_carried_ends_what_follows_from_its_frame(session):
    session.mask_label(0, truth(0))
    steps = session.propagate()
    assert [next(steps), next(steps)] == [1, 2]
    session.stroke(0, 1, [(8, 8)], 2)
    assert list(steps) == []
    assert session.pending() == list(range(1, FRAMES))
    assert (session.labels(2)[24:72, 24:72] == 1).mean() > 0.8  # the old labels are shown until then
    assert list(session.propagate()) == list(range(1, FRAMES))
    done, errors = [], []

    def carry():
        try:
            done.extend(session.propagate())
        except Exception as error:
            errors.append(error)

    session.undo()
    threads = [threading.Thread(target=carry) for _ in range(2)]
    [thread.start() for thread in threads]
    for number in range(5):
        session.stroke(FRAMES - 1, number % 2, [(100, 8 + 12 * number)], 2)
        session.labels(number)
    [thread.join() for thread in threads]
    assert not errors
    list(session.propagate())
    assert session.pending() == []


def test_propagated_labels_are_saved(file, tmp_path):
    with Session(tiny_model(), file, classes=["background", "box"]) as session:
        session.save(tmp_path / "work")
        session.mask_label(3, truth(3))
        list(session.propagate(stop=9))
        labels = [session.labels(number) for number in range(9)]
    with Session.open(tmp_path / "work", tiny_model()) as again:
        assert again.pending() == list(range(9, FRAMES))
        assert all((again.labels(number) == labels[number]).all() for number in range(9))
    damaged = tmp_path / "work" / "propagated.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-3] + b"abc")
    with pytest.warns(UserWarning, match="propagated labels are left out"):
        again = Session.open(tmp_path / "work", tiny_model())
    assert len(again.pending()) == FRAMES - 1
    again.close()
    file2 = tmp_path / "other.mp4"
    write_video(file2, [frame(i) for i in range(3)])
    with Session(tiny_model(), file2, classes=["background", "box"]) as session:
        session.mask_label(0, truth(0))
        session.save(tmp_path / "second")
        before = file2.read_bytes()
        write_video(file2, [frame(i + 1) for i in range(3)])
        with pytest.raises(FileError, match="has changed on disk"):
            list(session.propagate())
        file2.write_bytes(before)
        assert list(session.propagate()) == [1, 2]


def test_the_next_frame_is_the_most_uncertain_one(session):
    session.mask_label(0, truth(0))
    list(session.propagate())
    means = {number: session.uncertainty(number).mean() for number in range(1, FRAMES)}
    assert means[session.next_item()] > np.median(list(means.values()))


def test_a_clip_is_exported_frame_by_frame(session, tmp_path):
    session.mask_label(0, truth(0))
    session.export(tmp_path / "masks")
    files = sorted(path.relative_to(tmp_path / "masks").as_posix() for path in (tmp_path / "masks").rglob("*.png"))
    assert files == [f"box/{number:05d}.png" for number in range(FRAMES)]
    assert session.export(tmp_path / "film", "overlay-mp4").suffix == ".mp4"
