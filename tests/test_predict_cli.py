"""dense-ctx predict over files: names, resuming, what cannot be read, several processes, depth and normals."""

import json
import re

import numpy as np
import psutil
import pytest
import torch
from dense_ctx_datasets.geometric_files import read_depth, read_normals
from PIL import Image, ImageDraw

from dense_ctx import cli
from dense_ctx.data.video import Video, write_video
from dense_ctx.images import load_mask

MODEL = ["--model", "rgb-xy+upsample", "--device", "cpu"]


def photo(path, seed=0, size=(40, 56)):
    """A red disc on blue, noisy; the disc's place depends on the seed."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size[1], size[0]), (40, 60, 200))
    x, y = rng.integers(14, size[1] - 14), rng.integers(14, size[0] - 14)
    box = (x - 10, y - 10, x + 10, y + 10)
    ImageDraw.Draw(image).ellipse(box, fill=(220, 40, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).ellipse(box, fill=1)
    return np.asarray(mask)


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder as a user's: an annotated photo, and photos of several sizes below another folder."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo(tmp_path / "a.png")).save("m.png")
    truth = {
        "x.png": photo(tmp_path / "photos" / "x.png", 1),
        "day one/y.jpg": photo(tmp_path / "photos" / "day one" / "y.jpg", 2, (64, 48)),
        "day one/deep/x.png": photo(tmp_path / "photos" / "day one" / "deep" / "x.png", 3, (33, 91)),
    }
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"hidden")
    return truth


def predict(*words, support=("a.png:m.png",), query=("photos",), model=MODEL):
    support = ["--support", *support] if support else []
    return cli.main(["predict", *support, "--query", *query, *model, *words])


def files(folder):
    """All files but labelmap.txt, the names of the classes (test_predict_labels.py)."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "labelmap.txt")
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_a_folder_of_photos_keeps_names_and_subfolders(room, tmp_path, capsys):
    """It was read as a video, and failed at the second size."""
    assert predict("--out", "out") == 0
    assert files(tmp_path / "out") == [
        "masks/day one/deep/x.png", "masks/day one/y.png", "masks/x.png",
        "overlays/day one/deep/x.jpg", "overlays/day one/y.jpg", "overlays/x.jpg",
        "predictions.jsonl", "predictor.json",
    ]  # fmt: skip
    for name, mask in room.items():
        predicted = load_mask(f"out/masks/{name.rpartition('.')[0]}.png").numpy()
        assert iou(predicted == 1, mask == 1) > 0.9, name
    assert "3 image(s) and video(s): 3 predicted" in capsys.readouterr().out


def test_a_second_run_does_nothing_and_a_changed_photo_is_predicted_again(room, tmp_path, capsys):
    assert predict("--out", "out") == 0
    before = {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in files(tmp_path / "out")}
    capsys.readouterr()
    assert predict("--out", "out") == 0
    assert re.search(r": 0 predicted in \d+ s, 3 already done", capsys.readouterr().out)
    assert {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in files(tmp_path / "out")} == before
    photo(tmp_path / "photos" / "x.png", 9)
    (tmp_path / "out" / "overlays" / "day one" / "y.jpg").unlink()
    with (tmp_path / "out" / "predictions.jsonl").open("a") as record:
        record.write('{"name": "cut by a ki')
    assert predict("--out", "out") == 0
    assert "2 predicted" in capsys.readouterr().out
    assert predict("--out", "out") == 0
    assert "3 already done" in capsys.readouterr().out


def test_another_predictor_does_not_mix_into_the_same_folder(room, tmp_path, capsys):
    assert predict("--out", "out") == 0
    assert predict("--out", "out", "--method", "ridge(penalty=1)") == 2
    assert re.search(
        r"another folder of predictions \(method: 'ensemble' there, 'ridge' now; .*Choose another --out",
        capsys.readouterr().err,
    )
    assert predict("--out", "out", "--classes", "0=sky", "1=cup") == 2  # predictor.json has other names
    assert "classes" in (err := capsys.readouterr().err)
    assert "cup" in err
    assert predict("--out", "out", "--no-overlay") == 0
    assert "3 already done" in capsys.readouterr().out
    (tmp_path / "photos" / "out2").mkdir()
    (tmp_path / "photos" / "out2" / "mine.txt").write_text("")
    assert predict("--out", "photos/out2") == 2
    assert "exists and holds no folder of predictions" in capsys.readouterr().err


