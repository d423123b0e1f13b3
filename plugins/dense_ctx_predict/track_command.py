"""dense-ctx track: propagate the first frame's mask through a clip."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dense_ctx.commands.arguments import add_model_argument, model_of, progress
from dense_ctx.commands.base import Command

from .precision import add_precision_arguments

if TYPE_CHECKING:
    from dense_ctx.data.video import Frame

UNSURE = 0.85  # of a clip's best certainty: a frame below it is named


class Track(Command):
    """`dense-ctx track`."""

    help = "propagate the first frame's mask through a video (local k-NN)"
    stop_note = "the masks of finished frames are in {out}, the overlay is not written"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument("video", type=Path, metavar="VIDEO", help="a video file or a folder of frames")
        parser.add_argument("--mask", type=Path, required=True, help="object ids of the first frame, 0 is background")
        parser.add_argument("--out", type=Path, default=Path("dense-ctx-track"), help="folder (%(default)s)")
        parser.add_argument("--stride", type=int, default=8, help="pixels per feature cell (%(default)s)")
        parser.add_argument(
            "--recall", type=float, metavar="MARGIN",
            help="find objects again that left the view: 0.1; default: the published recipe, which cannot",
        )  # fmt: skip
        add_model_argument(parser)
        add_precision_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Write one palette PNG per frame, as DAVIS evaluators read them, and an overlay mp4."""
        from dense_ctx import visualize
        from dense_ctx.data.video import Video, write_video
        from dense_ctx.files import write_json
        from dense_ctx.images import load_mask

        from .batches import decoded
        from .outputs import remove_later_frames
        from .tracking import track

        video = Video(args.video)
        mask = load_mask(args.mask, video.size)
        model = model_of(args)
        folder = args.out / args.video.stem
        certainties: dict[int, float] = {}
        count = 0

        def overlays() -> Iterator[Frame]:
            nonlocal count
            frames = iter(progress(decoded(video), len(video), "frames"))
            pending: list[Frame] = []  # frames without labels yet

            def inputs() -> Iterator[Frame]:
                for frame in frames:
                    pending.append(frame)
                    yield frame

            for index, labels in enumerate(
                track(
                    model,
                    inputs(),
                    mask,
                    stride=args.stride,
                    max_memory=args.max_memory,
                    recall=args.recall,
                    report=lambda frame, certainty: certainties.update({frame: certainty}),
                )
            ):
                visualize.save_labels(folder / f"{index:05d}.png", labels)
                count = index + 1
                yield visualize.overlay(pending.pop(0), labels)

        video_file = write_video(args.out / f"{args.video.stem}_overlay.mp4", overlays(), video.fps)
        remove_later_frames(folder, count, ".png")
        print(f"{args.video} -> {folder}/00000.png ..., {video_file}")
        write_json(args.out / f"{args.video.stem}_certainty.json", certainties)
        if certainties:
            best = max(certainties.values())
            unsure = [frame for frame, value in certainties.items() if value == 0 or value < UNSURE * best]
            print(f"certainty: from {min(certainties.values()):.2f} to {best:.2f}; 0: an object is not seen")
            if unsure:
                hint = "" if args.recall is not None else "; --recall 0.1 finds objects again that left the view"
                print(f"unsure in {len(unsure)} frame(s), from {unsure[0]} to {unsure[-1]}: look at them{hint}")
        return 0
