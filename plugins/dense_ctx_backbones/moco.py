"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057): ViT-B/16, whose weights are not on the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dense_ctx.errors import WeightsError
from dense_ctx.persistence.file_args import LAYERS, WEIGHTS

from .timm_backbone import TimmBackbone

_URL = "https://dl.fbaipublicfiles.com/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar"


class MoCoV3(TimmBackbone):
    """The base encoder, without its projector.

    Args:
        weights: the published file (vit-b-300ep.pth.tar), or None (random); "pretrained" is refused, with the address.
        layers, norm: as `TimmBackbone`.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {"weights": WEIGHTS, "layers": LAYERS, "norm": bool}

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = "pretrained",
        layers: Sequence[int] | None = None,
        norm: bool = True,
    ) -> None:
        if weights == "pretrained":
            raise WeightsError(
                f"MoCo v3's weights are on no Hub, and nothing is downloaded from elsewhere: get {_URL} and give "
                "mocov3-b16(weights=vit-b-300ep.pth.tar)"
            )
        # DINO's is the same network with the same statistics of images
        prefix = None if weights is None else "state_dict.module.base_encoder."
        super().__init__("vit_base_patch16_224.dino", weights, layers, norm, prefix=prefix)
