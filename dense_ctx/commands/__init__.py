"""The verbs of `dense-ctx`, one module each.

A verb is a module here with `add(verbs)`, which describes its arguments and ends in
`parser.set_defaults(run=run)`, and `run(args) -> int`, the exit status. It imports what it needs inside
`run`, so that `--help` stays quick, and calls only public functions of the library.
"""

from __future__ import annotations

VERBS = (
    "demo",
    "features",
    "segment",
    "track",
    "train",
    "evaluate",
    "bench",
    "compare",
    "score",
    "measure",
    "datasets",
    "cues",
    "pseudo_label",
    "text",
    "plugins",
)  # in the order --help lists them
