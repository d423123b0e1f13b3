"""The pictures of docs/lila.md: cues and their in-context prediction (the paper's Fig. 3), PCA of frozen and trained.

python benchmarks/lila_pictures.py MODEL CLIPS [--out docs] [--example dog.mp4 --at 10 --gap 5] [--clips A B C]

MODEL is a folder or a short name; CLIPS a folder of videos. Writes lila_cues.jpg and lila_features.jpg under --out.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import parse
from dense_ctx_lila.cues.base import create_cue, normalize_cues
from dense_ctx_lila.pamr import refine
from dense_ctx_lila.ridge import ridge_apply, ridge_fit
from dense_ctx_predict.pca import pca_pictures
from PIL import Image, ImageDraw, ImageFont

from dense_ctx import AutoDenseModel
from dense_ctx.data.video import Video

CELL = (126, 224)  # of one picture on the sheet
SIDE = (252, 448)  # of a frame as the network sees it
GAP, BAND = 3, 20
FONT = ImageFont.load_default(size=13)


def picture(frame, size=SIDE):
    """The middle of a frame at one shape for all clips."""
    height, width = frame.shape[:2]
    wide, high = min(width, height * size[1] // size[0]), min(height, width * size[0] // size[1])
    left, top = (width - wide) // 2, (height - high) // 2
    return (
        Image.fromarray(frame).crop((left, top, left + wide, top + high)).resize(size[::-1], Image.Resampling.LANCZOS)
    )


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def flow_picture(flow, largest):
    """A flow [2, H, W] as colours: hue for the direction, strength for the length, white where there is none."""
    x, y = flow.numpy()
    angle = np.arctan2(y, x) / (2 * np.pi) % 1
    length = np.clip(np.hypot(x, y) / largest, 0, 1)
    hsv = np.stack([angle, length, np.ones_like(angle)], -1)
    return np.asarray(Image.fromarray((hsv * 255).round().astype(np.uint8), "HSV").convert("RGB"))


def sheet(rows, captions, titles):
    """Rows of pictures with a caption along the left of each group of rows and titles above.

    captions: (text, rows it spans).
    """
    high, wide = CELL
    space = len(rows) * (high + GAP), len(rows[0]) * (wide + GAP)
    page = Image.new("RGB", (BAND + space[1], (BAND if titles else 0) + space[0]), "white")
    top = BAND if titles else 0
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        middle = BAND + column * (wide + GAP) + wide // 2
        draw.text((middle, BAND // 2), title, fill="black", font=FONT, anchor="mm")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            image = cell if isinstance(cell, Image.Image) else Image.fromarray(cell)
            how = Image.Resampling.NEAREST if image.width < wide else Image.Resampling.LANCZOS
            page.paste(image.resize((wide, high), how), (BAND + x * (wide + GAP), top + y * (high + GAP)))
    y = top
    for text, count in captions:
        length = count * (high + GAP) - GAP
        band = Image.new("RGB", (length, BAND), "white")
        ImageDraw.Draw(band).text((length // 2, BAND // 2), text, fill="black", font=FONT, anchor="mm")
        page.paste(band.transpose(Image.Transpose.ROTATE_90), (0, y))
        y += length + GAP
    return page


@torch.no_grad()
def cues(model, path, at, gap, layer, stride, penalty):
    """Frames, features and flow of both frames, and what the context's regression says of the query."""
    video = Video(path).frames(at, gap + 1)
    images = [picture(video[0]), picture(video[-1])]
    pair = torch.cat([tensor(image) for image in images])
    pixels = model(pair).pixels.float()
    maps = model.encode(pair)[0].maps[layer].float()
    own = normalize_cues(*refine(maps, pair).chunk(2))  # the paper's cue; a run may have mixed several maps
    flow = normalize_cues(*create_cue("flow:dis")(*pair.chunk(2)), flow=[0], size=SIDE)
    context, query = (torch.cat(both, 1)[0] for both in zip(own, flow, strict=True))
    rows, targets = (x[:, stride // 2 :: stride, stride // 2 :: stride].flatten(1).T for x in (pixels[0], context))
    weights = ridge_fit(rows, targets, penalty)
    predicted = ridge_apply(pixels[1].flatten(1).T, weights).T.unflatten(1, SIDE)
    channels = own[0].shape[1]
    each = (context, query, predicted)
    largest = float(torch.cat([x[channels:].flatten(1) for x in each[:2]], 1).norm(dim=0).quantile(0.98))
    return [
        [*images, pca_pictures([*pixels])[1]],
        pca_pictures([x[:channels] for x in each]),
        [flow_picture(x[channels:], largest) for x in each],
    ]


@torch.no_grad()
def features(model, path, count, layer):
    """Frames over a clip, the frozen network's map and the trained pixels: one PCA a row."""
    video = Video(path)
    places = np.linspace(0.05 * len(video), 0.9 * len(video), count).astype(int)
    images = [picture(video.frames(int(place), 1)[0]) for place in places]
    frozen, trained = [], []
    for image in images:
        one = tensor(image)
        frozen.append(model.encode(one)[0].maps[layer][0].float())
        trained.append(model(one, size=(SIDE[0] // 2, SIDE[1] // 2)).pixels[0].float())
    return [images, pca_pictures(frozen), pca_pictures(trained)]


def write(path, page):
    """As JPEG below 300 KB."""
    for quality in (90, 84, 78, 70, 60):
        page.save(path, quality=quality, optimize=True)
        if path.stat().st_size < 300_000:
            break
    print(f"{path}: {page.width} x {page.height}, {path.stat().st_size // 1000} KB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path, metavar="CLIPS")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument(
        "--example", nargs="+", default=["dog.mp4", "woman-running.mp4"], help="clips of the first picture"
    )
    parser.add_argument("--at", nargs="+", type=int, default=[10, 10], help="the context frame in each")
    parser.add_argument("--gap", type=int, default=5)
    parser.add_argument("--clips", nargs="+", default=["bear.mp4", "juggle.mp4", "dolphins.mp4"])
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--layer", type=int, help="of the backbone; default the one of stride 16, or the last")
    parser.add_argument("--stride", type=int, default=7)
    parser.add_argument("--penalty", type=float, default=0.1)
    args = parse(parser, out=Path(tempfile.gettempdir()), example=None, at=[0], gap=1, clips=None, frames=2)
    first = sorted(path.name for path in args.folder.iterdir())[:1]
    args.example, args.clips = args.example or first, args.clips or first
    model = AutoDenseModel.from_pretrained(args.model)
    strides = list(model.backbone.strides)
    if args.layer is None:
        args.layer = strides.index(16) if len(set(strides)) > 1 and 16 in strides else -1
    blocks = [
        cues(model, args.folder / clip, at, args.gap, args.layer, args.stride, args.penalty)
        for clip, at in zip(args.example, args.at, strict=True)
    ]
    rows = [[cell for block in blocks for cell in block[i]] for i in range(3)]
    titles = ["context", "query", "query by LILA"] * len(blocks)
    write(args.out / "lila_cues.jpg", sheet(rows, [("frame, pixels", 1), ("features cue", 1), ("flow cue", 1)], titles))
    rows, captions = [], []
    for clip in args.clips:
        rows += features(model, args.folder / clip, args.frames, args.layer)
        captions += [("frame", 1), (f"frozen, 1/{strides[args.layer]}", 1), ("LILA", 1)]
    write(args.out / "lila_features.jpg", sheet(rows, captions, []))


if __name__ == "__main__":
    main()
