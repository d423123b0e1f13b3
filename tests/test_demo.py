"""The demo on its real clip with its really pretrained network."""

import numpy as np
import torch
from dense_ctx_demo import demo
from PIL import Image

from dense_ctx import AutoDenseModel, cli
from dense_ctx.data.video import Video


def test_annotations_cover_their_classes():
    for frame in demo.ANNOTATED:
        labels = demo.annotation(frame)
        assert labels.shape == (144, 176)
        assert labels.unique().tolist() == [0, 1, 2, 3]


def test_demo_segments_the_clip(tmp_path, capsys, monkeypatch):
    """The annotated and the shown frames; the command itself runs the whole clip."""
    frames = list(Video(demo.clip_path()))
    keep = sorted({*demo.ANNOTATED, *demo.SHOWN})

    class Thinned(Video):
        def __iter__(self):
            # frames between are stood in for by the nearest kept one, so that indices stay those of the clip
            return iter([frames[i] for i in keep])

        def __len__(self):
            return len(keep)

    monkeypatch.setattr(demo, "Video", Thinned)
    monkeypatch.setattr(demo, "ANNOTATED", tuple(keep.index(i) for i in demo.ANNOTATED))
    monkeypatch.setattr(demo, "SHOWN", tuple(range(len(keep))))
    annotations = dict(zip((keep.index(i) for i in (0, 60, 119)), map(demo.annotation, (0, 60, 119)), strict=True))
    monkeypatch.setattr(demo, "annotation", annotations.__getitem__)
    result = demo.run(tmp_path, AutoDenseModel.from_pretrained("lila-lite0"))
    assert len(result.iou) == 3
    for scores in result.iou.values():
        # a constant "background" prediction has mean IoU 0.17
        assert np.mean(scores) > 0.9
        assert min(scores) > 0.8
    assert sum(1 for _ in Video(result.video)) == len(keep)
    sheet = np.asarray(Image.open(result.sheet))
    assert sheet.shape[0] > len(keep) * 240
    assert sheet.std() > 30


def test_demo_is_deterministic():
    video = Video(demo.clip_path())
    context = demo.fit(video, AutoDenseModel.from_pretrained("lila-lite0"))
    twice = [context.predict(demo.enlarge(video.first())) for _ in range(2)]
    assert torch.equal(*twice)


def test_predict_track_and_features_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = list(Video(demo.clip_path()))[:3]
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(f"{index}.png")
    from dense_ctx.visualize import save_labels

    save_labels("mask.png", demo.annotation(0))
    (tmp_path / "clip").mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "clip" / f"{index:05d}.png")

    assert (
        cli.main(["predict", "--support", "0.png:mask.png", "--query", "1.png", "clip", "--frames", "--out", "masks"])
        == 0
    )
    names = {
        str(p.relative_to("masks").as_posix())
        for p in (tmp_path / "masks").rglob("*.*")
        for p in [p.relative_to(tmp_path)]
    }
    assert names == {
        "masks/1.png",
        "masks/labelmap.txt",
        "overlays/1.jpg",
        "overlays/clip.mp4",
        "masks/clip/00000.png",
        "masks/clip/00001.png",
        "masks/clip/00002.png",
        "predictions.jsonl",
        "predictor.json",
    }
    from dense_ctx.images import load_mask

    agreement = (load_mask("masks/masks/1.png") == demo.annotation(0)).float().mean()
    assert agreement > 0.9

    assert cli.main(["track", "clip", "--mask", "mask.png", "--out", "tracked"]) == 0
    assert torch.equal(load_mask("tracked/clip/00000.png"), demo.annotation(0))
    assert (load_mask("tracked/clip/00002.png") == demo.annotation(0)).float().mean() > 0.85

    assert cli.main(["features", "0.png", "clip/00000.png", "--out", "f", "--scale", "0.5", "--half"]) == 0
    from safetensors.torch import load_file

    tensors = load_file("f/0.safetensors")
    assert tensors["pixels"].shape == (496, 72, 88)
    assert tensors["pixels"].dtype == torch.float16
    assert {p.name for p in (tmp_path / "f").iterdir()} == {
        "0.safetensors",
        "0.png",
        "00000.safetensors",
        "00000.png",
    }


def test_command_line_errors_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save("a.png")
    Image.fromarray(np.zeros((20, 31), np.uint8)).save("m.png")
    cases = {
        ("predict", "--support", "a.png:m.png", "--query", "a.png"): "20 x 31 (H x W); the image is 20 x 30",
        ("predict", "--support", "a.png", "--query", "a.png"): "not IMAGE:MASK",
        ("predict", "--support", "a.png:gone.png", "--query", "a.png"): "No image at gone.png",
        ("track", "gone.mp4", "--mask", "m.png"): "No video at gone.mp4",
        ("features", "efficientnet-lite", "a.png"): "efficientnet-lite0",
        ("features", "a.png", "--scale", "0"): "--scale 0.0",
        ("features", "lila-b15", "a.png"): "lila-b14",
        ("features", "a.png", "--npy", "--half"): "--half would have no effect with --npy",
        ("features", "facebook/dinov2-small", "a.png"): "write hf:facebook/dinov2-small",
    }
    for arguments, message in cases.items():
        assert cli.main(list(arguments)) == 2, arguments
        output = capsys.readouterr()
        assert message in output.err, arguments
        assert "Traceback" not in output.err
