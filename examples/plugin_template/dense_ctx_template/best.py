"""The best validation of a run, in OUT/best.json: what the hook `training_evaluation` calls."""

import json
from pathlib import Path

from dense_ctx.files import write_json


def keep_best(out, step, scores):
    """Write step and scores if the first score is higher than that of every earlier validation of the run."""
    name, value = next(iter(scores.items()))
    file = Path(out) / "best.json"
    if not file.exists() or value > json.loads(file.read_text(encoding="utf-8"))["scores"][name]:
        write_json(file, {"step": step, "scores": dict(scores)})
