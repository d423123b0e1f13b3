"""DenseConfig: config.json of a model folder, or of a predictor's, as transformers reads it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from dense_ctx.config import ModelConfig, Output
from dense_ctx.errors import ConfigError


class DenseConfig(PreTrainedConfig):
    """The parts and the output of a model (`dense_ctx.config.ModelConfig`), as attributes.

    backbone, decoder: {"name": ..., "args": {...}}. output: what the decoder's channels are; None: features.
    id2label: channel of the scores -> name of its class, of a trained head and of a predictor.
    out_indices: maps that `AutoBackbone` returns, of those of the backbone; None: all.
    """

    model_type = "dense_ctx"
    keys_to_ignore_at_inference = ("label_ids",)

    def __init__(self, **kwargs: Any) -> None:
        # null where transformers' own class would put "cls_token", a list of two labels and the like
        self.backbone: dict[str, Any] | None = kwargs.pop("backbone", None)
        self.decoder: dict[str, Any] | None = kwargs.pop("decoder", None)
        self.output: dict[str, Any] | None = kwargs.pop("output", None)
        self.out_indices: list[int] | None = kwargs.pop("out_indices", None)
        if self.output is not None and self.output.get("classes") and not kwargs.get("id2label"):
            kwargs["id2label"] = dict(enumerate(self.output["classes"]))
            kwargs["label2id"] = {name: index for index, name in kwargs["id2label"].items()}
        super().__init__(**kwargs)
        classes = list((self.output or {}).get("classes") or ())
        if classes and len(self.id2label or ()) != len(classes):
            raise ConfigError(
                f"{len(self.id2label or ())} labels (num_labels, id2label) for an output of {len(classes)} classes: "
                "leave them out, the classes name them"
            )

    def parts(self) -> ModelConfig:
        """The parts to build a new model of.

        Raises:
            ConfigError: it names none, as that of a predictor, or wrong ones.
        """
        if self.backbone is None or self.decoder is None:
            raise ConfigError("This DenseConfig names no backbone and decoder: give both, or open a saved model")
        data = {"format_version": 1, "backbone": self.backbone, "decoder": self.decoder, "output": self.output}
        return ModelConfig.from_dict(data, "DenseConfig")

    def head(self) -> Output | None:
        """The output; None for features."""
        return self.parts().output
