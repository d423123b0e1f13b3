"""MAXA, figure 5: scores of the adapters beside those that other work found for the same backbones.

    dense-ctx bench maxa-table2 --data ... --tasks instances --out runs/maxa-table2
    python examples/sweeps/maxa_agreement.py runs/maxa-table2 others.csv

others.csv has a column row, the backbone as the preset calls it ("MAE", "Dino V2"), and a column of numbers for each
other work; an empty cell is none. The figure's are of Aydemir et al. and DINOSAUR (object-centric learning) and of
Faster R-CNN heads; its numbers are in the picture alone, so no file of them comes with the library. For each column of
numbers a table, the rank correlation, and OUT/NAME-COLUMN.svg.
"""

import argparse
import csv
from pathlib import Path

from maxa_imagenet import beside

from dense_ctx.errors import InputError


def numbers(path):
    """{column: {row: number}}."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in (rows[0] if rows else ()) if name != "row"]
    if not columns or "row" not in rows[0]:
        raise InputError(f"{path} has no column row and one of numbers")
    try:
        return {name: {row["row"]: float(row[name]) for row in rows if row[name]} for name in columns}
    except ValueError as error:
        raise InputError(f"{path}: {error}; an empty cell is no number") from None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, metavar="OUT")
    parser.add_argument("others", type=Path, metavar="CSV")
    args = parser.parse_args()
    for name, by_row in numbers(args.others).items():
        beside(args.bench, by_row, name, name, f"a number in the column {name}")


if __name__ == "__main__":
    main()
