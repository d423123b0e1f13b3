"""A clip to train on where none is given."""

from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional


def write_clip(folder, frames=8):
    """A smooth random picture, panned."""
    draw = torch.Generator().manual_seed(0)
    noise = [torch.rand(1, 3, 54 * n, 100 * n, generator=draw) for n in (1, 4)]
    big = sum(functional.interpolate(one, size=(540, 1000), mode="bicubic") for one in noise) / 2
    picture = (big[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    (Path(folder) / "clip").mkdir()
    for i in range(frames):
        Image.fromarray(picture[3 * i : 3 * i + 480, 5 * i : 5 * i + 854]).save(Path(folder) / "clip" / f"{i:03d}.jpg")
