"""What all model classes share: opened, saved and pushed by dense_ctx, strictly and without code of a repository."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from typing_extensions import Self

from dense_ctx.errors import InputError
from dense_ctx.model import DenseModel
from dense_ctx.persistence import checkpoint

from .configuration import DenseConfig

HUB = ("revision", "cache_dir", "local_files_only", "token")
# what Auto classes and pipelines always pass, with the values that change nothing
_EMPTY: dict[str, tuple[Any, ...]] = {
    "trust_remote_code": (None, False), "device_map": (None,),
    "quantization_config": (None,),
    "force_download": (None, False), "proxies": (None,), "subfolder": (None, ""), "use_safetensors": (None, True),
    "low_cpu_mem_usage": (None, True, False), "weights_only": (None, True),
}  # fmt: skip


class Opened(PreTrainedModel):
    """A model of transformers around a DenseModel, whose tensors have the names of the folder's.

    The backbone is frozen but for what the model's folder stores of it, and stays in eval mode.
    """

    dense: DenseModel
    config_class = DenseConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = False

    def __init__(self, config: DenseConfig, dense: DenseModel | None = None) -> None:
        super().__init__(config)
        if dense is None:
            parts = config.parts()
            dense = checkpoint.build(parts, "DenseConfig", random=False)
        self.__dict__["dense"] = dense  # not a submodule: its own are, below
        self.backbone: nn.Module = dense.backbone
        self.decoder: nn.Module = dense.decoder
        self.eval()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: parts initialise themselves."""

    def train(self, mode: bool = True) -> Self:
        """Set the decoder's mode; the backbone stays in eval."""
        super().train(mode)
        if "dense" in self.__dict__:
            self.dense.train(mode)
        return self

    @classmethod
    def open(cls, name: str | os.PathLike[str], config: DenseConfig, options: dict[str, Any]) -> Self:
        """The model of a folder or repository; options: revision, cache_dir, local_files_only, token, dtype."""
        return cls(config, DenseModel.from_pretrained(name, **options))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *, config: DenseConfig | None = None, **kwargs: Any
    ) -> Self:
        """Open a folder or a Hub repository that dense_ctx wrote.

        Args:
            config: as read already. kwargs: revision, cache_dir, local_files_only, token; dtype ("auto": the
                saved one); keys of DenseConfig. What else transformers takes is refused.

        Raises:
            InputError: an option that would have no effect, such as other parts or another number of classes than the
                folder's. Others: `dense_ctx.persistence.hub.load`.
        """
        hub = {key: value for key in HUB if (value := kwargs.pop(key, None)) is not None}
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        dtype = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
        for key in [key for key in kwargs if key.startswith("_") or key == "adapter_kwargs"]:
            del kwargs[key]
        for key, idle in _EMPTY.items():
            if (value := kwargs.pop(key, None)) not in idle:
                raise InputError(f"{key}={value!r:.80} is not for models of dense_ctx: leave it out")
        stored = cls.config_class.from_pretrained(pretrained_model_name_or_path, trust_remote_code=False, **hub)
        config = copy.deepcopy(stored) if config is None else config
        fields = config.to_dict()
        for key, value in kwargs.items():
            if key not in fields:
                raise InputError(f"{key}={value!r:.80} is neither an option of from_pretrained nor of DenseConfig")
        config.update(kwargs)
        _require_same(config, stored)
        model = cls.open(pretrained_model_name_or_path, config, hub)
        model.config.name_or_path = str(pretrained_model_name_or_path)
        return (model if dtype in (None, "auto") else model.to(dtype)).eval()

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write dense_ctx's own folder, which `dense_ctx.AutoDenseModel` opens too.

        Args:
            kwargs: standalone, metrics, trained_with, license, dtype: see `dense_ctx.DenseModel.save_pretrained`.

        Raises:
            InputError: push_to_hub: `model.dense.push_to_hub` publishes. A state_dict that is not the model's own.
        """
        if push_to_hub:
            raise InputError("push_to_hub=True: publish with model.dense.push_to_hub(repository)")
        own = self.state_dict()
        for key, value in (kwargs.pop("state_dict", None) or {}).items():
            if key not in own or not torch.equal(value.to(own[key]), own[key]):
                raise InputError(f"state_dict: {key} is not the model's own, which is saved: load_state_dict it first")
        for key in ("is_main_process", "safe_serialization", "max_shard_size", "save_function"):
            kwargs.pop(key, None)  # of the Trainer
        self.dense.save_pretrained(save_directory, **kwargs)


def _require_same(config: DenseConfig, stored: DenseConfig) -> None:
    """Refuse a configuration that says other parts or classes than the folder has, which it does not change."""
    saved = stored.to_dict()
    for key in ("backbone", "decoder", "output"):
        if (value := config.to_dict()[key]) != saved[key]:
            raise InputError(
                f"{key}={value!r:.80} would have no effect on a saved model: leave it out, or build a new one with "
                "from_config"
            )
    labels, classes = len(config.id2label or ()), len(stored.id2label or ())
    if labels != classes:
        raise InputError(
            f"{labels} labels (num_labels, id2label), where the saved model has {classes}: "
            "leave them out, or train a new head (from_config)"
        )
