"""How often the intervals of `dense-ctx compare` hold the true difference, of the 95 in 100 that they are named after.

    python benchmarks/intervals.py [--tables 2000]

Tables of differences are drawn whose true mean is 0: of each scene a normal number, of each seed one of `--seed-spread`
times its deviation, of each pair one of half of it.
"""

import argparse

import numpy as np
from common import parse
from dense_ctx_benchmarks.intervals import bootstrap

from dense_ctx.visualize import text_table

SCENES, SEEDS = (3, 5, 8, 16, 30, 100), (1, 3, 8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=2000, help="for each number of scenes and seeds (%(default)s)")
    parser.add_argument("--seed-spread", type=float, default=0.3, help="in deviations of scenes (%(default)s)")
    args = parse(parser, tables=5)
    draw = np.random.default_rng(1)
    lines = [["covered, %", *(f"{scenes} scenes" for scenes in SCENES)]]
    for seeds in SEEDS:
        cells = []
        for scenes in SCENES:
            inside = 0
            for _ in range(args.tables):
                of_seeds = args.seed_spread * draw.normal(size=(1, seeds)) * (seeds > 1)
                table = draw.normal(size=(scenes, 1)) + of_seeds + 0.5 * draw.normal(size=(scenes, seeds))
                interval = bootstrap(table, 1000)
                inside += interval.low <= 0 <= interval.high
            cells.append(f"{100 * inside / args.tables:.0f}")
        lines.append([f"{seeds} seed(s)", *cells])
    print(f"{args.tables} tables of each, spread of seeds {args.seed_spread}\n\n{text_table(lines)}")


if __name__ == "__main__":
    main()
