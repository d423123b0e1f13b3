"""Check that a score is of a whole data set; otherwise it is not compared with published scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dense_ctx.errors import InputError

LEAST = 0.9  # of the share that a list is of: 80 images in place of 82.7 is what is published for 1/128 of VOC


def require_whole(who: str, data: Mapping[str, Any], fraction: float = 1.0) -> str | None:
    """A remark where nothing says how many samples the data set should have; None where all of them were used.

    Args:
        who: the measured model and under what, for the message.
        data: "name", "samples", "published_samples", "training_samples", "published_training_samples" and
            "listed_samples" ({seed: how many its list names}) of a result or of a benchmark's cell.
        fraction: share of the training samples that the lists are of.

    Raises:
        InputError: fewer samples were scored, or the probe learnt from fewer, than were published.
    """
    counts = [("scored", data.get("samples"), data.get("published_samples"))]
    if data.get("training_samples"):
        counts.append(("learnt from", data["training_samples"], data.get("published_training_samples")))
    for verb, count, published in counts:
        if count is not None and published is not None and count < published:
            raise InputError(
                f"{who} {verb} {count:,} of the {published:,} published samples of {data['name']}: a part of the data "
                f"set does not stand beside the paper's number. `dense-ctx datasets {data['name']} ROOT` counts yours"
            )
    share = fraction * (data.get("published_training_samples") or 0)
    for seed, count in data.get("listed_samples", {}).items():
        if count < int(LEAST * share):
            raise InputError(
                f"{who} learnt from {count:,} listed samples of {data['name']} with seed {seed}; the share is "
                f"{share:,.0f}. Use the published list, whole"
            )
    unknown = [verb for verb, count, published in counts if count is None or published is None]
    return f"{who}: {' and '.join(unknown)} an unchecked number of samples of {data['name']}" if unknown else None
