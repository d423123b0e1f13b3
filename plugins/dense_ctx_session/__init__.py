"""Session: annotate images or a clip with strokes, and have the rest predicted at once. It registers no part."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .session import Session as Session
    from .source import Item as Item
    from .source import Source as Source

__all__ = ["Item", "Session", "Source"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .session import Session  # not before: they load torch
    from .source import Item, Source

    return {"Item": Item, "Session": Session, "Source": Source}[name]
