"""Mutation testing of the closed forms: does a test of the default run fail for each small mistake in them?

    python tests/mutants.py                          all targets of mutants.yaml, 150 mutants of each, drawn by a seed
    python tests/mutants.py ridge miou --sample 0    every mutant of two targets
    python tests/mutants.py --again                  only what survived before, after a test was added
    python tests/mutants.py --report                 the table of what is known, nothing is run

One process a target: it collects the target's tests once and forks for each mutant; the child puts the changed
functions in place and runs the tests that reach the changed line, the likeliest and quickest first, until one fails.
Results are appended to --out as they come, so that a run goes on after a kill. Needs fork (Linux, macOS).

A survivor is worth a test, or a line in mutants.yaml with the reason why there is none: under `equivalent` where no
result can differ, under `survivors` where one could. A line that no mutant has any more is named.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # a forked child must not wait for threads it has not
    os.environ[name] = "1"
os.environ |= {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}

import pytest  # noqa: E402
import torch  # noqa: E402, F401 - once for all targets, each of which is a child
import yaml  # noqa: E402
from mutant_runner import ROOT, Loop  # noqa: E402
from mutations import Mutant, mutants  # noqa: E402

HERE = Path(__file__).parent
SPEC = yaml.safe_load((HERE / "mutants.yaml").read_text(encoding="utf-8"))


SAMPLE = 150


@dataclass(frozen=True)
class Case:
    """A mutant of a file.

    equivalent: why no test can tell it from the original, "" where one should; survivor: why none does.
    """

    target: str
    file: str
    mutant: Mutant
    equivalent: str
    survivor: str

    @property
    def id(self) -> str:
        return f"{self.file} {self.mutant.key}"


@cache
def cases(target: str) -> list[Case]:
    spec, found = SPEC["targets"][target], []
    for file in spec["files"]:
        only = spec.get("only", {}).get(file)
        for mutant in mutants((ROOT / file).read_text(encoding="utf-8")):
            if only is None or (mutant.function or "module").partition(".")[0] in only:
                why = (next(_reasons(kind, file, mutant), "") for kind in ("equivalent", "survivors"))
                found.append(Case(target, file, mutant, *why))
    for row in [*SPEC["equivalent"], *SPEC["survivors"]]:
        idle = not any(case.file == row["file"] and _is(row["change"], case.mutant) for case in found)
        if row["file"] in spec["files"] and idle:
            print(f"mutants.yaml: {row['file']} has no mutant {row['change']!r}", file=sys.stderr)
    return found


def named(target: str) -> list[Case]:
    """Mistakes that once went unnoticed, each an edit of the text; run beside any sample."""
    edits = []
    for row in SPEC["named"]:
        if row["file"] in SPEC["targets"][target]["files"]:
            text = (ROOT / row["file"]).read_text(encoding="utf-8")
            if row["from"] not in text:
                sys.exit(f"mutants.yaml: {row['file']} has no {row['from']!r} any more ({row['name']})")
            changed = text.replace(row["from"], row["to"])
            edits.append(Case(target, row["file"], Mutant("", False, (1, 1), row["name"], changed), "", ""))
    return edits


def _reasons(kind: str, file: str, mutant: Mutant) -> Iterator[str]:
    return (row["reason"] for row in SPEC[kind] if row["file"] == file and _is(row["change"], mutant))


def _is(change: str, mutant: Mutant) -> bool:
    """Whether a line of mutants.yaml is of a mutant: in it `…` stands for any text."""
    return re.fullmatch(re.escape(change).replace("…", ".*"), mutant.key) is not None


def chosen(target: str, sample: int, seed: int) -> list[Case]:
    """Of each file its share of the sample, in no order, so that a run that is stopped has run a sample too."""

    def place(case: Case) -> bytes:  # by a hash, so that a sample stays what it was when a file changes elsewhere
        return hashlib.sha256(f"{seed} {case.id}".encode()).digest()

    every = sorted((case for case in cases(target) if not case.equivalent), key=place)
    drawn: list[Case] = []
    left = len(every)
    sample = min(sample or left, left)
    for file in SPEC["targets"][target]["files"]:
        some = [case for case in every if case.file == file]
        drawn += some[: round((sample - len(drawn)) * len(some) / max(1, left))]
        left -= len(some)
    return sorted(drawn, key=place)


# ---------------------------------------------------------------------- results


def read(out: Path) -> dict[str, dict[str, Any]]:
    """The last result of each mutant; a line cut off by a kill is none."""
    results = {}
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            results[row["id"] + row["digest"]] = row
    return results


def key(case: Case) -> str:
    return case.id + hashlib.sha256(case.mutant.source.encode()).hexdigest()[:12]


def run(target: str, todo: list[Case], out: Path, seconds: float) -> None:
    total = len(todo)

    def done(case: Case, result: str, seconds: float) -> None:
        nonlocal total
        total -= 1
        row = {"id": case.id, "digest": key(case)[-12:], "result": result, "seconds": round(seconds, 2)}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if not result.startswith("killed"):
            print(f"{_place(case)}: {result}; {total} to go", flush=True)

    spec = SPEC["targets"][target]
    files = [str(HERE / f"{name.partition('[')[0]}.py") for name in spec["tests"]]
    without = [f"--deselect={Path('tests') / name}" for name in spec.get("without", [])]
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "-s",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:terminal",
            "-p",
            "no:faulthandler",
            "--assert=plain",
            *without,
            f"--basetemp={folder}/tests",
        ]
        pytest.main(
            [*files, *options, f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")],
            [Loop(todo, spec["tests"], done, seconds)],
        )


def report(targets: list[str], sample: int, seed: int, out: Path) -> None:
    known, left, sums = read(out), [], [0] * 4
    head = ["target", "mutants", "equivalent", "run", "killed", "share", "survivors"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for target in targets:
        every = cases(target)
        rows = [(case, known[key(case)]["result"]) for case in chosen(target, sample, seed) if key(case) in known]
        alive = [(case, result) for case, result in rows if not result.startswith("killed")]
        left += [f"{_place(case)}: {result}" + f" ({case.survivor})" * bool(case.survivor) for case, result in alive]
        numbers = [len(every), sum(bool(case.equivalent) for case in every), len(rows), len(rows) - len(alive)]
        sums = [a + b for a, b in zip(sums, numbers, strict=True)]
        print(_row(target, numbers))
    print(_row("all", sums), *left, sep="\n")
    for case in (case for target in targets for case in named(target) if key(case) in known):
        print(f"{case.mutant.change}: {known[key(case)]['result']}")


def _place(case: Case) -> str:
    return f"{case.target}: {case.file}:{case.mutant.lines[0]} {case.mutant.key}"


def _row(name: str, numbers: list[int]) -> str:
    total, equal, run, killed = numbers
    share = f"{100 * killed / max(1, run):.1f} %"
    if run < total - equal:
        share += " [{:.1f}, {:.1f}]".format(*(100 * bound for bound in interval(killed, run)))
    return f"| {name} | {total} | {equal} | {run} | {killed} | {share} | {run - killed} |"


def interval(hits: int, count: int) -> tuple[float, float]:
    """Of a share, 95 % (Wilson 1927)."""
    z = 1.96
    middle, spread = hits + z * z / 2, z * math.sqrt(hits * (count - hits) / max(1, count) + z * z / 4)
    return (middle - spread) / (count + z * z), (middle + spread) / (count + z * z)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(SPEC['targets'])}; default: all")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="mutants of each target, drawn by the seed; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="run again what survived")
    parser.add_argument("--report", action="store_true", help="print the table and run nothing")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of the processor's time a target, then stop")
    parser.add_argument("--match", default="*", help="only mutants with this in `function: change`, * is any text")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "mutants.jsonl")
    options = parser.parse_args()
    targets = options.targets or list(SPEC["targets"])
    for target in targets if not options.report else ():
        results = read(options.out)
        todo = []
        for case in [*named(target), *chosen(target, options.sample, options.seed)]:
            row = results.get(key(case))
            new = row is None or (options.again and not row["result"].startswith("killed"))
            if new and fnmatchcase(case.mutant.key, f"*{options.match}*"):
                todo.append(case)
        # a process of its own: a target's modules are imported for its tests alone
        if todo and _child_of_target(target, todo, options.out, options.seconds):
            sys.exit(f"{target}: stopped")
    report(targets, options.sample, options.seed, options.out)


def _child_of_target(target: str, todo: list[Case], out: Path, seconds: float) -> int:
    if not (child := os.fork()):
        run(target, todo, out, seconds)
        os._exit(0)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    main()
