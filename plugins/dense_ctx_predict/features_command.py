"""dense-ctx features: images to tensors and pictures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dense_ctx.commands.arguments import add_model_argument, model_of, progress, refuse
from dense_ctx.commands.base import Command
from dense_ctx.model_spec import DEFAULT_MODEL

from .precision import add_precision_arguments

if TYPE_CHECKING:
    from torch import Tensor

    from dense_ctx.model import DenseModel


class Features(Command):
    """`dense-ctx features`."""

    help = "dense features of images, as safetensors and PCA pictures"
    stop_note = "the files of finished images are in {out}"
    bounds = ("max_memory", "npy")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        add_model_argument(parser, positional=True)
        parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="images to encode")
        parser.add_argument("--out", type=Path, default=Path("dense-ctx-features"), help="folder (%(default)s)")
        parser.add_argument("--scale", type=float, default=1.0, help="pixel grid as a share of the image size (1.0)")
        parser.add_argument("--half", action="store_true", help="store float16: half the size, about 3 digits")
        parser.add_argument("--npy", action="store_true", help="large images: one memory-mapped .npy, written in tiles")
        add_precision_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Write NAME.safetensors (pixels, patches, cls) and NAME.png (joint PCA) for each image."""
        from dense_ctx import visualize
        from dense_ctx.data.video import IMAGE_SUFFIXES
        from dense_ctx.errors import FileError, InputError
        from dense_ctx.files import new_file, write_tensors
        from dense_ctx.numerics import require_finite

        from .feature_files import write_features
        from .pca import pca_pictures

        if not 0 < args.scale <= 8:
            raise InputError(f"--scale {args.scale} is not above 0 and at most 8")
        if args.npy:
            refuse(args, ["half", "scale"], "with --npy, which has the image's size and the network's precision")
        if Path(args.model).is_file() or Path(args.model).suffix.lower() in IMAGE_SUFFIXES:  # MODEL was omitted
            args.images, args.model = [Path(args.model), *args.images], DEFAULT_MODEL
        missing = [str(path) for path in args.images if not path.is_file()]  # before any work
        if missing:
            alone = len(args.images) == 1 and args.model == DEFAULT_MODEL
            hint = f" If {missing[0]} is a model, add images after it: {missing[0]} IMAGE ..." if alone else ""
            raise FileError(f"No image at {', '.join(missing)}.{hint}")
        model = model_of(args)
        stems: set[str] = set()
        maps, names = [], []
        if args.npy:  # read in tiles
            for path in progress(args.images, len(args.images), "features"):
                name = _unique_stem(path, stems)
                file = write_features(model, path, args.out / f"{name}.npy", max_memory=args.max_memory or "2GB")
                print(f"{path} -> {file}")
            return 0
        for path, image, tensors in progress(_tensors(model, args), len(args.images), "features"):
            name = _unique_stem(path, stems)
            height, width = image.shape[1:]
            require_finite(f"{path} as float16", "Leave --half out", **tensors)
            with new_file(args.out / f"{name}.safetensors") as partial:
                write_tensors(partial, tensors, {"image": path.name, "size": f"{height}x{width}"})
            print(f"{path} -> {args.out / name}.safetensors, pixels {list(tensors['pixels'].shape)}")
            # the PCA picture is subsampled to about 1024 pixels a side
            step = max(1, round(max(tensors["pixels"].shape[1:]) / 1024))
            maps.append(tensors["pixels"][:, ::step, ::step].float())
            names.append(name)
        for name, picture in zip(names, pca_pictures(maps) if maps else [], strict=True):
            print(f"picture {visualize.save_picture(args.out / f'{name}.png', picture)}")
        return 0


def _tensors(model: DenseModel, args: argparse.Namespace) -> Iterator[tuple[Path, Tensor, dict[str, Tensor]]]:
    """Of each image in order: its path, itself [3, H, W], and what its file holds, on the CPU."""
    import torch

    from dense_ctx import images

    from .batches import Room, batches, results

    def features(pixels: Tensor, max_memory: str | None = None) -> list[dict[str, Tensor]]:
        size = max(1, round(pixels.shape[-2] * args.scale)), max(1, round(pixels.shape[-1] * args.scale))
        with torch.inference_mode():
            values = model(pixels, size=size, max_memory=max_memory)
        tensors = {"pixels": values.pixels, "patches": values.patches, "cls": values.cls}
        halves = {key: t.half() if args.half else t for key, t in tensors.items() if t is not None}
        return [{key: t[index] for key, t in halves.items()} for index in range(len(values.pixels))]

    for some in batches(model, args.images, images.load, Room(model, args.max_memory)):
        loaded = [image for _, image in some]
        each = results(loaded, features, lambda image: features(image, args.max_memory)[0])
        for (path, image), tensors in zip(some, each, strict=True):
            yield path, image, {key: t.cpu().contiguous() for key, t in tensors.items()}


def _unique_stem(path: Path, stems: set[str]) -> str:
    """A name for the outputs of `path`: its stem, numbered when two inputs share it."""
    stem, count = path.stem, 1
    while stem in stems:
        count += 1
        stem = f"{path.stem}-{count}"
    stems.add(stem)
    return stem
