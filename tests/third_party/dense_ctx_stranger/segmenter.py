"""A segmenter: tiles."""

import torch
from dense_ctx_dip.segmenters import Segmenter


class Tiles(Segmenter):
    """Equal tiles, whatever the image shows.

    Args:
        rows, columns: how many.
    """

    def __init__(self, rows: int = 2, columns: int = 2) -> None:
        self.rows, self.columns = rows, columns

    def __call__(self, image, features, size):
        """Segments int64 [*size], ids from 0."""
        down = torch.arange(size[0]) * self.rows // size[0]
        across = torch.arange(size[1]) * self.columns // size[1]
        return down[:, None] * self.columns + across
