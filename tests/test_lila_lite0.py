"""The model in the box: it opens without a network, is small, and sees what its frozen network sees."""

import socket
from pathlib import Path

import dense_ctx_lila
import pytest
import torch
from dense_ctx_demo import demo
from dense_ctx_metrics.segmentation import confusion_matrix, iou

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.data.video import Video

FOLDER = Path(dense_ctx_lila.__file__).parent / "models" / "lila-lite0"


@pytest.fixture(scope="module")
def model():
    def refuse(*args, **kwargs):
        raise AssertionError("a network was asked for")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        return AutoDenseModel.from_pretrained("lila-lite0")


def test_it_is_small_and_says_where_it_comes_from(model):
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8e6
    record = model.model_config.trained_with
    assert record["objective"]["name"] == "lila"
    assert record["steps"] > 100
    assert {"data", "command", "machine", "seconds", "date"} <= set(record)
    assert "## Training" in (FOLDER / "README.md").read_text()


def test_its_features_are_finite_and_about_centred(model):
    frame = demo.enlarge(Video(demo.clip_path()).first())
    with torch.inference_mode():
        pixels = model(frame).pixels[0].flatten(1)
    assert pixels.shape == (128, frame.shape[0] * frame.shape[1])
    assert pixels.isfinite().all()
    assert pixels.mean(1).square().sum() < pixels.var(1).sum()


def test_one_annotated_frame_segments_another_by_cosines_too(model):
    """k-NN by cosine, the probe that a constant in the features would harm."""
    frames, last = list(Video(demo.clip_path())), max(demo.ANNOTATED)
    example = demo.enlarge(frames[0]), demo.enlarge_labels(demo.annotation(0))
    truth = demo.enlarge_labels(demo.annotation(last))
    for method in ("ridge", "knn"):
        output = InContext(model, method=method).fit(*example).predict(demo.enlarge(frames[last]))
        assert iou(confusion_matrix(output, truth, len(demo.CLASSES))).mean() > 0.8, method
