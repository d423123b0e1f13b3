"""A clip that pairs of frames are read from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dense_ctx.data import Clip
from dense_ctx.data.video import Video
from dense_ctx.errors import FileError
from dense_ctx.images import open_image

from .crops import scaled

if TYPE_CHECKING:
    from .sampling import Sampling


class Source:
    """A clip that can be read at any place; frames are made smaller once and kept while there is room."""

    def __init__(self, clip: Clip, sampling: Sampling) -> None:
        self.clip, self.name, self.sampling = clip, clip.name, sampling
        self._frames = clip.frames
        self._video = None if clip.video is None else Video(clip.video)
        self.length = len(self._frames) if self._video is None else len(self._video)
        if self.length <= sampling.gap[0]:
            raise FileError(f"{clip.name} has {self.length} frame(s); a gap of {sampling.gap[0]} needs more")
        self.check()

    def check(self) -> None:
        """Decode the first pair, so that a broken file is found before training."""
        first = self.read(0, self.sampling.gap[0])[0]
        self.bytes = self.length * first.numel()  # of all its frames, made smaller

    def read(self, start: int, gap: int) -> dict[int, Tensor]:
        """Frames [3, H, W] uint8 by number, `start` and `start + gap` among them.

        Raises:
            FileError: one of them cannot be decoded.
        """
        if self._video is None:
            pictures = {i: np.array(open_image(self._frames[i]).convert("RGB")) for i in (start, start + gap)}
        else:
            frames = self._video.frames(start, gap + 1)
            pictures = {i: np.array(picture) for i, picture in enumerate(frames, start)}
            if len(pictures) <= gap:
                raise FileError(f"{self.name} ends at frame {start + len(pictures) - 1}, before frame {start + gap}")
        return {i: self._small(torch.from_numpy(picture).permute(2, 0, 1)) for i, picture in pictures.items()}

    def read_all(self) -> Iterator[tuple[int, Tensor]]:
        """Frames with their numbers in one pass, up to the first damaged one."""
        if self._video is not None:
            with suppress(FileError):
                for number, picture in enumerate(self._video):
                    yield number, self._small(torch.from_numpy(np.array(picture)).permute(2, 0, 1))

    def _small(self, frame: Tensor) -> Tensor:
        side = min(frame.shape[1:])
        if side <= self.sampling.frame_side:
            return frame.contiguous()
        return scaled(frame[None].float(), self.sampling.frame_side)[0].round().clamp(0, 255).to(torch.uint8)
