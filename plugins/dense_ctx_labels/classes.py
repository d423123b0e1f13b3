"""Classes: names and colours of the ids of a label map."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from dense_ctx.errors import InputError, shortened
from dense_ctx.gateway import gateway

Colour: TypeAlias = tuple[int, int, int]
BACKGROUND_NAMES = ("background", "_background_", "__background__")  # the second is labelme's
IGNORE_NAME = "__ignore__"  # labelme's name for pixels that are not annotated; no class may have it
LIMIT = 65535  # most classes: 16 bits without the value for ignored pixels
_LONGEST = 200  # letters of a name


@dataclass(frozen=True)
class Classes:
    """Names and colours of classes; the id of a class is its index.

    names: 1 to 65,535 distinct printable names of at most 200 characters, one of which may mean background.
    colours: one (R, G, B) per class, each 0 to 255; default: the palette of VOC and DAVIS.

    Raises:
        InputError: an invalid name, number of classes or colour.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...] = ()

    @gateway
    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not 1 <= len(self.names) <= LIMIT:
            raise InputError(f"A label map has 1 to {LIMIT} classes; got {len(self.names)}")
        for name in self.names:
            if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
                raise InputError(f"A class name is printable text without spaces around it; got {_quoted(name)}")
            if len(name) > _LONGEST:
                raise InputError(f"A class name has at most {_LONGEST} characters; got {_quoted(name)}")
            if name == IGNORE_NAME:
                raise InputError(f"{IGNORE_NAME!r} means pixels that are not annotated; it cannot name a class")
        if len(set(self.names)) < len(self.names):
            twice = next(name for index, name in enumerate(self.names) if name in self.names[:index])
            raise InputError(f"Class names are distinct; {_quoted(twice)} occurs twice")
        if len(several := [name for name in self.names if is_background(name)]) > 1:
            raise InputError(f"{' and '.join(map(_quoted, several[:2]))} both mean background; rename or merge one")
        colours = tuple(tuple(int(part) for part in colour) for colour in self.colours)
        if not colours:
            colours = tuple(_voc_colour(index) for index in range(len(self.names)))
        if len(colours) != len(self.names):
            raise InputError(f"Expected one colour per class; got {len(colours)} for {len(self.names)} classes")
        for colour in colours:
            if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
                raise InputError(f"A colour is (R, G, B) in 0 to 255; got {colour}")
        object.__setattr__(self, "colours", colours)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def ignore(self) -> int:
        """The value of pixels that are not annotated: 255, or 65535 with more than 255 classes."""
        return 255 if len(self) <= 255 else 65535

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of a label map: uint8, or uint16 with more than 255 classes."""
        return np.dtype(np.uint8 if len(self) <= 255 else np.uint16)

    @property
    def background(self) -> int | None:
        """Id of the background class; None if there is none."""
        return next((index for index, name in enumerate(self.names) if is_background(name)), None)

    @gateway
    def id(self, name: str) -> int:
        """Id of a class name; background is found by any of its names, `IGNORE_NAME` gives `ignore`.

        Raises:
            InputError: no class has this name; the message suggests similar ones.
        """
        if name == IGNORE_NAME:
            return self.ignore
        if name in self.names:
            return self.names.index(name)
        if is_background(name) and self.background is not None:
            return self.background
        close = difflib.get_close_matches(name, self.names, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"the classes are {listed(self.names)}"
        raise InputError(f"There is no class {_quoted(name)}; {hint}")

    def with_colours(self, colours: dict[str, Colour]) -> Classes:
        """A copy with the colours of some names replaced."""
        return replace(self, colours=tuple(colours.get(n, c) for n, c in zip(self.names, self.colours, strict=True)))


def with_background(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names without `IGNORE_NAME`, with "background" in front if no name means background."""
    names = tuple(name for name in names if name != IGNORE_NAME)
    return names if any(map(is_background, names)) else (BACKGROUND_NAMES[0], *names)


def is_background(name: str) -> bool:
    """Whether a name means background."""
    return name.lower() in BACKGROUND_NAMES


def listed(names: tuple[str, ...]) -> str:
    """The first ten names, for a message."""
    return shortened(", ".join(names[:10]), 300) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _quoted(name: object) -> str:
    return shortened(repr(name), 80)


def _voc_colour(index: int) -> Colour:
    """Colour of `dense_ctx.visualize.palette` for any id: the bits of the index, spread over R, G, B."""
    parts = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            parts[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return parts[0], parts[1], parts[2]
