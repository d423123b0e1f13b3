"""MAXA, figure 7: segmentation by frozen features against the same networks' ImageNet accuracy.

    dense-ctx bench maxa-table3 --data ... --tasks voc --out runs/maxa-table3
    python examples/sweeps/maxa_imagenet.py runs/maxa-table3 results-imagenet.csv [CLIP=MODEL_OF_THE_TABLE ...]

The accuracies are those of timm's own table, results/results-imagenet.csv of its repository on GitHub (columns model,
top1); which of its rows the paper took is not said. Networks without a classifier stand in it fine-tuned alone, so
ROW=MODEL names the row of the table for a row of the benchmark; what has neither is left out, by name. Writes
OUT/imagenet-COLUMN.svg.
"""

import argparse
import csv
from pathlib import Path

from dense_ctx_bench.plot import Point, scatter
from maxa_speed import scores
from scipy.stats import spearmanr

from dense_ctx import registry
from dense_ctx.config import load_yaml, parse_part
from dense_ctx.errors import FileError, InputError
from dense_ctx.visualize import text_table


def accuracies(path):
    """{timm's model name: top-1 accuracy in %}."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"model", "top1"} <= set(rows[0]):
        raise FileError(f"{path} is not timm's table of results: it has no columns model and top1")
    return {row["model"]: float(row["top1"]) for row in rows}


def timm_name(text):
    """Of a preset's backbone; None where it is none of timm's, or untrained."""
    part = parse_part(text)
    if part.args.get("weights", "pretrained") != "pretrained":
        return None
    if part.name.startswith("timm:"):
        return part.name.removeprefix("timm:")
    return registry().get("backbone", part.name)[0].args.get("model")


def beside(bench, others, title, stem, what):
    """Print the scores of a benchmark's folder beside {row: number} of others, with the rank correlation, and plot."""
    columns = scores(bench)
    if not columns:
        raise InputError(f"{bench} has no done cell of a preset: dense-ctx bench PRESET --out {bench}")
    for column, (metric, by_row) in columns.items():
        pairs = {row: (others[row], value) for row, value in by_row.items() if row in others}
        left_out = sorted(set(by_row) - set(pairs))
        print(text_table([["backbone", title, f"{column}: {metric}"],
                          *([row, f"{x:.2f}", f"{y:.4g}"] for row, (x, y) in pairs.items())]))  # fmt: skip
        if left_out:
            print(f"without {what}: {', '.join(left_out)}")
        if len(pairs) > 2:
            print(f"rank correlation {spearmanr(*zip(*pairs.values(), strict=True)).statistic:.3f}")
        if pairs:
            points = [Point(x, y, row, "") for row, (x, y) in pairs.items()]
            picture = scatter(points, title, f"{column}: {metric}", list(pairs), [""])
            (bench / f"{stem}-{column}.svg").write_text(picture, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, metavar="OUT")
    parser.add_argument("table", type=Path, metavar="CSV")
    parser.add_argument("pairs", nargs="*", metavar="ROW=MODEL")
    parser.add_argument("--preset", default="maxa-table3")
    args = parser.parse_args()
    table = accuracies(args.table)
    pairs = dict(pair.rpartition("=")[::2] for pair in args.pairs)
    backbones = load_yaml(registry().text("preset", args.preset), args.preset)["backbones"]
    if strange := [row for row in pairs if row not in backbones] + [m for m in pairs.values() if m not in table]:
        raise InputError(f"{strange[0]!r} is no row of {args.preset}, or no model of {args.table}")
    models = {row: pairs.get(row, timm_name(text)) for row, text in backbones.items()}
    others = {row: table[model] for row, model in models.items() if model in table}
    beside(args.bench, others, "ImageNet top-1, %", "imagenet", f"an accuracy in {args.table.name}")


if __name__ == "__main__":
    main()
