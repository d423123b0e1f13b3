"""Clips: files, folders, rotation, damage."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from dense_ctx_demo.demo import clip_path
from PIL import Image

from dense_ctx.data.base import by_number
from dense_ctx.data.video import Video, write_video
from dense_ctx.errors import FileError, InputError


def frames(count, height=36, width=52):
    ys, xs = np.mgrid[:height, :width]
    return [
        np.stack([(xs * 4 + 9 * i) % 256, ys * 5, np.full_like(xs, 60 + i)], -1).astype(np.uint8) for i in range(count)
    ]


def test_written_video_reads_back(tmp_path):
    source = frames(7)
    path = write_video(tmp_path / "new folder" / "clip.mp4", source, fps=12.5)
    video = Video(path)
    assert (len(video), video.size, video.fps) == (7, (36, 52), 12.5)
    for _ in range(2):  # each iteration starts anew
        read = list(video)
        assert len(read) == 7
        assert all(
            np.abs(a[4:-4, 4:-12].astype(int) - b[4:-4, 4:-12]).mean() < 8 for a, b in zip(read, source, strict=True)
        )
    assert [p.name for p in path.parent.iterdir()] == ["clip.mp4"]


def test_odd_sides_are_padded_by_one(tmp_path):
    assert Video(write_video(tmp_path / "odd.mp4", frames(2, 35, 51))).size == (36, 52)


def test_folder_of_frames_is_a_video_in_order_of_names(tmp_path):
    for index in (2, 0, 1):
        Image.fromarray(np.full((5, 7, 3), index * 40, np.uint8)).save(tmp_path / f"{index:05d}.png")
    (tmp_path / "notes.txt").write_text("x")
    assert [int(frame[0, 0, 0]) for frame in Video(tmp_path)] == [0, 40, 80]
    assert len(Video(tmp_path)) == 3


def test_frames_without_leading_zeros_are_in_the_order_of_their_numbers(tmp_path):
    """frame10 came before frame2, and a clip was read in another order than it was filmed, without a word."""
    from dense_ctx_datasets.pairs import images_in
    from dense_ctx_metrics.davis import _frames
    from dense_ctx_session.source import open_source

    names = [f"{prefix}{number}.png" for prefix in ("frame", "frame_003_") for number in (1, 2, 9, 10, 100)]
    for name in names:
        Image.fromarray(np.full((8, 8, 3), len(name), np.uint8)).save(tmp_path / name)
    assert [path.name for path in Video(tmp_path)._images] == names
    assert [path.name for path in images_in(tmp_path)] == names
    assert [f"{stem}.png" for stem in _frames(tmp_path, "truth")] == names
    assert [item.name for item in open_source(tmp_path, frames=True).items] == names


def test_names_of_one_number_are_in_one_order_whatever_the_file_system_s():
    names = [Path(name) for name in ("f02.png", "f2.png", "f002.png", "f1.png")]
    assert {tuple(sorted(order, key=by_number)) for order in permutations(names)} == {
        tuple(Path(name) for name in ("f1.png", "f002.png", "f02.png", "f2.png"))
    }


def test_the_demo_clip():
    video = Video(clip_path())
    assert (len(video), video.size) == (120, (144, 176))
    assert sum(1 for _ in video) == 120


def test_what_cannot_be_read_says_so(tmp_path):
    with pytest.raises(FileError, match="No video at"):
        Video(tmp_path / "none.mp4")
    with pytest.raises(FileError, match="holds no images"):
        Video(tmp_path)
    (tmp_path / "text.mp4").write_bytes(b"hello" * 100)
    with pytest.raises(FileError, match=r"text\.mp4 is not a video"):
        Video(tmp_path / "text.mp4")
    whole = write_video(tmp_path / "whole.mp4", frames(10)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match=r"cut\.mp4"):
        list(Video(tmp_path / "cut.mp4"))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"junk")
    with pytest.raises(FileError, match=r"a\.png"):
        list(Video(folder))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_video(tmp_path / "clip.mp4", frames(3))
    before = path.read_bytes()
    with pytest.raises(InputError, match="one size"):
        write_video(path, [*frames(2), *frames(1, 40, 52)])
    with pytest.raises(InputError, match="No frames"):
        write_video(path, [])
    with pytest.raises(InputError, match="uint8"):
        write_video(path, [np.zeros((4, 4, 3))])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="Cannot write the video"):
        write_video(tmp_path / "file" / "clip.mp4", frames(1))
