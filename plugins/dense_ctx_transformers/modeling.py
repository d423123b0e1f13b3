"""Models: features, maps of the backbone, and segmentation by a trained head or a fitted predictor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from dense_ctx_predict import Predictor
from dense_ctx_predict.head import head_channels, output_of
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import BackboneOutput, SemanticSegmenterOutput
from transformers.utils.generic import ModelOutput
from typing_extensions import Self

from dense_ctx.errors import ConfigError, InputError
from dense_ctx.images import check_batch
from dense_ctx.interfaces import resample
from dense_ctx.model import DenseModel

from .configuration import DenseConfig
from .opening import Opened

VOID = 255  # the label of a pixel that is not annotated


@dataclass
class DenseOutput(ModelOutput):
    """last_hidden_state: [B, h*w, C], the deepest map row by row. pooler_output: [B, C], or None.

    pixels: [B, dim, H, W], a vector for every pixel.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    pixels: Tensor | None = None


class DenseFeatureModel(Opened):
    """`AutoModel`: features of every pixel, and of every cell of the deepest map."""

    def forward(
        self,
        pixel_values: Tensor,
        return_dict: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> Any:
        """Features of images [B, 3, H, W] in [0, 1], of any size."""
        _refuse_outputs(output_hidden_states, output_attentions)
        features = self.dense(check_batch(pixel_values))  # a DenseModel in training looks at no values
        output = DenseOutput(features.patches.flatten(2).transpose(1, 2), features.cls, features.pixels)
        return output.to_tuple() if return_dict is False else output


class DenseBackbone(Opened):
    """`AutoBackbone`: the maps of the backbone that `config.out_indices` chooses, in that order; default all.

    channels, strides: of the maps.

    Raises:
        InputError: an index that is none of its maps.
    """

    def __init__(self, config: DenseConfig, dense: DenseModel | None = None) -> None:
        super().__init__(config, dense)
        count = len(self.dense.backbone.dims)
        indices = range(count) if config.out_indices is None else config.out_indices
        if wrong := [index for index in indices if not -count <= index < count]:
            raise InputError(f"out_indices={list(indices)}: the backbone has {count} maps, and {wrong[0]} is none")
        self.out_indices = [index % count for index in indices]
        self.stage_names = [f"map{index}" for index in range(count)]
        self.out_features = [self.stage_names[index] for index in self.out_indices]
        self.channels = [self.dense.backbone.dims[index] for index in self.out_indices]
        self.strides = [self.dense.backbone.strides[index] for index in self.out_indices]

    def forward(
        self,
        pixel_values: Tensor,
        return_dict: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> Any:
        """Maps [B, C, h, w] of images [B, 3, H, W] in [0, 1], padded to the stride at the right and below."""
        _refuse_outputs(output_hidden_states, output_attentions)
        maps = self.dense.encode(check_batch(pixel_values))[0].maps
        outputs: Any = tuple(maps[index] for index in self.out_indices)
        output = BackboneOutput(feature_maps=outputs)
        return output.to_tuple() if return_dict is False else output


class DenseForSemanticSegmentation(Opened):
    """`AutoModelForSemanticSegmentation`: a trained head, or a predictor that was fitted to examples.

    predictor: the Predictor; None for a new head that trains.
    """

    def __init__(
        self, config: DenseConfig, dense: DenseModel | None = None, predictor: Predictor | None = None
    ) -> None:
        super().__init__(config, dense)
        self.predictor = predictor
        if predictor is None and output_of(self.dense).task != "segmentation":
            raise ConfigError(f"The head predicts {output_of(self.dense).task}, and no classes")

    @classmethod
    def open(cls, name: str | os.PathLike[str], config: DenseConfig, options: dict[str, Any]) -> Self:
        """A predictor if the folder is one; otherwise a model with a trained head."""
        predictor = Predictor.from_pretrained(name, **options)
        if predictor.task != "segmentation":
            raise ConfigError(f"{name} predicts {predictor.task}, and no classes")
        return cls(config, predictor.model, predictor if predictor.context is not None else None)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> Any:
        """Logits of images [B, 3, H, W] in [0, 1]: logarithms of the probabilities, [B, K, H, W].

        Args:
            labels: whole numbers [B, H, W], channels; 255 is ignored. Gives the mean cross-entropy as loss, 0 where all
                are ignored.

        Raises:
            InputError: labels for a fitted predictor, which does not train; labels of another size, dtype or value;
                values outside [0, 1], in training too.
        """
        _refuse_outputs(output_hidden_states, output_attentions)
        if self.predictor is not None:
            if labels is not None:
                raise InputError("This predictor was fitted to examples and does not train: leave labels out")
            scores = [self.predictor.scores(image) for image in pixel_values]
            logits = torch.stack(scores).clamp_min(torch.finfo(torch.float32).tiny).log().to(pixel_values.device)
        else:
            # resizing clamps values, and a DenseModel in training looks at none
            channels = head_channels(self.dense, check_batch(pixel_values))
            classes = channels[:, : len(output_of(self.dense).classes)]
            logits = resample(classes, (pixel_values.shape[-2], pixel_values.shape[-1])).log_softmax(1)
        loss = None
        if labels is not None:
            if labels.shape != (len(logits), *logits.shape[-2:]):
                raise InputError(
                    f"labels are [B, H, W] of the images, {tuple(pixel_values.shape)}; got {tuple(labels.shape)}"
                )
            loss = _cross_entropy(logits, labels)
        output = SemanticSegmenterOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write the folder of the predictor, or of the model with its head.

        Raises:
            InputError: other names in `config.id2label` than the classes have, which would not be written.
        """
        own = [c.name for c in self.predictor.classes] if self.predictor else list(output_of(self.dense).classes)
        labels = list((self.config.id2label or {}).values())
        if labels != own:
            raise InputError(
                f"config.id2label names {labels!r:.200}, and the folder would say {own!r:.200}: give a Predictor's "
                "names in Python (names=...), a new head's in DenseConfig's output"
            )
        if self.predictor is None:
            return super().save_pretrained(save_directory, **kwargs)
        kwargs.pop("state_dict", None)
        self.predictor.save(save_directory, **kwargs)
        return None


def _refuse_outputs(hidden_states: bool | None, attentions: bool | None) -> None:
    """Named options in place of **kwargs, with which the Trainer would not divide the loss by its accumulated steps."""
    for option, value in (("output_hidden_states", hidden_states), ("output_attentions", attentions)):
        if value:
            raise InputError(
                f"{option}=True: this model returns none. Maps of the backbone: AutoBackbone, feature_maps"
            )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the labelled pixels; 0, not NaN, without any: of a batch without labels nothing is learnt."""
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(f"labels are whole numbers, channels of the scores; got {labels.dtype}")
    labelled = labels != VOID
    wrong = labels[labelled & ((labels < 0) | (labels >= logits.shape[1]))]
    if len(wrong):
        raise InputError(
            f"labels hold {int(wrong[0])}; expected 0 to {logits.shape[1] - 1}, channels of the scores, or {VOID}, "
            "not annotated"
        )
    total = functional.nll_loss(logits, labels.long(), ignore_index=VOID, reduction="sum")
    return total / labelled.sum().clamp_min(1)
