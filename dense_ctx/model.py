"""DenseModel: a backbone and a decoder, from an image of any size to a feature vector for every pixel."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import torch
from torch import Tensor, nn

from . import images as image_io
from .config import ModelConfig, Part
from .create import create_backbone, create_decoder, placed
from .errors import InputError
from .gateway import gateway
from .images import ImageLike
from .interfaces import Backbone, Decoder, DenseFeatures, Features, Size, Unchecked
from .numerics import assuming, require_finite
from .plugins import blamed, registry
from .tiling import tiled_forward

if TYPE_CHECKING:
    from typing_extensions import Self

ImageList: TypeAlias = "list[ImageLike] | tuple[ImageLike, ...]"


class DenseModel(nn.Module):
    """A frozen backbone and a decoder.

    The backbone stays in eval mode, also inside `train()`, and has no gradients unless `unfreeze` allows them.

    Args:
        backbone, decoder: the two modules.
        model_config: names and arguments of the parts, for `save_pretrained`; `from_parts` sets it.
    """

    def __init__(self, backbone: Backbone, decoder: Decoder, model_config: ModelConfig | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        decoder.image_mean, decoder.image_std = backbone.mean, backbone.std
        self.model_config = model_config
        self.backbone.requires_grad_(False)
        # channels last in memory: the same values, convolutions up to three times as fast on a CPU. Not on Apple's GPU,
        # where several releases of PyTorch compute some of these convolutions wrongly
        if not torch.backends.mps.is_available():
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    module.to(memory_format=torch.channels_last)
        self.eval()

    @classmethod
    @gateway
    def from_parts(
        cls,
        backbone: str | Part | Backbone,
        decoder: str | Part | Decoder = "upsample",
        *,
        backbone_args: dict[str, Any] | None = None,
        decoder_args: dict[str, Any] | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Join a backbone and a decoder, by name or as modules; on `device` and in `dtype`, if they are given.

        A model of modules runs and trains; only one built from names can be saved.
        """
        encoder = Part(backbone, backbone_args or {}) if isinstance(backbone, str) else backbone
        head = Part(decoder, decoder_args or {}) if isinstance(decoder, str) else decoder
        if isinstance(encoder, Part):
            with placed(device, dtype):
                backbone = create_backbone(encoder.name, **encoder.args)
            encoder = replace(encoder, args=backbone.stored_args(encoder.args, whole=False))
        if isinstance(head, Part):
            decoder = create_decoder(head.name, cast(Backbone, backbone), **head.args)
        config = ModelConfig(encoder, head) if isinstance(encoder, Part) and isinstance(head, Part) else None
        model = cls(cast(Backbone, backbone), cast(Decoder, decoder), config)
        return model.to(device=device, dtype=dtype)

    @gateway
    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> Path:
        """Write a model folder; options as `dense_ctx.persistence.checkpoint.save`."""
        from .persistence import checkpoint

        return checkpoint.save(self, save_directory, **options)

    @classmethod
    @gateway
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **options: Any) -> DenseModel:
        """Open a folder, a short name ("lila-b14") or a Hub repository ("owner/name"), in eval mode.

        Args:
            options: revision, token, device, dtype ...: see `dense_ctx.persistence.hub.load`, also for the errors.
        """
        from .persistence import hub

        return hub.load(name_or_path, **options)

    @gateway
    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish to "owner/name" in one commit, keeping an existing card; returns the commit's URL.

        Options are those of `dense_ctx.persistence.hub.push` and of `save_pretrained`.

        Raises:
            WeightsError: no access, or no connection.
            ConfigError: it is built on a model of this machine only, and `standalone` is not set.
        """
        from .persistence import hub
        from .persistence.links import refuse_local_links

        refuse_local_links(self, bool(options.get("standalone")))
        return hub.push(self.save_pretrained, repo_id, **options)

    @gateway
    def export(
        self, path: str | os.PathLike[str], format: str = "onnx", *, size: Size | str = "dynamic",
        image: ImageLike | None = None, **options: Any,
    ) -> Path:  # fmt: skip
        """Write one file for programs without dense_ctx, checked against this model; extra "onnx".

        It gives the features, or what a trained head predicts; arguments and errors: `dense_ctx_export.export`.
        """
        return cast(Path, registry().create("exporter", format, **options)(self, Path(path), size=size, image=image))

    @property
    def dim(self) -> int:
        """Channels of a pixel feature."""
        return self.decoder.dim

    @property
    def device(self) -> torch.device:
        """Where the backbone's weights are."""
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of images and features: the decoder's floating-point type, the backbone's where it has no parameters."""
        last = reversed([*self.backbone.children()])  # of a saved model as the backbone, its decoder
        return next(p.dtype for part in (self.decoder, *last, self.backbone) for p in part.parameters())

    def train(self, mode: bool = True) -> Self:
        """Set the decoder's mode; the backbone stays in eval, so that BatchNorm's statistics do not change."""
        super().train(mode)
        self.backbone.eval()
        return self

    @gateway
    def unfreeze(self, *prefixes: str) -> list[str]:
        """Let the backbone's parameters whose names start with one of `prefixes` train; returns their names.

        They are stored in the checkpoint from then on.
        """
        parameters = {}
        for prefix in prefixes:
            inside = prefix.rstrip(".") + "."
            matching = {n: p for n, p in self.backbone.named_parameters() if n == prefix or n.startswith(inside)}
            if not matching:
                names = ", ".join(self.backbone.blocks()) or ", ".join(n for n, _ in self.backbone.named_children())
                raise InputError(f"The backbone has no parameters under {prefix!r}. Its parts: {names}")
            parameters.update(matching)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        return list(parameters)

    def encode(self, images: Tensor) -> tuple[Features, Tensor]:
        """Run the backbone on [B, 3, H, W] in [0, 1]; returns its features and its input, normalised and padded."""
        if not self.training:
            images = image_io.check_batch(images)
        backbone = self.backbone
        images = image_io.to_device(images, self.device)
        padded = image_io.prepare(images, backbone.mean, backbone.std, backbone.stride, self.dtype)
        needs_gradient = padded.requires_grad or any(p.requires_grad for p in backbone.parameters())
        part = self.model_config.backbone.name if self.model_config else backbone
        with torch.set_grad_enabled(torch.is_grad_enabled() and needs_gradient), blamed("backbone", part):
            return backbone(padded), padded

    def decode(
        self,
        features: Features,
        padded: Tensor,
        image_size: Size,
        size: Size | None = None,
        decoder: nn.Module | None = None,
    ) -> Tensor:
        """Run the decoder (or another one) and crop the padding: [B, dim, *size] for images of `image_size`."""
        height, width = size or image_size
        # the padded image at the scale of `size`: exact at the image's own size, within half a cell otherwise
        full = (
            max(height, round(height * features.image_size[0] / image_size[0])),
            max(width, round(width * features.image_size[1] / image_size[1])),
        )
        run = self.decoder if decoder is None else decoder
        part = self.model_config.decoder.name if self.model_config else run
        with blamed("decoder", part):
            return cast(Tensor, run(features, padded, full))[:, :, :height, :width]

    @overload
    def forward(
        self, images: ImageLike, *, size: Size | None = None, max_memory: str | int | None = None
    ) -> DenseFeatures: ...
    @overload
    def forward(
        self, images: ImageList, *, size: Size | None = None, max_memory: str | int | None = None
    ) -> list[DenseFeatures]: ...
    @gateway
    def forward(
        self, images: ImageLike | ImageList, *, size: Size | None = None, max_memory: str | int | None = None
    ) -> DenseFeatures | list[DenseFeatures]:
        """Dense features of one image, a batch, or a list of images of different sizes.

        They carry gradients in `train()` and for an image that requires gradients.

        Args:
            images: a tensor [B, 3, H, W] in [0, 1]; or one image (path, PIL, array [H, W, 3], tensor [3, H, W]);
                or a list of such images, which gives a list.
            size: (h, w) of the pixel grid; default the image's own.
            max_memory: "2GB" or a number of bytes: large images are tiled to stay within it (`dense_ctx.tiling`), and
                refused if that changes the features; "2GB approximate" allows a change.

        Returns:
            DenseFeatures with pixels [B, dim, H, W], patches [B, C, h, w], cls [B, C] or None, and the image.

        Raises:
            FileError, InputError: an image that cannot be read or is not one; see `dense_ctx.images.load`.
            MemoryBudgetError: max_memory is too small for the result and the smallest window, or the receptive field
                exceeds a window.
            NonFiniteError: in eval mode, features that are NaN or infinite; on an accelerator when they are first read.
        """
        if isinstance(images, (list, tuple)):
            return [self.forward(image, size=size, max_memory=max_memory) for image in images]
        batch = images if isinstance(images, Tensor) and images.ndim == 4 else image_io.load(images)[None]
        if size is not None and min(size) < 1:
            raise InputError(f"size={size} is (h, w), each at least 1")
        graph = torch.is_grad_enabled() and (self.training or batch.requires_grad)
        if max_memory is not None:
            if graph:
                raise InputError(
                    "max_memory bounds a prediction, and gradients keep every window: call model.eval() and detach "
                    "the image, or leave max_memory out"
                )
            return tiled_forward(self, batch, max_memory, size)
        # an accelerator is waited for where values are read
        late = not (self.training or self.device.type == "cpu" or torch.compiler.is_compiling())
        with torch.set_grad_enabled(graph), assuming() if late else nullcontext():
            features, padded = self.encode(batch)
            pixels = self.decode(features, padded, (batch.shape[-2], batch.shape[-1]), size)
        extent = (batch.shape[-2] / padded.shape[-2], batch.shape[-1] / padded.shape[-1])
        result = DenseFeatures(pixels, features.maps[-1], features.cls, extent, batch)
        if self.training or torch.compiler.is_compiling():
            return result

        def check() -> None:
            if batch.device.type != "cpu":  # else encode has
                image_io.check_batch(batch)
            require_finite(
                f"The features of {type(self.backbone).__name__} and {type(self.decoder).__name__} in {self.dtype}",
                "The image holds none: look at the weights, or use float32",
                patches=result.patches, cls=result.cls, pixels=result.pixels,
            )  # fmt: skip

        if late:
            return Unchecked(result, check)
        check()
        return result


class AutoDenseModel:
    """Opens models by short name, Hub repository or folder; builds new ones from parts."""

    from_parts = DenseModel.from_parts
    from_pretrained = DenseModel.from_pretrained
