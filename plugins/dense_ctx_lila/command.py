"""dense-ctx cues: compute supervision maps of videos once, for training to read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dense_ctx.commands.arguments import add_device_argument, progress
from dense_ctx.commands.base import Command


class CuesCommand(Command):
    """`dense-ctx cues`."""

    help = "compute cue maps (flow, depth ...) of videos once, for training"
    stop_note = "finished clips are in {out}; the same command resumes"
    description = (
        "Finished clips are kept: run it again after an interruption. Under `accelerate launch -m "
        "dense_ctx.cli cues ...` the clips are shared out over the processes."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        parser.add_argument(
            "videos", nargs="+", type=Path, metavar="VIDEO", help="video, folder of frames, folder of clips"
        )
        parser.add_argument("--cues", nargs="+", required=True, metavar="CUE", help='"flow:dis", "NAME(key=value)"')
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the cache")
        parser.add_argument(
            "--gaps", nargs="+", type=int, default=[1, 2, 3, 4, 5], metavar="N", help="of frames (1 .. 5)"
        )
        parser.add_argument(
            "--size", type=int, metavar="SHORT_SIDE", help="make frames smaller; default their own size"
        )
        parser.add_argument("--batch", type=int, default=8, metavar="N", help="frames or pairs at once (%(default)s)")
        add_device_argument(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Compute this process' share; 0 also if some clips were left out, which is reported."""
        from tqdm import tqdm

        from dense_ctx.device import pick_device, processes
        from dense_ctx.persistence.lock import locked

        from .cue_cache import plan_cues

        rank, world = processes()
        plan = plan_cues(
            args.videos,
            args.cues,
            args.out,
            gaps=args.gaps,
            size=args.size,
            batch=args.batch,
            device=pick_device(args.device),
            rank=rank,
            world=world,
        )
        who = f"process {rank} of {world}: " if world > 1 else ""
        if rank == 0:
            print(f"{len(plan.clips)} clip(s); about {_size(plan.bytes)} to write, {_size(plan.free)} free", flush=True)
        own = locked(args.out / f"process-{rank}-of-{world}", f"The cue cache {args.out}")
        with own, progress(None, plan.frames, "cues", "frame", rank) as bar:
            report = plan.run(
                bar.update, lambda name, error: tqdm.write(f"warning: {name} is left out: {error}", file=sys.stderr)
            )
        counts = f"{len(report.computed)} computed, {len(report.complete)} already complete"
        print(f"{who}{counts}, {len(report.broken)} left out; {_size(report.written)} written to {args.out}")
        return 0


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
