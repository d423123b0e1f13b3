"""DIP, figure 4: how much every patch of some images resembles one patch of another, for one model or several.

    python examples/correlation_maps.py query.jpg --at Y X --targets a.jpg b.jpg --out maps.png \\
        --models dinov2-reg-b14+upsample runs/dip-b14/model

Y and X are pixels of query.jpg. The picture has a row a model: the query, its patch marked, and each target under the
cosine of its encoder features to the query patch's, from the least (blue) to 1 (red).
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional

from dense_ctx.errors import InputError
from dense_ctx.images import load
from dense_ctx.model_spec import open_model
from dense_ctx.visualize import contact_sheet, fit, heat_picture, save_picture

TILE = (240, 320)


@torch.inference_mode()
def correlation(model, query, at, target):
    """Cosine of the patch of `query` that holds pixel `at` with each patch of the image `target` [3, H, W].

    Returns the map [h, w], and the same on the target's pixels [H, W].
    """
    size = query.shape[-2:]
    if not all(0 <= place < side for place, side in zip(at, size, strict=True)):
        raise InputError(f"--at {at[0]} {at[1]} is outside of the query, {size[0]} x {size[1]} pixels")
    features, candidates = model(query), model(target)
    grid = features.patches.shape[-2:]
    row, column = (int(at[axis] / size[axis] * features.extent[axis] * grid[axis]) for axis in (0, 1))
    vector = functional.normalize(features.patches[0, :, row, column], dim=0)
    values = torch.einsum("c,chw->hw", vector, functional.normalize(candidates.patches[0], dim=0))
    return values, candidates.on_pixels(values[None, None])[0, 0]


def picture(image):
    return (255 * image).round().byte().permute(1, 2, 0).cpu().numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", type=Path)
    parser.add_argument("--at", nargs=2, type=int, required=True, metavar=("Y", "X"))
    parser.add_argument("--targets", nargs="+", type=Path, required=True)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    query, targets = load(args.query), [load(path) for path in args.targets]
    marked = picture(query).copy()
    (y, x), radius = args.at, max(2, min(query.shape[-2:]) // 50)
    marked[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = (255, 0, 0)
    rows = []
    for name in args.models:
        model = open_model(name).eval()
        maps = [correlation(model, query, tuple(args.at), target) for target in targets]
        low = min(float(values.min()) for values, _ in maps)
        print(name, *(f"{path.name}: {values.max():.3f}" for path, (values, _) in zip(args.targets, maps, strict=True)))
        heats = [heat_picture(pixels.cpu(), low, 1) for _, pixels in maps]
        rows.append([fit(item, TILE) for item in (marked, *heats)])
    captions = [Path(name).name[:12] for name in args.models]
    save_picture(args.out, contact_sheet(rows, captions, ["query", *(path.name for path in args.targets)]))
    print(args.out)


if __name__ == "__main__":
    main()
