"""Models that are built on other saved models: what refers to what, and what may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from ..model import DenseModel

_chain: ContextVar[tuple[Path, ...]] = ContextVar("folders of the models being opened, each built on the next")


def opening() -> Path | None:
    """The folder of the model that is being opened: names of models in its configuration may be relative to it."""
    chain = _chain.get(())
    return chain[-1] if chain else None


@contextmanager
def opened(folder: Path) -> Iterator[None]:
    """Within this context the model of `folder` is being opened.

    Raises:
        CheckpointError: it is already: the chain refers to itself.
    """
    chain, folder = _chain.get(()), folder.resolve()
    if folder in chain:
        names = " -> ".join(map(str, (*chain[chain.index(folder) :], folder)))
        raise CheckpointError(
            f"The model refers to itself: {names}. One of them was saved or copied over a model that it is built on: "
            "put the older one back, and save with standalone=True where a model must not depend on others"
        )
    token = _chain.set((*chain, folder))
    try:
        yield
    finally:
        _chain.reset(token)


def is_whole(model: DenseModel, standalone: bool = False) -> bool:
    """Whether a checkpoint of the model holds all tensors of its backbone."""
    return standalone or model.backbone.source is None


def refuse_own_link(model: DenseModel, folder: Path, standalone: bool = False) -> None:
    """Refuse to save a model over one that it is built on.

    Raises:
        ConfigError: `folder` is that of a model in its chain, and the checkpoint does not hold everything.
    """
    if not is_whole(model, standalone) and folder.resolve() in {link.folder for link in model.backbone.links}:
        raise ConfigError(
            f"The model is built on the one in {folder}: saved there, it would refer to itself. Choose another folder, "
            "or store everything with standalone=True"
        )


def refuse_local_links(model: DenseModel, standalone: bool = False) -> None:
    """Refuse to publish a model that only this machine could open.

    Raises:
        ConfigError: its chain has a local folder, and the checkpoint does not hold everything.
    """
    local = [link.name for link in model.backbone.links if link.local]
    if local and not is_whole(model, standalone):
        raise ConfigError(
            f"The model is built on {local[0]}, a folder of this machine, so nobody else could open it. Publish that "
            "one first and build on its Hub name, or store everything with standalone=True"
        )
