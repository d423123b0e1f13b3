"""A Space: strokes on one image segment the next, and the demo's clip from its first frame (README.md).

Everything is computed on the processor. The model is the default one, whose weights come with pip.
"""

from functools import cache

import gradio
import numpy as np
import torch
from dense_ctx_demo import demo
from PIL import Image

from dense_ctx import InContext, visualize
from dense_ctx.data.video import Video
from dense_ctx.errors import DenseCtxError
from dense_ctx.model_spec import DEFAULT_MODEL, open_model

IGNORE = 255  # a pixel that teaches nothing
LONGEST = 640  # pixels of a side; larger images are reduced
COLOURS = {"background": "#3a3a3a", "first": "#ffc400", "second": "#00a0ff", "third": "#ff2850"}
RGB = np.array([[int(text[i : i + 2], 16) for i in (1, 3, 5)] for text in COLOURS.values()], dtype=np.uint8)


@cache
def model():
    """The feature model, opened once."""
    return open_model(DEFAULT_MODEL, "cpu")


@cache
def clip():
    """The demo's frames, and what its first frame teaches."""
    video = Video(demo.clip_path())
    return [demo.enlarge(frame) for frame in video], demo.fit(video, model())


def reduced(picture):
    """RGB, uint8 [H, W, 3], no side longer than LONGEST."""
    image = Image.fromarray(picture).convert("RGB")
    image.thumbnail((LONGEST, LONGEST))
    return np.asarray(image)


def strokes_of(editor):
    """The photograph in an editor, and its strokes: int64 [H, W], IGNORE where nothing is drawn."""
    if not editor or editor.get("background") is None:
        raise gradio.Error("Put a photograph into the first field.")
    picture = reduced(editor["background"])
    labels = np.full(picture.shape[:2], IGNORE, np.int64)
    for layer in editor["layers"]:
        size = (picture.shape[1], picture.shape[0])
        strokes = np.asarray(Image.fromarray(layer).convert("RGBA").resize(size, Image.Resampling.NEAREST))
        distance = np.abs(strokes[..., None, :3].astype(int) - RGB).sum(-1)
        labels = np.where(strokes[..., 3] > 127, distance.argmin(-1), labels)
    if len(np.unique(labels[labels != IGNORE])) < 2:
        raise gradio.Error("Draw strokes in two colours at least: one over the background, one over a thing.")
    return picture, labels


def segment(editor, query):
    """Masks of the drawn photograph and of the other one, as pictures."""
    picture, labels = strokes_of(editor)
    try:
        context = InContext(model()).fit(picture, torch.from_numpy(labels))
        others = [] if query is None else [reduced(query)]
        return [visualize.overlay(each, context.predict(each), RGB) for each in (picture, *others)]
    except DenseCtxError as error:
        raise gradio.Error(str(error)) from error


def segment_frame(number):
    """A frame of the demo's clip, and its masks."""
    frames, context = clip()
    frame = frames[int(number)]
    return frame, visualize.overlay(frame, context.predict(frame), demo.COLOURS)


def page():
    """The page, with its two tabs."""
    brush = gradio.Brush(default_size=12, colors=list(COLOURS.values()), color_mode="fixed")
    with gradio.Blocks(title="Strokes to masks") as blocks:
        gradio.Markdown(
            "# Strokes to masks\nDraw a few strokes on one photograph: grey over the background, another "
            "colour over each thing. The rest of it is segmented, and a second photograph too. No training, no GPU: "
            "pixel features of a frozen network and a regression."
        )
        with gradio.Tab("Your photographs"):
            with gradio.Row():
                editor = gradio.ImageEditor(label="Photograph with strokes", type="numpy", brush=brush, eraser=False,
                                            transforms=(), layers=False)  # fmt: skip
                query = gradio.Image(label="Another photograph (optional)", type="numpy")
            button = gradio.Button("Segment", variant="primary")
            gallery = gradio.Gallery(label="Masks", columns=2, object_fit="contain")
            button.click(segment, [editor, query], gallery, api_name="segment")
        with gradio.Tab("A clip, from its first frame"):
            gradio.Markdown("One annotated frame of four classes; the 119 others are segmented from it.")
            slider = gradio.Slider(0, 119, value=60, step=1, label="Frame")
            with gradio.Row():
                frame, masks = gradio.Image(label="Frame"), gradio.Image(label="Masks")
            slider.release(segment_frame, slider, [frame, masks], api_name="segment_frame")
            blocks.load(segment_frame, slider, [frame, masks], api_name=False)
    return blocks


if __name__ == "__main__":
    page().launch()
