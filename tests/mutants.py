"""Mutation testing of the closed forms: does a test of the default run fail for each small mistake in them?

    python tests/mutants.py                          all targets of mutants.yaml, 60 mutants of each, drawn by a seed
    python tests/mutants.py ridge miou --sample 0    every mutant of two targets
    python tests/mutants.py --again                  only what survived before, after a test was added
    python tests/mutants.py --report                 the table of what is known, nothing is run

One process a target: it collects the target's tests once and forks for each mutant; the child puts the changed
functions in place and runs the tests that reach the changed line, the quickest first, until one fails. Results are
appended to --out as they come, so that a run goes on after a kill. Needs fork (Linux, macOS).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # a forked child must not wait for threads it has not
    os.environ[name] = "1"
os.environ |= {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}

import pytest  # noqa: E402
import yaml  # noqa: E402
from mutant_runner import ROOT, Loop  # noqa: E402
from mutations import Mutant, mutants  # noqa: E402

HERE = Path(__file__).parent
SPEC = yaml.safe_load((HERE / "mutants.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Case:
    """A mutant of a file; `equivalent`: why no test can tell it from the original, "" where one should."""

    target: str
    file: str
    mutant: Mutant
    equivalent: str

    @property
    def id(self) -> str:
        return f"{self.file} {self.mutant.key}"


def cases(target: str) -> list[Case]:
    spec, found = SPEC["targets"][target], []
    reasons = [(file, row["change"], row["reason"]) for row in SPEC["equivalent"] for file in [row["file"]]]
    for file in spec["files"]:
        only = spec.get("only", {}).get(file)
        for mutant in mutants((ROOT / file).read_text(encoding="utf-8")):
            if only is None or (mutant.function or "module").partition(".")[0] in only:
                why = [r for f, change, r in reasons if f == file and fnmatchcase(mutant.key, _literal(change))]
                found.append(Case(target, file, mutant, why[0] if why else ""))
    return found


def _literal(pattern: str) -> str:
    return pattern.replace("[", "[[]")  # `*` and `?` alone are wild


def chosen(target: str, sample: int, seed: int) -> list[Case]:
    every = [case for case in cases(target) if not case.equivalent]
    if not sample or sample >= len(every):
        return every
    # by a hash and not by place, so that a sample stays what it was when a file changes elsewhere
    return sorted(every, key=lambda case: hashlib.sha256(f"{seed} {case.id}".encode()).digest())[:sample]


# ---------------------------------------------------------------------- results


def read(out: Path) -> dict[str, dict[str, Any]]:
    """The last result of each mutant; a line cut off by a kill is none."""
    found = {}
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            found[row["id"] + row["digest"]] = row
    return found


def key(case: Case) -> str:
    return case.id + hashlib.sha256(case.mutant.source.encode()).hexdigest()[:12]


def run(target: str, todo: list[Case], out: Path) -> None:
    total = len(todo)

    def done(case: Case, result: str, seconds: float) -> None:
        nonlocal total
        total -= 1
        row = {"id": case.id, "digest": key(case)[-12:], "result": result, "seconds": round(seconds, 2)}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if not result.startswith("killed"):
            print(
                f"{target}: {case.file}:{case.mutant.lines[0]} {case.mutant.key}: {result}; {total} to go", flush=True
            )

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
            *without,
            f"--basetemp={folder}/tests",
        ]
        pytest.main(
            [*files, *options, f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")],
            [Loop(todo, spec["tests"], done)],
        )


def report(targets: list[str], sample: int, seed: int, out: Path) -> None:
    known, left, sums = read(out), [], [0] * 5
    print("| target | mutants | run | killed | survived | equivalent |\n|---|---|---|---|---|---|")
    for target in targets:
        every = cases(target)
        rows = [(case, known[key(case)]["result"]) for case in chosen(target, sample, seed) if key(case) in known]
        alive = [(case, result) for case, result in rows if not result.startswith("killed")]
        left += [f"{target}: {c.file}:{c.mutant.lines[0]} {c.mutant.key}: {result}" for c, result in alive]
        equal = sum(bool(case.equivalent) for case in every)
        numbers = [len(every), len(rows), len(rows) - len(alive), len(alive), equal]
        sums = [a + b for a, b in zip(sums, numbers, strict=True)]
        print(_row(target, numbers))
    print(_row("all", sums), *left, sep="\n")


def _row(name: str, numbers: list[int]) -> str:
    total, run, killed, alive, equal = numbers
    return f"| {name} | {total} | {run} | {killed} ({100 * killed / max(1, run):.0f} %) | {alive} | {equal} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(SPEC['targets'])}; default: all")
    parser.add_argument("--sample", type=int, default=60, help="mutants of each target, drawn by the seed; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="run again what survived")
    parser.add_argument("--report", action="store_true", help="print the table and run nothing")
    parser.add_argument("--match", default="*", help="only mutants with this in `function: change`, * is any text")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "mutants.jsonl")
    options = parser.parse_args()
    targets = options.targets or list(SPEC["targets"])
    for target in targets if not options.report else ():
        known = read(options.out)
        todo = []
        for case in chosen(target, options.sample, options.seed):
            row = known.get(key(case))
            new = row is None or (options.again and not row["result"].startswith("killed"))
            if new and fnmatchcase(case.mutant.key, f"*{options.match}*"):
                todo.append(case)
        # a process of its own: a target's modules are imported for its tests alone
        if todo and _child_of_target(target, todo, options.out):
            sys.exit(f"{target}: stopped")
    report(targets, options.sample, options.seed, options.out)


def _child_of_target(target: str, todo: list[Case], out: Path) -> int:
    if not (child := os.fork()):
        run(target, todo, out)
        os._exit(0)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    main()
