"""Build registered parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from .gateway import gateway
from .interfaces import Backbone, Decoder
from .persistence.file_args import check_file_args
from .persistence.links import opening
from .plugins import registry


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
    """`Backbone.identity` of a registered backbone with these arguments."""
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
