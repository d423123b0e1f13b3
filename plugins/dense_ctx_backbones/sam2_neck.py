"""SAM 2's image encoder with its neck (Ravi et al. 2024, arXiv 2408.00714): one map of 256 channels at stride 16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from dense_ctx.errors import InputError, WeightsError
from dense_ctx.interfaces import Backbone, Features
from dense_ctx.persistence.links import may_read_paths

from .hf_files import hf_folder
from .weights import hub_error

PUBLISHED = "facebook/sam2.1-hiera-base-plus"
_SIDE, _STRIDE = 1024, 16
_BASE_PLUS: dict[str, Any] = {
    "backbone_channel_list": [896, 448, 224, 112],
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 112,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 3, 16, 3],
        "embed_dim_per_stage": [112, 224, 448, 896],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "window_size_per_stage": [8, 4, 14, 7],
        "global_attention_blocks": [12, 16, 20],
        "window_positional_embedding_background_size": [14, 14],
    },
}


def _is_permitted_repository(repo: Any) -> bool:
    """Of a file: the published one, or from a folder of this machine any, which is not fetched unless the user says."""
    return repo == PUBLISHED or (may_read_paths() and isinstance(repo, str) and len(repo) < 4096)


class Sam2Neck(Backbone):
    """Hiera and the feature pyramid above it, transformers' network; the coarsest map that SAM 2's decoder reads.

    Args:
        repo: a Hub repository or a folder with config.json.
        weights: "pretrained" (of that repository or folder) or None (random).
        config: keyword arguments of transformers' Sam2VisionConfig, for an untrained network of another shape.

    Raises:
        InputError: other weights. WeightsError: they cannot be had.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "repo": _is_permitted_repository, "weights": frozenset(("pretrained",)), "config": frozenset(),  # null alone
    }  # fmt: skip

    def __init__(
        self,
        repo: str = PUBLISHED,
        weights: str | None = "pretrained",
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        from transformers import Sam2VisionConfig, Sam2VisionModel

        if weights not in ("pretrained", None) or (config is not None and weights is not None):
            raise InputError(f"weights={weights!r}: expected 'pretrained', or null, with which a config may be given")
        if weights is None:
            self.net = Sam2VisionModel(Sam2VisionConfig(**(_BASE_PLUS if config is None else config)))
        else:
            from transformers import Sam2Model

            try:
                # the whole model, so that transformers' own renaming applies; its encoder stays
                whole, report = Sam2Model.from_pretrained(  # nosec B615  # a local folder
                    hf_folder(repo, None, True), output_loading_info=True, trust_remote_code=False, weights_only=True
                )
            except OSError as error:
                raise hub_error(error, repo, "sam2-base-plus-neck") from error
            faults = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind]]
            faults = [key for key in faults if "vision_encoder" in key]
            if faults:
                raise WeightsError(f"The weights of {repo} do not fit SAM 2's encoder: {', '.join(sorted(faults)[:4])}")
            self.net, self.source = whole.vision_encoder, repo
        self.dims, self.strides, self.stride = (self.net.config.fpn_hidden_size,), (_STRIDE,), 32
        self.mean, self.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        self.image_size = (_SIDE, _SIDE)
        self.eval()

    @classmethod
    def random_args(cls) -> dict[str, Any]:
        """weights=None."""
        return {"weights": None}

    def forward(self, images: Tensor) -> Features:
        """Encode normalised images [B, 3, H, W], H and W multiples of 32."""
        size = (images.shape[-2], images.shape[-1])
        pyramid = self.net(images).fpn_hidden_states
        coarsest = min(pyramid, key=lambda item: item.shape[-1])
        return Features((coarsest,), coarsest.mean((2, 3)), size)