def test_outputs_and_masks_are_no_queries(room, tmp_path, capsys):
    for _ in range(2):
        assert predict("--out", "out", query=["."]) == 0
    assert re.search(r"4 image\(s\) and video\(s\): 0 predicted in \d+ s, 4 already done", capsys.readouterr().out)
    assert "masks/photos/day one/y.png" in files(tmp_path / "out")
    assert not any(name.endswith("m.png") for name in files(tmp_path / "out"))


def test_files_of_one_name_keep_apart(room, tmp_path):
    photo(tmp_path / "photos" / "x.jpg", 5)
    photo(tmp_path / "more" / "x.png", 6)
    assert predict("--out", "out", "--no-overlay", query=["photos", "more"]) == 0
    assert files(tmp_path / "out" / "masks") == [
        "more/x.png", "photos/day one/deep/x.png", "photos/day one/y.png", "photos/x.jpg.png", "photos/x.png.png",
    ]  # fmt: skip
    assert not (tmp_path / "out" / "overlays").exists()
    assert predict("--out", "two", "--no-overlay", query=["photos/x.png", "more/x.png"]) == 0
    assert files(tmp_path / "two" / "masks") == ["x.png-2.png", "x.png.png"]


def test_what_cannot_be_read_is_left_out_told_and_status_1(room, tmp_path, capsys):
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    (tmp_path / "photos" / "broken.mp4").write_bytes(bytes(300))
    assert predict("--out", "out") == 1
    said = capsys.readouterr()
    assert "5 image(s) and video(s): 3 predicted" in said.out
    assert "2 skipped" in said.out
    assert re.search(r"skipped photos.broken\.png: .*broken\.png is ", said.err)
    assert re.search(r"skipped photos.broken\.mp4: .*is not a video", said.err)
    assert not any("broken" in name for name in files(tmp_path / "out"))
    assert predict("--out", "out") == 1  # tried again
    photo(tmp_path / "photos" / "broken.png", 8)
    (tmp_path / "photos" / "broken.mp4").unlink()
    assert predict("--out", "out") == 0


def test_a_full_disk_is_not_the_photos_fault(room, capsys, monkeypatch):
    from dense_ctx_predict import outputs

    from dense_ctx.errors import FileError

    def full(*_):
        raise FileError("Cannot write the picture: no space left")

    monkeypatch.setattr(outputs, "save_labels", full)
    assert predict("--out", "out") == 2
    assert "error: Cannot write the picture" in capsys.readouterr().err


@pytest.mark.slow
def test_several_processes_give_the_same_files(room, tmp_path, capsys):
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    assert predict("--out", "one", "--classes", "1=disc") == 1
    assert predict("--out", "two", "--classes", "1=disc", "--processes", "2") == 1
    assert "1 skipped" in capsys.readouterr().out
    assert files(tmp_path / "two") == files(tmp_path / "one")
    for name in files(tmp_path / "one" / "masks"):
        assert (tmp_path / "one" / "masks" / name).read_bytes() == (tmp_path / "two" / "masks" / name).read_bytes()


def test_videos_by_suffix_and_frames_by_a_flag(room, tmp_path):
    frames = [np.asarray(Image.open("a.png").resize((56, 40)))] * 3
    write_video("photos/clip.mp4", frames)
    assert predict("--out", "out") == 0
    assert len(files(tmp_path / "out" / "masks" / "clip")) == 3
    assert len(list(Video("out/overlays/clip.mp4"))) == 3
    for index, frame in enumerate(frames):
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(frame).save(f"frames/{index}.png")
    assert predict("--out", "apart", query=["frames"]) == 0
    assert files(tmp_path / "apart" / "masks") == ["0.png", "1.png", "2.png"]
    assert predict("--out", "clip", "--frames", query=["frames"]) == 0
    assert files(tmp_path / "clip" / "masks") == [f"frames/0000{i}.png" for i in range(3)]


