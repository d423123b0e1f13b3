"""dense-ctx predict over files whose names are odd: links, bytes that are no text, long names, names that return."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from test_predict_cli import MODEL, files, photo, predict, room  # noqa: F401 - a fixture

from dense_ctx import cli
from dense_ctx.data.video import Video
from dense_ctx.errors import FileError, InputError
from dense_ctx.images import load_mask, open_image


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere refuse these names")
def test_odd_names_are_predicted_once(room, tmp_path, capsys):  # noqa: F811
    folder = tmp_path / "photos"
    names = ["n" * 240 + ".png", "line\nend.png", "para\u2029.png", "日本.png", "-dash.png", "a=b:c.png", "%s.png"]
    for name in [*names, os.fsdecode(b"bytes\xff.png")]:
        shutil.copy(folder / "x.png", folder / name)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "loop").symlink_to(".")
    (folder / "gone.png").symlink_to("nowhere.png")
    assert predict("--out", "out", "--no-overlay") == 1
    out, err = capsys.readouterr()
    assert "13 image(s) and video(s): 11 predicted" in out
    assert "No image at photos/gone.png. " not in err  # nothing near it that could be meant
    assert "skipped photos/loop.png" in err
    assert len(files(tmp_path / "out" / "masks")) == 11
    assert predict("--out", "out", "--no-overlay") == 1
    assert "0 predicted in 0 s, 11 already done, 2 skipped" in capsys.readouterr().out


def test_another_file_of_the_same_name_is_not_taken_for_it(room, tmp_path, capsys):  # noqa: F811
    for number, folder in enumerate(("one", "two")):
        photo(tmp_path / folder / "x.bmp", 5 + number)
        os.utime(tmp_path / folder / "x.bmp", (1e9, 1e9))  # of one size and time, as those of an archive
    predict("--out", "alone", query=["two/x.bmp"])
    predict("--out", "out", query=["one/x.bmp"])
    capsys.readouterr()
    assert predict("--out", "out", query=["two"]) == 2
    assert "would replace it: choose another --out" in capsys.readouterr().err
    shutil.rmtree("one")
    assert predict("--out", "out", query=["two/x.bmp"]) == 0
    masks = [np.asarray(Image.open(tmp_path / name / "masks" / "x.png")) for name in ("alone", "out")]
    assert (masks[0] == masks[1]).all()


def test_a_project_that_moves_as_a_whole_is_done_still(room, tmp_path, capsys, monkeypatch):  # noqa: F811
    predict("--out", "out")
    (tmp_path / "new").mkdir()
    for name in ("photos", "out", "a.png", "m.png"):
        shutil.move(tmp_path / name, tmp_path / "new" / name)
    monkeypatch.chdir(tmp_path / "new")
    capsys.readouterr()
    assert predict("--out", "out") == 0
    assert "3 already done" in capsys.readouterr().out


def test_labels_out_name_the_images_also_where_two_have_one_stem(room, tmp_path):  # noqa: F811
    photo(tmp_path / "photos" / "x.jpg", 9)
    predict("--out", "out", "--labels-out", "all.json", "--labels-to", "coco")
    names = [image["file_name"] for image in json.loads((tmp_path / "all.json").read_text())["images"]]
    assert sorted(names) == ["day one/deep/x.png", "day one/y.jpg", "x.jpg", "x.png"]


def test_hidden_files_are_no_frames(tmp_path):
    for name in ("0.png", "1.png"):
        photo(tmp_path / name)
    (tmp_path / "._0.png").write_bytes(b"Finder's")
    assert len(list(Video(tmp_path))) == len(Video(tmp_path)) == 2


def test_a_gif_of_which_frames_would_be_lost_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)) for _ in range(4)]
    frames[0].save(tmp_path / "timed.gif", save_all=True, append_images=frames[1:], duration=40)
    assert len(list(Video(tmp_path / "timed.gif"))) == 4
    frames[0].save(tmp_path / "untimed.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(FileError, match="FFmpeg joins frames without a duration"):
        Video(tmp_path / "untimed.gif")


@pytest.mark.parametrize("values", [np.zeros((4, 4), complex), np.full((4, 4), "1"), np.full((4, 4), None)])
def test_a_mask_is_of_numbers(values):
    with pytest.raises(InputError, match="expected whole numbers"):
        load_mask(values)


def test_the_mask_that_is_wrong_is_named(room, tmp_path, capsys):  # noqa: F811
    Image.new("RGB", (56, 40)).save("colours.png")
    assert predict("--out", "out", support=["a.png:m.png", "a.png:colours.png"]) == 2
    assert "The mask colours.png is a RGB picture" in (err := capsys.readouterr().err)
    assert "`dense-ctx labels`" in err
    Image.new("L", (5, 5)).save("small.png")
    assert predict("--out", "out", support=["a.png:m.png", "a.png:small.png"]) == 2
    assert "The mask small.png is 5 x 5" in capsys.readouterr().err


def test_a_name_with_stars_is_missing_all_the_same(tmp_path):
    with pytest.raises(FileError, match="No image at"):
        open_image(tmp_path / "a**[b.png")


def test_a_shorter_clip_leaves_no_masks_of_a_longer_one(room, tmp_path):  # noqa: F811
    for folder, count in (("long/clip", 5), ("short/clip", 3)):
        for number in range(count):
            photo(tmp_path / folder / f"{number}.png")
    Image.fromarray(photo(tmp_path / "first.png")).save("first_mask.png")
    for folder in ("long/clip", "short/clip"):
        assert cli.main(["track", folder, "--mask", "first_mask.png", "--out", "tracks", *MODEL]) == 0
    assert files(tmp_path / "tracks" / "clip") == ["00000.png", "00001.png", "00002.png"]
