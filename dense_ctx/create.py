"""Build registered parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from .gateway import gateway
from .interfaces import Backbone, Decoder
from .persistence.file_args import check_file_args
from .persistence.links import opening
from .plugins import registry

if TYPE_CHECKING:
    import torch

# device and type of the weights that are to be read; None: as they come
placement: ContextVar[tuple[Any, Any]] = ContextVar("placement", default=(None, None))


@contextmanager
def placed(device: str | torch.device | None, dtype: torch.dtype | None) -> Iterator[None]:
    """Within the context, weights that a backbone reads go to this device in this type, one tensor after the other.

    So memory never holds a large network twice, nor in another type. Where to is the hint of `placement`, which a
    backbone may leave aside: whoever opens the model moves what is elsewhere.
    """
    token = placement.set((device, dtype))
    try:
        yield
    finally:
        placement.reset(token)


@gateway
def create_backbone(name: str, **args: Any) -> Backbone:
    """Build a registered backbone: create_backbone("dinov2-s14").

    Raises:
        UnknownNameError: no such backbone; the closest names are listed.
        WeightsError: the pretrained weights are unavailable.
    """
    return cast(Backbone, create_part("backbone", name, args))


def random_args(backbone: str) -> dict[str, Any]:
    """Arguments that build a registered backbone with random weights; see `Backbone.random_args`."""
    entry, _ = registry().get("backbone", backbone)
    target = registry().resolve(entry)
    return target.random_args() if isinstance(target, type) and issubclass(target, Backbone) else {}


def identity(backbone: str, args: Mapping[str, Any]) -> str | None:
    """`Backbone.identity` of a registered backbone for these arguments."""
    call = registry().bind("backbone", backbone, **args)
    target = call.func
    if not isinstance(target, type) or not issubclass(target, Backbone):
        return None
    return target.identity(*call.args, **call.keywords)


@gateway
def create_decoder(name: str, backbone: Backbone, **args: Any) -> Decoder:
    """Build a registered decoder to fit `backbone`."""
    return cast(Decoder, create_part("decoder", name, args, dims=backbone.dims, strides=backbone.strides))


def create_part(kind: str, name: str, args: Mapping[str, Any], /, **own: Any) -> Any:
    """Build a part; while a folder is opened, `args`, which a file gave, are checked first, and `own` are not."""
    if (folder := opening()) is not None:
        check_file_args(kind, name, args, folder)
    return registry().create(kind, name, **own, **args)
