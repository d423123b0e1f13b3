"""Labels through a clip: each annotated frame gives its labels to the frames that are nearest to it."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.data.cache import Shard, write_shard
from dense_ctx.images import nearest
from dense_ctx.interfaces import DenseFeatures, Probe
from dense_ctx.numerics import require_finite
from dense_ctx.plugins import blamed, registry

from .annotation import IGNORE
from .features import FeatureStore

# the recipe's are 7, 12 and all channels: a third of the time, and no less overlap (docs/results/session.md)
LAST_FRAMES = 4  # of context beside the annotated one
RADIUS = 8  # cells: how far a label moves from frame to frame
CHANNELS = 64  # principal ones of the annotated frame
OPTIONS = {"n_last_frames": LAST_FRAMES, "size_mask_neighborhood": RADIUS}
_OPEN = 4  # chains that can go on where they were


@dataclass(frozen=True)
class Votes:
    """A frame's propagated labels: float16 [K, h, w] of `classes`, at least two, from the frame `origin`.

    version: of the origin's annotation, by which it is known to be up to date.
    """

    origin: int
    version: str
    classes: tuple[int, ...]
    shares: Tensor

    def normalized(self) -> Tensor:
        """float32 [K, h, w], sum 1."""
        shares = self.shares.float()
        return shares / shares.sum(0, keepdim=True).clamp_min(1e-12)

    def of(self, class_ids: Collection[int]) -> Votes | None:
        """Of some classes alone; None where fewer than two are left."""
        places = [place for place, label in enumerate(self.classes) if label in class_ids]
        if len(places) == len(self.classes):
            return self
        if len(places) < 2:
            return None
        return replace(self, classes=tuple(self.classes[place] for place in places), shares=self.shares[places])


def owners(annotated: Mapping[int, str], count: int) -> list[int]:
    """For each frame the annotated frame that is nearest, of two the earlier."""
    frames = sorted(annotated)
    return [min(frames, key=lambda origin: (abs(origin - index), origin)) for index in range(count)]


def stale(votes: Mapping[int, Votes], annotated: Mapping[int, str], frames: range, count: int) -> dict[int, list[int]]:
    """The frames of a range without up-to-date labels, by the annotated frame that gives them.

    A frame is up to date if its labels came from its nearest annotated frame as that is annotated now.
    """
    groups: dict[int, list[int]] = {}
    for index, origin in enumerate(owners(annotated, count) if annotated else []):
        vote = votes.get(index)
        fresh = vote is not None and (vote.origin, vote.version) == (origin, annotated[origin])
        if index in frames and index != origin and not fresh:
            groups.setdefault(origin, []).append(index)
    return groups


class Chains:
    """Labels from an annotated frame to those before or behind it, by the registered probe `propagation`.

    The last few can go on where they were.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._open: OrderedDict[tuple[int, str, int], tuple[int, Iterator[tuple[int, Votes]]]] = OrderedDict()

    def run(
        self, origin: int, version: str, labels: Tensor, step: int, wanted: Sequence[int]
    ) -> Iterator[tuple[int, Votes]]:
        """The frames wanted, in the direction of `step` (1 or -1), with their votes.

        Args:
            labels: of the origin, int64 [H, W], 255 where nothing is known; a chain that goes on has its own.
        """
        key = (origin, version, step)
        place, frames = self._open.pop(key, (origin, None))  # a thread that has it has it alone
        if frames is None or (wanted[0] - place) * step <= 0:
            place, frames = origin, self._frames(origin, version, labels, step)
        left = set(wanted)
        try:
            while left:
                place, votes = next(frames)
                if place in left:
                    left.remove(place)
                    if not left:
                        self._keep(key, place, frames)
                    yield place, votes
        except GeneratorExit:  # whoever asked stops here; what failed is not gone on with
            self._keep(key, place, frames)
            raise

    def _keep(self, key: tuple[int, str, int], place: int, frames: Iterator[tuple[int, Votes]]) -> None:
        self._open[key] = place, frames
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)

    def _frames(self, origin: int, version: str, labels: Tensor, step: int) -> Iterator[tuple[int, Votes]]:
        store, count = self._store, len(self._store.source.items)
        factor = store.factor(origin)
        pixels = store.get(origin).pooled(factor)
        axes = principal_axes(pixels, CHANNELS)
        cells = nearest(labels, (pixels.shape[-2], pixels.shape[-1]))
        classes = [int(i) for i in cells.unique() if i != IGNORE]
        targets = torch.full_like(cells, -1)
        for place, label in enumerate(classes):
            targets[cells == label] = place
        probe = cast(Probe, registry().create("probe", "propagation", **OPTIONS))
        with blamed("probe", "propagation"), torch.no_grad():
            probe.partial_fit(_projected(pixels, axes), targets[None])
        for index in range(origin + step, count if step > 0 else -1, step):
            if 0 <= index + step < count:
                store.prefetch(index + step)
            with blamed("probe", "propagation"), torch.no_grad():
                shares = probe.predict(_projected(store.get(index).pooled(factor), axes))[0]
            require_finite("The prediction of the probe 'propagation'", votes=shares)
            yield index, Votes(origin, version, tuple(classes), shares.half())


def principal_axes(pixels: Tensor, count: int) -> Tensor | None:
    """The directions [D, count] that keep most of the cosines between features [1, D, h, w]; None: D is no more."""
    if pixels.shape[1] <= count:
        return None
    rows = functional.normalize(pixels[0].flatten(1).double(), dim=0)
    axes: Tensor = torch.linalg.eigh(rows @ rows.T)[1][:, -count:]
    return axes.float()


def _projected(pixels: Tensor, axes: Tensor | None) -> DenseFeatures:
    if axes is not None:
        pixels = torch.einsum("bdhw,dc->bchw", functional.normalize(pixels, dim=1), axes)
    return DenseFeatures(pixels, pixels)


def write_votes(path: Path, votes: Mapping[int, Votes]) -> None:
    """Write propagated labels; raises FileError as `dense_ctx.data.cache.write_shard`."""
    facts = {str(index): [v.origin, v.version, list(v.classes)] for index, v in votes.items()}
    write_shard(path, {str(index): v.shares for index, v in votes.items()}, {"votes": json.dumps(facts)}, sync=False)


def read_votes(path: Path) -> dict[int, Votes]:
    """Read them back; raises FileError, ValueError, KeyError, TypeError: damaged."""
    shard = Shard(path)
    votes = {}
    for index, (origin, version, classes) in dict(json.loads(shard.metadata["votes"])).items():
        one = Votes(int(origin), str(version), tuple(map(int, classes)), shard.tensor(index))
        if one.shares.ndim != 3 or len(one.shares) != len(classes) or not bool(one.shares.isfinite().all()):
            raise ValueError(f"frame {index} has labels {list(one.shares.shape)} of {len(classes)} classes")
        votes[int(index)] = one
    return votes
