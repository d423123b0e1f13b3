"""MAXA, figures 6 and 8: seconds of each backbone and of the head, ten batches of eight, beside ViT-B/16's at 224 px.

    python examples/sweeps/maxa_speed.py [--preset maxa-table2] [--rows MAE CLIP ...] [--bench OUT] [--quick]

Weights do not change the time, so networks are random and nothing is fetched. --bench: the folder of that preset's
`dense-ctx bench`, whose scores then stand beside the times (figure 6), and in OUT/speed-*.svg.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from dense_ctx_bench.plot import Point, scatter

from dense_ctx import create_backbone, create_decoder, registry
from dense_ctx.config import load_yaml, parse_part
from dense_ctx.model import DenseModel
from dense_ctx.visualize import text_table

REFERENCE = "vit-b16"


def network(text, head, sizes):
    """The backbone of a preset's row without its weights, and the head."""
    part = parse_part(text)
    args = {key: value for key, value in part.args.items() if key not in ("repo", "prefix", "weights")}
    backbone = create_backbone(part.name, **args, weights=None)
    image_size = tuple(sizes or backbone.image_size)
    head = parse_part(head)
    grid = tuple(side // backbone.strides[-1] for side in image_size)
    decoder = create_decoder(head.name, backbone, **head.args, dim=21, size=(224, 224), grid=grid)
    return DenseModel(backbone, decoder).eval(), image_size


@torch.inference_mode()
def seconds(model, image_size, batches, batch):
    """Of `batches` batches, backbone and head."""
    images = torch.rand(batch, 3, *image_size, device=model.device)
    totals = [0.0, 0.0]
    for number in range(batches + 1):  # the first one warms up
        began = time.perf_counter()
        features, padded = model.encode(images)
        wait(model.device)
        middle = time.perf_counter()
        model.decode(features, padded, image_size, (224, 224))
        wait(model.device)
        if number:
            totals[0] += middle - began
            totals[1] += time.perf_counter() - middle
    return totals


def wait(device):
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def scores(folder):
    """{column: (metric, {row: mean over seeds})} of a preset's records."""
    columns = {}
    for path in sorted((folder / "cells").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        preset = record["settings"].get("preset")
        if record["status"] == "done" and preset:
            rows = columns.setdefault(preset["column"], (record["metric"], {}))[1]
            rows.setdefault(preset["row"], []).append(record["value"])
    return {name: (metric, {row: statistics.mean(v) for row, v in rows.items()})
            for name, (metric, rows) in columns.items()}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="maxa-table2")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="of the preset; default all")
    parser.add_argument("--bench", type=Path, metavar="OUT")
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="that it runs: two rows at 32 px, a batch of one")
    args = parser.parse_args()
    preset = load_yaml(registry().text("preset", args.preset), args.preset)
    rows = args.rows or list(preset["backbones"])
    sizes = None
    if args.quick:
        rows, sizes, args.batches, args.batch = args.rows or ["MAE", "CLIP"], (32, 32), 1, 1

    def measured(text):
        model, image_size = network(text, preset["heads"][0], sizes)
        return image_size, *seconds(model.to(args.device), image_size, args.batches, args.batch)

    _, reference, _ = measured(REFERENCE)
    columns = scores(args.bench) if args.bench else {}
    lines, times = [["backbone", "px", "backbone, s", "head, s", "x ViT-B/16", *columns]], {}
    for row in rows:
        image_size, backbone, head = measured(preset["backbones"][row])
        times[row] = backbone / reference
        values = [f"{rows[row]:.4g}" if row in rows else "-" for _, rows in columns.values()]
        numbers = [str(image_size[0]), f"{backbone:.3g}", f"{head:.3g}", f"{times[row]:.2f}"]
        lines.append([row, *numbers, *values])
        print(*lines[-1], sep="  ", flush=True)
    print(text_table(lines))
    for column, (metric, by_row) in columns.items():
        points = [Point(times[row], value, row, "") for row, value in by_row.items() if row in times]
        if points:
            names = [point.backbone for point in points]
            picture = scatter(points, "time, x ViT-B/16 at 224 px", f"{column}: {metric}", names, [""])
            (args.bench / f"speed-{column}.svg").write_text(picture, encoding="utf-8")
            print(args.bench / f"speed-{column}.svg")


if __name__ == "__main__":
    main()
