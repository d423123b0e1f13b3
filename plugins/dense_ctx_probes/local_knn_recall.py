"""What local propagation cannot do: find an object again that left the view, or moved out of the window.

The annotated frames' cells vote wherever they lie, for the cells of a frame that they resemble clearly more than
anything near does. After the global matching of FEELVOS (Voigtlaender et al. 2019), here without training.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CELLS = 4096  # of the bank, as many of each class


class Recall:
    """A bank of the annotated frames' cells.

    Args:
        keys: of unit length, [R, h, w, C]. values: their labels, [R, h, w, K]; a cell of sum 0 is not annotated.
        margin: by which the mean cosine of its neighbours in the bank must exceed that of those nearby, for a cell to
            take the bank's vote.
    """

    def __init__(self, keys: Tensor, values: Tensor, margin: float) -> None:
        flat, self.margin = values.flatten(0, 2), margin
        annotated = flat.sum(1) > 0
        first = flat.argmax(1)
        classes = [((first == label) & annotated).nonzero()[:, 0] for label in range(flat.shape[1])]
        classes = [group for group in classes if len(group)]
        room = max(1, _CELLS // len(classes))
        cells = torch.cat([g[torch.arange(min(room, len(g)), device=g.device) * len(g) // min(room, len(g))]
                           for g in classes])  # fmt: skip
        self.keys, self.values = keys.flatten(0, 2)[cells], flat[cells]

    def vote(self, query: Tensor, labels: Tensor, cosines: Tensor, topk: int, temperature: float) -> Tensor:
        """Soft labels [h, w, K] of a frame's keys [h, w, C], given those of its surroundings.

        Args:
            labels: the surroundings' votes, [h, w, K]. cosines: the voters' mean cosine, [h, w].
        """
        best, index = (query.flatten(0, 1) @ self.keys.T).topk(min(topk, len(self.keys)), dim=1)
        weights = (best / temperature).softmax(1)
        votes = torch.einsum("qk,qkc->qc", weights, self.values[index])
        clearly = best.mean(1) > cosines.flatten() + self.margin
        return torch.where(clearly[:, None], votes, labels.flatten(0, 1)).view_as(labels)


def certainty(labels: Tensor, cosines: Tensor) -> Tensor:
    """How sure each class's votes are, [K]: the mean cosine between the cells that it wins and their voters.

    0 where a class wins no cell: the object is not seen.

    Args:
        labels: soft, [h, w, K]. cosines: [h, w]; -inf where nobody votes.
    """
    winner = labels.argmax(2).flatten()
    both = torch.stack([cosines.clamp_min(0).flatten(), torch.ones_like(winner, dtype=cosines.dtype)])
    sums, counts = both.new_zeros(2, labels.shape[2]).index_add_(1, winner, both)
    means: Tensor = sums / counts.clamp_min(1)
    return means
