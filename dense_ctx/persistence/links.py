"""Models that are built on other saved models: chains of references, and their restrictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from ..model import DenseModel


class _Chain(NamedTuple):
    """The models being opened: folders, each built on the next; whether one is from the Hub; allowed repositories."""

    folders: tuple[Path, ...] = ()
    published: bool = False
    allowed: tuple[str, ...] = ()


_chain: ContextVar[_Chain] = ContextVar("the models being opened", default=_Chain())  # noqa: B039  a constant


def opening() -> Path | None:
    """The folder of the model being opened; names of models in its configuration may be relative to it."""
    folders = _chain.get().folders
    return folders[-1] if folders else None


def may_fetch(repository: str) -> bool:
    """Whether to download from a Hub repository: only if the user named it, not a file of the model being opened."""
    return opening() is None or repository in _chain.get().allowed


def may_read_paths() -> bool:
    """Whether local paths are valid: not in a configuration from the Hub."""
    return not _chain.get().published


@contextmanager
def opened(folder: Path, *, published: bool = False, allow: Sequence[str] = ()) -> Iterator[None]:
    """Within this context the model of `folder` is being opened.

    Args:
        published: it is from the Hub.
        allow: further repositories that the user named.

    Raises:
        CheckpointError: it is being opened already: the chain refers to itself.
    """
    chain, folder = _chain.get(), folder.resolve()
    if folder in chain.folders:
        names = " -> ".join(map(str, (*chain.folders[chain.folders.index(folder) :], folder)))
        raise CheckpointError(
            f"The model refers to itself: {names}. One of them was saved or copied over a model that it is built on: "
            "put the older one back, and save with standalone=True where a model must not depend on others"
        )
    token = _chain.set(_Chain((*chain.folders, folder), chain.published or published, (*chain.allowed, *allow)))
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
        ConfigError: `folder` holds a model of its chain, and the checkpoint is not whole.
    """
    if not is_whole(model, standalone) and folder.resolve() in {link.folder for link in model.backbone.links}:
        raise ConfigError(
            f"The model is built on the one in {folder}: saved there, it would refer to itself. Choose another folder, "
            "or store everything with standalone=True"
        )


def refuse_local_links(model: DenseModel, standalone: bool = False) -> None:
    """Refuse to publish a model that only this machine could open.

    Raises:
        ConfigError: its chain has a local folder, and the checkpoint is not whole.
    """
    local = [link.name for link in model.backbone.links if link.local]
    if local and not is_whole(model, standalone):
        raise ConfigError(
            f"The model is built on {local[0]}, a folder of this machine, so nobody else could open it. Publish that "
            "one first and build on its Hub name, or store everything with standalone=True"
        )
