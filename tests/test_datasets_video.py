"""Video sets: the official layouts, made tiny."""

import numpy as np
import pytest
import tiny_datasets as tiny
from dense_ctx_datasets.check import check_root
from PIL import Image
from tiny_datasets import H, W

from dense_ctx import data as datasets
from dense_ctx.data.base import read_mask
from dense_ctx.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Video, write_video
from dense_ctx.errors import FileError, InputError


def clip_of(found, index=0):
    clip = found.clips[index]
    assert len(clip.frames) == len(clip.masks)
    return clip


def test_davis_2016_is_one_object_whatever_its_value(tmp_path):
    tiny.davis(tmp_path)
    dataset = datasets.open_set("davis2016", tmp_path)
    assert [clip.name for clip in dataset.clips] == ["camel", "goat"]
    clip = clip_of(dataset)
    assert clip.binary
    assert [path.name for path in clip.frames] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert [path.name for path in clip.masks] == ["00000.png", "00001.png", "00002.png"]
    assert read_mask(clip.masks[0], clip.binary).unique().tolist() == [0, 1]
    grey = np.zeros((H, W, 3), dtype=np.uint8)
    grey[2:5] = 255
    Image.fromarray(grey).save(clip.masks[0])  # as some official masks are
    assert int(read_mask(clip.masks[0], True).sum()) == 3 * W
    with pytest.raises(InputError, match=r"RGB picture; expected object ids"):
        read_mask(clip.masks[0])


@pytest.mark.parametrize("folder", ["2016", "480p"])
def test_davis_2016_official_lists_of_paths(folder, tmp_path):
    tiny.davis(tmp_path, folder)
    line = "/JPEGImages/480p/goat/0000{0}.jpg /Annotations/480p/goat/0000{0}.png"
    tiny.text(tmp_path / "ImageSets" / folder / "val.txt", *(line.format(index) for index in range(3)))
    assert [clip.name for clip in datasets.open_set("davis2016", tmp_path).clips] == ["goat"]


def test_davis_trainval_joins_the_lists_and_resolution_is_an_option(tmp_path):
    tiny.davis(tmp_path, resolution="Full-Resolution")
    tiny.text(tmp_path / "ImageSets/2016/train.txt", "goat")
    tiny.text(tmp_path / "ImageSets/2016/val.txt", "camel")
    dataset = datasets.open_set("davis2016", tmp_path, "trainval", resolution="Full-Resolution")
    assert [clip.name for clip in dataset.clips] == ["goat", "camel"]
    with pytest.raises(FileError, match=r"JPEGImages.480p is missing"):
        datasets.open_set("davis2016", tmp_path)
    with pytest.raises(InputError, match=r"resolution must be one of"):
        datasets.open_set("davis2016", tmp_path, resolution="240p")


def test_davis_2017_objects_and_test_split(tmp_path):
    tiny.davis(tmp_path, "2017", (0, 1, 2), split="test-dev")
    for path in (tmp_path / "Annotations").rglob("*.png"):
        if path.stem != "00000":
            path.unlink()
    clip = clip_of(datasets.open_set("davis2017", tmp_path, "test-dev"))
    assert not clip.binary
    assert clip.masks[1:] == (None, None)
    assert read_mask(clip.masks[0]).unique().tolist() == [0, 1, 2]
    (tmp_path / "ImageSets/2017/test-dev.txt").rename(tmp_path / "ImageSets/2017/val.txt")
    with pytest.raises(FileError, match=r"2 of 3 masks are missing, .*00001\.png first"):
        datasets.open_set("davis2017", tmp_path)


def test_youtube_vos_has_masks_of_some_frames(tmp_path):
    tiny.youtube_vos(tmp_path)
    dataset = datasets.open_set("youtube-vos", tmp_path, "valid")
    clip = clip_of(dataset)
    assert clip.name == "0a1b"
    assert [mask and mask.name for mask in clip.masks] == ["00000.png", None, "00010.png"]
    for index in range(15):
        tiny.image(tmp_path / "valid_all_frames/JPEGImages/0a1b" / f"{index:05d}.jpg")
    clip = clip_of(datasets.open_set("youtube-vos", tmp_path, "valid", frames="all"))
    assert [index for index, mask in enumerate(clip.masks) if mask] == [0, 10]
    tiny.text(tmp_path / "valid/meta.json", '{"videos": {"0a1b": {}, "ffff": {}}}')
    with pytest.raises(FileError, match=r"names the sequence 'ffff'"):
        datasets.open_set("youtube-vos", tmp_path, "valid")
    tiny.text(tmp_path / "valid/meta.json", "{")
    with pytest.raises(FileError, match=r"meta\.json is damaged"):
        datasets.open_set("youtube-vos", tmp_path, "valid")


def test_kinetics_folders_are_classes(tmp_path):
    frames = [np.full((H, W, 3), 60 * index, dtype=np.uint8) for index in range(3)]
    for name in ("abseiling/a_000001_000011.mp4", "zumba/b_000001_000011.mp4"):
        write_video(tmp_path / "val" / name, frames)
    dataset = datasets.open_set("kinetics700", tmp_path, "val")
    assert dataset.classes == ("abseiling", "zumba")
    assert [clip.name for clip in dataset.clips] == ["abseiling/a_000001_000011", "zumba/b_000001_000011"]
    assert Video(dataset.clips[0].video).size == (H, W)
    (tmp_path / "val/yoga").mkdir()
    with pytest.raises(FileError, match=r"yoga holds no video"):
        datasets.open_set("kinetics700", tmp_path, "val")


def test_clips_mix_files_and_folders(tmp_path):
    write_video(tmp_path / "b.mp4", [np.zeros((H, W, 3), dtype=np.uint8)] * 2)
    for index in range(2):
        tiny.image(tmp_path / "a" / f"{index}.png")
    dataset = datasets.open_set("clips", tmp_path)
    assert [(clip.name, clip.video is None, len(clip.frames)) for clip in dataset.clips] == [
        ("a", True, 2),
        ("b", False, 0),
    ]
    report = check_root("clips", tmp_path)
    assert not report.problems
    assert report.sizes == {(H, W): 2}
    assert report.frames == 4


def test_vos_folder_of_one_or_several_sequences(tmp_path):
    for name in ("one", "two"):
        for index in range(2):
            tiny.image(tmp_path / name / "frames" / f"{index:05d}.jpg")
            tiny.labels(tmp_path / name / "masks" / f"{index:05d}.png", [0, 3], palette=True)
    assert [clip.name for clip in datasets.open_set("vos-folder", tmp_path).clips] == ["one", "two"]
    single = clip_of(datasets.open_set("vos-folder", tmp_path / "two", binary=True))
    assert single.name == "two"
    assert single.binary


def test_suffixes_are_those_the_readers_take():
    from dense_ctx_datasets import clips, pairs

    assert frozenset(pairs.IMAGE_SUFFIXES) == IMAGE_SUFFIXES
    assert clips.VIDEO_SUFFIXES == VIDEO_SUFFIXES
