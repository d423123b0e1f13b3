"""Tables of results, with the published rows of the same protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dense_ctx.errors import InputError
from dense_ctx.evaluate.protocol import load_protocol, names
from dense_ctx.evaluate.result import Result
from dense_ctx.visualize import text_table

from . import papers
from .intervals import Difference, paired
from .whole import require_whole

_FEW = 20  # scenes or seeds below which an interval covers less than 93 in 100

# (a protocol's task, score) -> how the papers call it; a score that is not here is called by its own name
_COLUMNS = {
    ("video", "J&F-Mean"): "J&F",
    ("video", "J-Mean"): "J",
    ("video", "F-Mean"): "F",
    ("normals", "rmse"): "RMSE",
    ("normals", "delta1"): "within 11.25 deg",
    ("normals", "delta2"): "within 22.5 deg",
    ("normals", "delta3"): "within 30 deg",
    ("depth", "rmse"): "RMSE",
    ("segmentation", "miou"): "mIoU",
    ("segmentation", "pixel_accuracy"): "pixel accuracy",
    ("zero-shot", "seen"): "seen mIoU",
    ("zero-shot", "unseen"): "unseen mIoU",
    ("zero-shot", "harmonic"): "harmonic mIoU",
}


def compare(results: Sequence[Result], paper: str | None = None) -> str:
    """A Markdown table of results of one protocol, best first; with `paper`, the published table and ours below.

    Beside each result is its paired difference to the first of `results`, with a 95 % interval over scenes (clips or
    images) and seeds: of the headline of each scene by itself.

    Args:
        results: one or more; the others are compared with the first.
        paper: "lila:table1" and the like; then results of several protocols may fill several columns.

    Raises:
        InputError: results of different protocols, settings or data; or, beside a paper, of none of its columns, or of
            a part of the data set.
        UnknownNameError: no such table.
    """
    if not results:
        raise InputError("No result to compare")
    if paper is not None:
        return _beside(results, paper)
    first = results[0]
    for other in results[1:]:
        if other.protocol_id != first.protocol_id or other.protocol_digest != first.protocol_digest:
            raise InputError(
                f"Different protocols cannot be compared: {first.model['name']} was measured under "
                f"{first.protocol_id}, {other.model['name']} under {other.protocol_id}"
                + (" of another version of its settings" if other.protocol_id == first.protocol_id else "")
            )
        if other.data["names_digest"] != first.data["names_digest"]:
            raise InputError(
                f"Different data: {first.model['name']} was measured on {first.data['samples']} samples of "
                f"{first.data['name']}, {other.model['name']} on {other.data['samples']} others"
            )
        if other.data.get("training_names_digest") != first.data.get("training_names_digest"):
            raise InputError(
                f"Different data: the probes of {first.model['name']} and {other.model['name']} were trained on "
                f"different images of {first.data['name']}"
            )
    higher = first.higher_is_better
    ordered = sorted(results, key=lambda r: (math.isnan(r.value), -r.value if higher else r.value))
    metrics = [first.metric, *(key for key in first.scores if key != first.metric)]
    apart = {id(r): paired(r.scenes, first.scenes) for r in results[1:]}
    against = [f"minus {first.model['name']}, by scene (95 %)"] if apart else []
    head = ["model", first.metric, *against, *metrics[1:], "seeds", "seconds"]
    lines = [
        [
            r.model["name"],
            _number(r.value) + (f" ± {_number(r.std)}" if r.std is not None else ""),
            *([_difference(r, apart[id(r)]) if id(r) in apart else ""] if apart else []),
            *(_number(r.scores[key]) for key in metrics[1:]),
            str(len(r.per_seed)),
            str(r.run.get("seconds", "-")),
        ]
        for r in ordered
    ]
    count = ", ".join(f"{value} {key}" for key, value in first.n.items())
    direction = "higher is better" if higher else "lower is better"
    table = f"{first.protocol_id}: {first.metric} ({direction}); {count}\n\n" + text_table([head, *lines])
    return f"{table}{_note([each for each in apart.values() if each is not None and each.low is not None])}"


def _note(differences: Sequence[Difference]) -> str:
    """What the intervals are over, and that they are too narrow over little."""
    if not differences:
        return ""
    sizes = sorted({(each.scenes, each.seeds) for each in differences})
    over = " or ".join(f"{scenes} scene(s) and {seeds} seed(s)" for scenes, seeds in sizes)
    few = any(1 < count < _FEW for size in sizes for count in size)
    narrow = " They are too narrow over so few: docs/evaluation.md says by how much." if few else ""
    return f"\n\nIntervals: paired bootstrap over {over} that both results have a score of.{narrow}"


def _beside(results: Sequence[Result], paper: str) -> str:
    published = papers.table(paper)
    rows: dict[str, dict[str, float | None]] = {}
    used, remarks = set(), []
    weights: dict[str, str | None] = {}
    for result in results:
        task = result.protocol["task"]
        if result.protocol_id in names() and result.protocol_digest != load_protocol(result.protocol_id).digest():
            raise InputError(
                f"{result.model['name']} was measured with other settings than the {result.protocol_id} that is "
                "shipped: a file of your own with its id, or another version of dense_ctx"
            )
        for name, column in published.columns.items():
            if result.protocol_id not in column.protocols or column.condition is not None:
                continue
            for metric, value in result.scores.items():
                if column.metric in (metric, _COLUMNS.get((task, metric))):
                    model = result.model["name"]
                    digest = result.model.get("digest")
                    if weights.setdefault(model, digest) != digest or name in rows.get(model, {}):
                        raise InputError(
                            f"two results are of a model called {model}, with other weights or for the same column "
                            f"({name}): one row cannot hold both. Leave one out, or give the models names of their own"
                        )
                    who = f"{model} under {result.protocol_id}"
                    remark = require_whole(who, result.data, result.protocol["data"]["fraction"])
                    remarks += [remark] if remark and remark not in remarks else []
                    cell = None if math.isnan(value) else value * (100 if column.unit == "%" else 1)
                    rows.setdefault(model, {})[name] = cell
                    used.add(result.protocol_id)
    missing = sorted({result.protocol_id for result in results} - used)
    if missing:
        protocols = sorted({one for column in published.columns.values() for one in column.protocols})
        raise InputError(
            f"{paper} has no column measured by {', '.join(missing)}; its protocols: {', '.join(protocols) or 'none'}. "
            "A limit or an override makes another protocol"
        )
    return "\n\n".join([published.render(extra_rows=list(rows.items())), *remarks])


def _difference(result: Result, difference: Difference | None) -> str:
    if difference is None:
        return "-"
    return difference.text("+.4f" if abs(result.value) < 10 else "+.2f")


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
