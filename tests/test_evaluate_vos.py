"""Clips under a protocol: the value by hand, constant memory, and clips that no one can score."""

import weakref

import numpy as np
import pytest
import torch
from dense_ctx_metrics.davis import SequenceScorer, score_folders, summarize
from evaluation_data import H, W, clip, davis2016, same_revision, save, vos_folder
from PIL import Image
from tiny_datasets import labels

from dense_ctx import registry
from dense_ctx.data import open_set
from dense_ctx.data.base import Clip, VideoSet
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.evaluate import evaluate, samples
from dense_ctx.images import load, load_mask
from dense_ctx.testing import tiny_model


@pytest.fixture(autouse=True)
def _revision(monkeypatch):
    same_revision(monkeypatch)


@pytest.fixture
def davis(tmp_path):
    return davis2016(tmp_path / "davis")


@pytest.fixture
def own(tmp_path):
    return vos_folder(tmp_path / "own")


def by_hand(root, model, probe, grid, binary):
    """Every step written out: features, the first mask on their grid, a prediction a frame, J and F."""
    scores = []
    for each in open_set("davis2016" if binary else "vos-folder", root).clips:
        scorer = estimator = None
        for frame, mask in zip(each.frames, each.masks, strict=True):
            truth = load_mask(mask)
            truth = (truth > 0).long() if binary else truth
            with torch.no_grad():
                features = model(load(frame)[None], size=(H // grid, W // grid))
            if estimator is None:
                estimator = probe().partial_fit(features, truth[grid // 2 :: grid, grid // 2 :: grid][None])
                scorer = SequenceScorer(each.name, truth.numpy())
            else:
                scorer.add(truth.numpy(), estimator.predict(features, size=(H, W))[0].argmax(0).numpy())
        scores.append(scorer.result())
    return summarize(scores)


@pytest.mark.parametrize(
    ("protocol", "grid", "name", "args"),
    [
        ("davis2016-ridge-grid4-v1", 4, "ridge", {"penalty": 0.001}),
        ("davis2016-linear-grid4-v1", 4, "linear", {}),
        ("davis2016-knn-grid8-v1", 4, "propagation", {}),
        ("vos-folder-linear-grid4-v1", 4, "linear", {}),
        ("vos-folder-knn-grid8-v1", 4, "propagation", {}),
    ],
)
def test_the_value_by_hand(tmp_path, protocol, grid, name, args):
    binary = "davis" in protocol
    root = (davis2016 if binary else vos_folder)(tmp_path / "data")
    model = tiny_model()
    result = evaluate(model, protocol, root, tmp_path / "out", overrides=[f"grid={grid}"])
    expected = by_hand(root, model, lambda: registry().create("probe", name, task="segmentation", **args), grid, binary)
    assert result.parts == expected.pop("objects")
    assert result.scores == expected
    assert result.value == expected["J&F-Mean"]
    assert result.n == ({"clips": 3, "objects": 3} if binary else {"clips": 2, "objects": 4})


def test_clips_whose_colours_tell_the_objects_are_tracked(own, tmp_path):
    from dense_ctx.model import AutoDenseModel

    model = AutoDenseModel.from_parts("rgb-xy", "upsample", backbone_args={"position": 0.0})
    result = evaluate(model, "vos-folder-linear-grid4-v1", own, tmp_path / "out", overrides=["grid=1"])
    assert result.value > 0.9


@pytest.mark.parametrize("protocol", ["davis2016-ridge-grid4-v1", "vos-folder-knn-grid8-v1"])
def test_kept_predictions_are_what_the_evaluator_reads(tmp_path, protocol):
    """Palette PNGs with the first frame's mask in front; scored as folders they give the same numbers."""
    binary = "davis" in protocol
    root = (davis2016 if binary else vos_folder)(tmp_path / "data")
    result = evaluate(tiny_model(), protocol, root, tmp_path / "out", keep=True)
    truth = root / "Annotations/480p"
    if not binary:
        truth = tmp_path / "truth"
        for name in ("one", "two"):
            truth.mkdir(exist_ok=True)
            (truth / name).symlink_to(root / name / "masks", target_is_directory=True)
    scores = score_folders(truth, tmp_path / "out/predictions", binary=binary)
    assert scores.pop("objects") == result.parts
    assert scores == result.scores
    name = "camel" if binary else "one"
    with Image.open(tmp_path / f"out/predictions/{name}/00000.png") as picture:
        assert picture.mode == "P"
        first = np.asarray(Image.open(next((truth / name).glob("00000.png"))))
        np.testing.assert_array_equal(np.asarray(picture), first)
    assert (tmp_path / f"out/pictures/{name}.png").exists()


def test_an_interrupted_evaluation_goes_on_at_the_clip(davis, tmp_path, monkeypatch):
    arguments = (tiny_model(), "davis2016-knn-grid8-v1", davis)
    whole = evaluate(*arguments, tmp_path / "whole", keep=True)
    real, frames = samples.extract, []

    def stopping(*args):
        if len(frames) == 8:  # in the middle of the second of three clips
            raise KeyboardInterrupt
        frames.append(1)
        return real(*args)

    monkeypatch.setattr(samples, "extract", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate(*arguments, tmp_path / "cut", keep=True)
    assert [path.name for path in (tmp_path / "cut/parts").iterdir()] == ["camel.json"]
    monkeypatch.setattr(samples, "extract", lambda *args: frames.append(1) or real(*args))
    frames.clear()
    again = evaluate(*arguments, tmp_path / "cut", keep=True)
    assert len(frames) == 10
    assert again.digest() == whole.digest()
    for path in (tmp_path / "whole/predictions").rglob("*.png"):
        other = tmp_path / "cut/predictions" / path.relative_to(tmp_path / "whole/predictions")
        assert other.read_bytes() == path.read_bytes()


def test_predictions_asked_for_later_are_made(davis, tmp_path):
    first = evaluate(tiny_model(), "davis2016-ridge-grid4-v1", davis, tmp_path / "out")
    again = evaluate(tiny_model(), "davis2016-ridge-grid4-v1", davis, tmp_path / "out", keep=True)
    assert again.digest() == first.digest()
    assert len(list((tmp_path / "out/predictions").rglob("*.png"))) == 15


@pytest.mark.parametrize("protocol", ["vos-folder-knn-grid8-v1", "vos-folder-linear-grid4-v1"])
def test_memory_does_not_grow_with_the_clip(tmp_path, monkeypatch, protocol):
    """Counted in feature tensors that are alive at a time, with a context of two frames."""
    settings = ["probe.args.n_last_frames=2"] if "knn" in protocol else []
    peaks = {}
    for count in (8, 24):
        alive, peak, real = weakref.WeakSet(), [0], samples.extract

        def counted(*args, alive=alive, peak=peak, real=real):
            features = real(*args)
            alive.add(features)
            peak[0] = max(peak[0], len(alive))
            return features

        root = vos_folder(tmp_path / str(count), clips=("one",), frames=count)
        with monkeypatch.context() as patch:
            patch.setattr(samples, "extract", counted)
            evaluate(tiny_model(), protocol, root, tmp_path / f"out{count}", overrides=settings, keep=True)
        peaks[count] = peak[0]
    assert 1 <= peaks[8] == peaks[24] <= 4


def test_seeds_limit_and_direction(davis, tmp_path):
    result = evaluate(tiny_model(), "davis2016-ridge-grid4-v1", davis, tmp_path / "out", seeds=[0, 1, 2], limit=2)
    assert result.std == 0  # a closed form has no seed
    assert result.n == {"clips": 2, "objects": 2}
    assert result.protocol_id == "davis2016-ridge-grid4-v1 [limit=2]"
    assert result.data["samples"] == 2


def test_images_are_shown_at_the_size_of_the_protocol_and_scored_at_their_own(davis, tmp_path):
    sizes = []
    model = tiny_model()
    model.backbone.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape[-2:])))
    evaluate(model, "davis2016-ridge-grid4-v1", davis, tmp_path / "out", overrides=["image.short_side=48"], keep=True)
    assert set(sizes) == {(48, 72)}
    with Image.open(tmp_path / "out/predictions/camel/00001.png") as picture:
        assert picture.size == (W, H)


# ---------------------------------------------------------------------- clips that cannot be scored as they are


def run(root, tmp_path, protocol="vos-folder-knn-grid8-v1"):
    return evaluate(tiny_model(), protocol, root, tmp_path / "out", overrides=["grid=4"])


@pytest.mark.parametrize("count", [1, 2])
def test_short_clips_are_refused(tmp_path, count):
    root = vos_folder(tmp_path / "own", clips=("brief",), frames=count)
    with pytest.raises(InputError, match=rf"brief has {count} frame\(s\).*at least 3 frames, each with a mask"):
        run(root, tmp_path)


def test_an_empty_first_mask_is_refused(own, tmp_path):
    labels(own / "two/masks/00000.png", np.zeros((H, W)), palette=True)
    with pytest.raises(InputError, match="two: the first mask holds no object"):
        run(own, tmp_path)


def test_a_frame_without_a_mask_is_refused(own, tmp_path):
    (own / "two/masks/00003.png").unlink()
    with pytest.raises(InputError, match=r"two has 5 frame\(s\) and 4 mask\(s\)"):
        run(own, tmp_path)


def test_an_object_that_vanishes_mid_clip_is_scored(own, tmp_path):
    for index in range(2, 5):
        mask = load_mask(own / f"one/masks/{index:05d}.png").numpy()
        labels(own / f"one/masks/{index:05d}.png", np.where(mask == 2, 0, mask), palette=True)
    result = run(own, tmp_path)
    assert set(result.parts) == {"one_1", "one_2", "two_1", "two_2"}
    assert all(np.isfinite(value) for value in result.parts["one_2"].values())


@pytest.mark.parametrize("protocol", ["vos-folder-knn-grid8-v1", "vos-folder-linear-grid4-v1"])
def test_an_object_too_small_for_the_grid_scores_0(tmp_path, protocol):
    """Its one pixel falls between the cells that are learned from."""
    root = tmp_path / "own"
    for index, (picture, label) in enumerate(clip(4)):
        label[:] = 0
        label[1, 1] = 1
        save(root / f"frames/{index:05d}.png", picture)
        labels(root / f"masks/{index:05d}.png", label)
    result = run(root, tmp_path, protocol)
    assert result.value == 0
    assert result.n["objects"] == 1


def test_masks_of_16_bits_are_read_and_colours_refused(own, tmp_path):
    expected = run(own, tmp_path)
    for path in (own / "one/masks").iterdir():
        labels(path, load_mask(path).numpy(), dtype=np.uint16)
    assert (
        evaluate(tiny_model(), "vos-folder-knn-grid8-v1", own, tmp_path / "16", overrides=["grid=4"]).value
        == expected.value
    )
    coloured = own / "one/masks/00002.png"
    Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(coloured)
    with pytest.raises(InputError, match=r"00002\.png is a RGB picture; expected object ids"):
        evaluate(tiny_model(), "vos-folder-knn-grid8-v1", own, tmp_path / "rgb")


def test_an_unreadable_frame_in_the_middle_is_named(own, tmp_path):
    (own / "two/frames/00002.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(FileError, match=r"two, frame 2: .*00002\.png"):
        run(own, tmp_path)
    assert (tmp_path / "out/parts/one.json").exists()  # what was done is kept


def test_frames_and_masks_of_other_sizes(own, tmp_path):
    save(own / "one/frames/00003.png", np.zeros((H, W + 2, 3), np.uint8))
    with pytest.raises(InputError, match=r"00003\.png: the image is 24 x 38 \(H x W\), its annotation 24 x 36"):
        run(own, tmp_path)
    labels(own / "one/masks/00003.png", np.zeros((H, W + 2)))
    with pytest.raises(InputError, match=r"one: 00003.png is 24 x 38 \(H x W\), the first frame 24 x 36"):
        run(own, tmp_path)


def test_wrong_roots(tmp_path, davis):
    with pytest.raises(FileError, match=r"DAVIS 2016: .*JPEGImages.* is missing. Expected under the root"):
        run(tmp_path, tmp_path, "davis2016-ridge-grid4-v1")
    with pytest.raises(InputError, match="holds no clip"):
        evaluate(tiny_model(), "vos-folder-knn-grid8-v1", VideoSet(()), tmp_path / "none")
    with pytest.raises(ConfigError, match="is about segmentation; the targets of camvid are video"):
        evaluate(tiny_model(), "camvid-linear-grid4-v1", VideoSet((Clip("a"),)), tmp_path / "none2")


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_the_largest_score_wins_and_the_first_of_equals(classes):
    from dense_ctx.evaluate.clips import _largest

    scores = torch.randint(0, 4, (classes, 7, 11), generator=torch.Generator().manual_seed(0)).float()
    expected = np.argmax(scores.numpy(), axis=0)  # numpy promises the first
    np.testing.assert_array_equal(_largest(scores), expected)
