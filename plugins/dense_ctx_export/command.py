"""dense-ctx export: a model as one file for programs without torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_ctx.commands.arguments import MODEL_HELP
from dense_ctx.commands.base import Command

if TYPE_CHECKING:
    from dense_ctx_predict.predictor import Predictor

    from dense_ctx.model import DenseModel

    from .base import Exporter


class Export(Command):
    """`dense-ctx export`."""

    help = "write backbone, decoder and fitted head as one ONNX or torch.export file, checked against the model"
    description = (
        "MODEL is a saved predictor (`dense-ctx predict --save`), a model with a trained head, or any model, whose "
        "features are exported then. The written file is compared with the model; a difference above 1e-4 is refused."
    )
    epilog = (
        "Example: dense-ctx export cups/ --out cups.onnx; then, without torch: "
        'dense_ctx_runtime.OnnxModel("cups.onnx").predict("photo.jpg")'
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Describe the options."""
        add = parser.add_argument
        add("source", metavar="MODEL", help=MODEL_HELP + "; or the folder of a saved predictor")
        add("--out", type=Path, required=True, metavar="FILE", help="the file to write, .onnx or .pt2")
        add(
            "--task", metavar="TASK",
            help="track: carry a mask through a clip, by dense_ctx_runtime.OnnxTracker; or with settings of it: "
            "'track(stride=4, topk=10)'; default: what MODEL predicts",
        )  # fmt: skip
        add("--format", default="onnx", help="onnx, torch-export or another registered exporter (%(default)s)")
        add("--size", default="dynamic", metavar="HxW", help="of the images, 480x640, or dynamic: any (%(default)s)")
        add("--opset", type=int, help="of ONNX, 18 to 23 (20)")
        add(
            "--int8", nargs="+", type=Path, metavar="PATH",
            help="write int8, calibrated by these images or folders of them, 4 or more like those to come; onnx only",
        )  # fmt: skip
        add("--image", type=Path, help="a photograph for the check (a frame of the demo's clip)")

    def run(self, args: argparse.Namespace) -> int:
        """Write the file; print what it is and the differences from the model."""
        from dense_ctx_predict.files import is_predictor
        from dense_ctx_predict.predictor import Predictor
        from dense_ctx_predict.tracking import MaskTracker

        from dense_ctx import registry
        from dense_ctx.errors import InputError
        from dense_ctx.model_spec import open_model

        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", args.size)
        if match is None and args.size != "dynamic":
            raise InputError(f"--size {args.size} is not HxW, such as 480x640, nor dynamic")
        size = (int(match[1]), int(match[2])) if match else args.size
        options = {} if args.opset is None else {"opset": args.opset}
        exporter: Exporter = registry().create("exporter", args.format, **options)
        tracking = None if args.task is None else _tracking(args)
        predictor = is_predictor(args.source)
        if predictor and tracking is not None:
            raise InputError(f"{args.source} is a predictor, whose head --task track would not use: give its model")
        source: Any = Predictor.from_pretrained(args.source) if predictor else open_model(args.source)
        if tracking is not None:
            source = MaskTracker(source, **tracking)
        if args.int8:
            return _write_int8(exporter, source, args, size)
        path = exporter(source, args.out, size=size, image=args.image)
        facts = exporter.open(path).facts
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB  {facts.task} of {facts.source}")
        print(f"{'size':>12}  {'input':<12}largest difference from the model")
        for check in facts.verified:
            height, width = check["size"]
            print(f"{height:>5} x {width:<4}  {check['input']:<12}{check['error']:.1e}" + _ties(check["ties"]))
        return 0


def _tracking(args: argparse.Namespace) -> Mapping[str, Any]:
    """The settings in --task track(...)."""
    from dense_ctx.config import parse_part
    from dense_ctx.errors import InputError

    part = parse_part(args.task)
    if part.name != "track":
        raise InputError(f"--task {args.task}: expected track; what else a file predicts is what MODEL was fitted to")
    if args.int8:
        raise InputError("--int8 cannot be combined with --task track: a tracker's calibration would need clips")
    return part.args


def _write_int8(exporter: Exporter, source: DenseModel | Predictor, args: argparse.Namespace, size: Any) -> int:
    import tempfile

    from dense_ctx_predict.queries import expand

    from dense_ctx.errors import InputError

    if args.format != "onnx":
        raise InputError(f"--int8 would have no effect with --format {args.format}: leave it out, or write onnx")
    from .quantisation import quantise

    images = [query.path for query in expand(args.int8)]
    with tempfile.TemporaryDirectory() as folder:
        whole = exporter(source, Path(folder) / "float32.onnx", size=size, image=args.image)
        path = quantise(whole, images, args.out)
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB, float32 has {whole.stat().st_size / 1e6:.1f} MB")
    return 0


def _ties(share: float) -> str:
    return f"  ({share:.1%} of the pixels left out: two neighbours equally near)" if share else ""