def depth_room(tmp_path):
    """A photo whose blue says how far away things are, from 1 to 3 metres, and its depth."""
    ramp = np.linspace(0, 1, 56, dtype=np.float32)[None].repeat(40, 0)
    picture = np.stack([ramp * 0, ramp * 0, ramp], -1)
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(tmp_path / "room.png")
    return 1 + 2 * ramp


def test_depth_has_a_door_of_its_own(tmp_path, monkeypatch, capsys):
    """A 16-bit PNG became 297 classes."""
    monkeypatch.chdir(tmp_path)
    depth = depth_room(tmp_path)
    Image.fromarray((depth * 1000).round().astype(np.uint16)).save("d.png")
    Image.fromarray((depth * 5000).round().astype(np.uint16)).save("d5000.png")
    np.save("d.npy", depth)
    assert predict(support=["room.png:d.png"], query=["room.png"]) == 2
    assert "--task depth" in capsys.readouterr().err
    door = {"support": ["room.png:d.png"], "query": ["room.png"]}
    assert predict("--task", "depth", "--out", "png", **door) == 0
    assert files(tmp_path / "png") == ["depth/room.png", "pictures/room.jpg", "predictions.jsonl", "predictor.json"]
    predicted = read_depth(tmp_path / "png" / "depth" / "room.png", 1000)
    assert (predicted[0] - torch.from_numpy(depth)).abs().max() < 0.2
    door["support"] = ["room.png:d5000.png"]
    assert predict("--task", "depth", "--scale", "5000", "--out", "five", **door) == 0
    again = read_depth(tmp_path / "five" / "depth" / "room.png", 5000)
    torch.testing.assert_close(again, predicted, rtol=0, atol=2e-3)
    door["support"] = ["room.png:d.npy"]
    assert predict("--task", "depth", "--format", "npy", "--no-overlay", "--out", "npy", **door) == 0
    assert files(tmp_path / "npy" / "depth") == ["room.npy"]
    torch.testing.assert_close(read_depth(tmp_path / "npy" / "depth" / "room.npy", 1), predicted, rtol=0, atol=2e-3)
    capsys.readouterr()
    assert predict("--task", "depth", "--scale", "50000", "--out", "far", **door) == 1
    assert re.search(
        r"exceeds 65535, the largest 16-bit value: use a smaller --scale \(at most", capsys.readouterr().err
    )


def test_normals_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tilt = (depth_room(tmp_path) - 2) / 2
    normals = np.stack([tilt, 0 * tilt, -np.sqrt(1 - tilt**2)], -1)
    np.save("n.npy", normals)
    words = ["--task", "normals", "--out"]
    assert predict(*words, "out", support=["room.png:n.npy"], query=["room.png"]) == 0
    predicted = read_normals(tmp_path / "out" / "normals" / "room.png")
    assert (predicted * torch.from_numpy(normals).permute(2, 0, 1)).sum(0).min() > 0.98
    assert predict(*words, "npy", "--format", "npy", support=["room.png:n.npy"], query=["room.png"]) == 0
    torch.testing.assert_close(read_normals(tmp_path / "npy" / "normals" / "room.npy"), predicted, rtol=0, atol=0.02)


def test_scribbles_are_enough(room, tmp_path):
    strokes = Image.new("L", (56, 40), 255)
    mask = np.asarray(Image.open("m.png"))
    rows, columns = np.nonzero(mask)
    ImageDraw.Draw(strokes).line((2, 2, 53, 3), fill=0, width=2)
    ImageDraw.Draw(strokes).point((int(columns.mean()), int(rows.mean())), fill=1)
    strokes.save("s.png")
    assert predict("--out", "out", support=["a.png:s.png"], query=["photos/x.png"]) == 0
    assert iou(load_mask("out/masks/x.png").numpy() == 1, room["x.png"] == 1) > 0.8


