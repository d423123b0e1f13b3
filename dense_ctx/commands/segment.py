"""dense-ctx segment: masks for new images or videos from a few annotated ones."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_model_argument, add_precision_arguments, model_of, progress, split_pair, unique_stem
from .base import Command

if TYPE_CHECKING:
    from ..data.video import Frame, Video
    from ..incontext import InContext


class Segment(Command):
    """`dense-ctx segment`."""

    help = "segment images or videos in context, from annotated examples"
    stop_note = "the masks of finished images and frames are in {out}"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument(
            "--support",
            nargs="+",
            required=True,
            metavar="IMG:MASK",
            help="annotated examples; masks hold class ids",
        )
        parser.add_argument(
            "--query", nargs="+", required=True, type=Path, metavar="PATH", help="images, videos or folders"
        )
        parser.add_argument("--out", type=Path, default=Path("dense-ctx-masks"), help="folder (%(default)s)")
        parser.add_argument(
            "--method", default="ridge", help="ridge, knn, linear or another probe, NAME(key=value, ...) (%(default)s)"
        )
        parser.add_argument("--ignore-index", type=int, default=255, help="mask value left out (%(default)s)")
        add_model_argument(parser)
        add_precision_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Write NAME.png (palette labels) and NAME_overlay.png for images; a folder of PNGs and an mp4 for videos."""
        from ..config import parse_part
        from ..data.video import Video, is_video
        from ..incontext import InContext
        from ..plugins import registry

        method = parse_part(args.method)
        registry().create("probe", method.name, task="segmentation", **method.args)  # refused before any work
        pairs = [split_pair(text) for text in args.support]
        queries = [(path, Video(path) if is_video(path) else None) for path in args.query]  # fail before the work
        context = InContext(model_of(args), method.name, ignore_index=args.ignore_index, **method.args)
        context.fit([image for image, _ in pairs], [mask for _, mask in pairs], max_memory=args.max_memory)
        stems: set[str] = set()
        for path, video in queries:
            name = unique_stem(path, stems)
            if video is None:
                _image(context, path, args.out, name, args.max_memory)
            else:
                _video(context, video, args.out, name, args.max_memory)
        return 0


def _image(context: InContext, path: Path, out: Path, name: str, max_memory: str | None) -> None:
    from .. import images, visualize

    image = images.load(path)
    labels = context.predict(image, max_memory=max_memory)
    picture = (image.permute(1, 2, 0).numpy() * 255).round().astype("uint8")
    file = visualize.save_labels(out / f"{name}.png", labels)
    over = visualize.save_picture(out / f"{name}_overlay.png", visualize.overlay(picture, labels))
    print(f"{path} -> {file}, {over}")


def _video(context: InContext, video: Video, out: Path, name: str, max_memory: str | None) -> None:
    from .. import visualize
    from ..data.video import write_video

    def overlays() -> Iterator[Frame]:
        for index, frame in enumerate(progress(video, len(video), "frames")):
            labels = context.predict(frame, max_memory=max_memory)
            visualize.save_labels(out / name / f"{index:05d}.png", labels)
            yield visualize.overlay(frame, labels)

    file = write_video(out / f"{name}_overlay.mp4", overlays(), video.fps)
    print(f"{video.path} -> {out / name}/00000.png ..., {file}")