def test_the_colours_of_a_palette_mask_are_kept(room, tmp_path):
    mask = Image.open("m.png").convert("P")
    mask.putpalette([0, 0, 0, 10, 200, 30] + [0] * 762)
    mask.save("p.png")
    assert (
        predict("--out", "out", "--classes", "0=rest", "1=disc", support=["a.png:p.png"], query=["photos/x.png"]) == 0
    )
    picture = Image.open("out/masks/x.png")
    assert picture.getpalette()[:6] == [0, 0, 0, 10, 200, 30]
    listed = json.loads((tmp_path / "out" / "predictor.json").read_text())["classes"]
    assert listed == {
        "0": {"name": "rest", "colour": [0, 0, 0]},
        "1": {"name": "disc", "colour": [10, 200, 30]},
    }


BAD = {
    ("--query", "gone"): "No image, video or folder at gone",
    ("--query", "empty"): "The folder empty and its subfolders hold no image or video to predict",
    ("--processes", "0"): "--processes 0: expected at least 1",
    ("--scale", "1000"): "--scale is of depth; this predicts segmentation",
    ("--task", "depth", "--scale", "-1"): "--scale -1.0: expected a number above 0",
    ("--ignore-index", "x"): "--ignore-index 'x': expected a whole number, none or auto",
    ("--classes", "disc"): "--classes 'disc' is not ID=NAME, such as 1=road",
    ("--classes", "1=a", "1=b"): "--classes names the id 1 twice",
    ("--classes", "7=a"): "No class has the id 7; there are 0, 1",
    ("--task", "normals", "--support", "a.png:m.png"): "m.png is a L picture; expected normals as RGB",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(room, tmp_path, capsys, words):
    (tmp_path / "empty").mkdir()
    assert predict("--out", "out", *words) == 2
    err = capsys.readouterr().err
    assert BAD[words] in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_examples_or_a_head_are_needed(room, capsys):
    assert predict(support=()) == 2
    assert "rgb-xy+upsample has features but no trained head: give annotated examples" in capsys.readouterr().err
    assert predict("--method", "knn", support=()) == 2
    assert "--method would have no effect without --support" in capsys.readouterr().err
    assert cli.main(["predict", "--support", "a.png:m.png"]) == 2
    assert "Nothing to do: give --query PATH ..., or --save DIR" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_stays_flat_over_hundreds_of_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo(tmp_path / "a.png")).save("m.png")
    rng = np.random.default_rng(0)
    for index in range(240):
        Image.fromarray(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)).save(f"{tmp_path}/q{index:03d}.bmp")
    process, sizes = psutil.Process(), []
    from dense_ctx_predict import run as runner

    keep = runner._outcome

    def measured(*arguments):
        sizes.append(process.memory_info().rss)
        return keep(*arguments)

    monkeypatch.setattr(runner, "_outcome", measured)
    assert predict("--out", "out", query=["."]) == 0
    assert len(sizes) == 241
    # an image has 37 kB, its features as floats 2.5 MB: 200 of them would be 500 MB
    assert max(sizes[-40:]) - max(sizes[:40]) < 40e6


def test_labelme_files_are_examples_with_names(room, tmp_path, capsys):
    rows, columns = np.nonzero(np.asarray(Image.open("m.png")))
    disc = [[int(columns.min()), int(rows.min())], [int(columns.max()), int(rows.max())]]
    corners = [[0, 0], [56, 40]]
    shapes = [
        {"label": name, "points": points, "shape_type": "rectangle", "flags": {}, "group_id": None}
        for name, points in (("wall", corners), ("disc", disc))
    ]
    words = {
        "version": "5.5.0",
        "flags": {},
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": 40,
        "imageWidth": 56,
    }
    (tmp_path / "a.json").write_text(json.dumps({**words, "shapes": shapes}))
    assert predict("--out", "out", support=["a.png:a.json"], query=["photos/x.png"]) == 0, capsys.readouterr().err
    listed = json.loads((tmp_path / "out" / "predictor.json").read_text())["classes"]
    assert {item["name"] for item in listed.values()} >= {"wall", "disc"}
    disc_id = next(int(number) for number, item in listed.items() if item["name"] == "disc")
    assert iou(load_mask("out/masks/x.png").numpy() == disc_id, room["x.png"] == 1) > 0.7
    assert predict("--out", "no", support=["a.png:a.json", "a.png:m.png"]) == 2
    assert "m.png is a picture, but other annotations are not" in capsys.readouterr().err
