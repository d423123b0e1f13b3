"""The server: the workspace of a folder, served."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dense_ctx_http import listening
from dense_ctx_labels.classes import is_background
from dense_ctx_predict import LabelClass
from dense_ctx_predict.queries import expand
from dense_ctx_session import Session
from dense_ctx_session.journal import SNAPSHOT

from dense_ctx.errors import FileError, InputError
from dense_ctx.model import DenseModel
from dense_ctx.persistence.lock import locked
from dense_ctx.visualize import palette

from .app import application
from .edits import MAX_CLASSES
from .requests import Desk
from .workspace import SESSION, Workspace

NEW_CLASSES = ("background", "object")  # of a session without others
BACKGROUND = (128, 136, 148)
COLOURS = (  # that are told apart over photographs; the page offers the same
    (229, 72, 77), (62, 139, 255), (245, 181, 30), (48, 164, 108), (171, 110, 224), (18, 181, 201), (247, 107, 21),
    (233, 61, 130),
)  # fmt: skip


@contextlib.contextmanager
def workspace_of(
    models: Mapping[str, DenseModel], source: Any, folder: Path, *, classes: Sequence[str] = (), **options: Any
) -> Iterator[Workspace]:
    """The workspace of a folder, locked: a new one, or the one that is there.

    Args:
        models: by their names. source: images or a clip, as a session takes them. classes: of a new session.
        options: of `dense_ctx_session.Session`.

    Raises:
        FileError: another process has the folder, or it has the strokes of other images. CheckpointError: it is of
            another model.
    """
    home, (model, *others) = folder / SESSION, models.values()
    with locked(folder.absolute(), f"The folder {folder}", wait=1.0), contextlib.ExitStack() as stack:
        session = stack.enter_context(contextlib.closing(_session(model, source, home, classes, options)))
        beside = [session.beside(other, **_of_features(options)) for other in others]
        workspace = Workspace(session, beside, list(models), folder)
        stack.callback(workspace.close)
        yield workspace


def _session(model: DenseModel, source: Any, home: Path, classes: Sequence[str], options: dict[str, Any]) -> Session:
    # the folder may lie among the photographs, with masks that were exported
    new = Session(model, source, classes=_coloured(classes or NEW_CLASSES), skip=[home.parent], **options)
    if not (home / SNAPSHOT).exists():
        new.save(home)
        return new
    new.close()
    session = Session.open(home, model, **_of_features(options))
    try:
        _check_same(session, new, home.parent, classes, options.get("method"))
    except BaseException:
        session.close()
        raise
    return session


def _of_features(options: dict[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("max_memory", "cache_dir") if key in options}


def _coloured(names: Sequence[str]) -> list[LabelClass]:
    """Classes with colours; beyond those of `COLOURS` the VOC palette's. Raises InputError: too many."""
    if len(names) > MAX_CLASSES:
        raise InputError(f"--classes has {len(names)} names; a session has at most {MAX_CLASSES} classes")
    table, others = palette(), iter(COLOURS)
    colours = [
        BACKGROUND if is_background(name) else next(others, tuple(table[place].tolist()))
        for place, name in enumerate(names)
    ]
    return [LabelClass(place, name, colour) for place, (name, colour) in enumerate(zip(names, colours, strict=True))]


def _check_same(session: Session, new: Session, folder: Path, classes: Sequence[str], method: str | None) -> None:
    """Refuse a session of other images than those of a new one, and options that it would not follow."""
    if session.items != new.items or session.paths != new.paths:
        raise FileError(
            f"{folder} has the strokes of other images ({session.items[0].name} ...) than those given "
            f"({new.items[0].name} ...): give the same, or name another folder, --save FOLDER"
        )
    names = [item.name for item in session.classes]
    if missing := [name for name in classes if name not in names]:
        raise InputError(
            f"--classes has {missing[0]!r}, and the session in {folder} has {', '.join(names[:20])}: add classes on "
            "the page, or name another folder, --save FOLDER"
        )
    if method is not None and new.method != session.method:
        raise InputError(
            f"--method {method}, and the session in {folder} has {session.method}: leave it out, or name another "
            "folder, --save FOLDER"
        )


def serve(workspace: Workspace, host: str, port: int, token: str | None, announce: Callable[[str], None]) -> None:
    """Serve until a signal comes; announce takes the page's address. Arguments, errors: `dense_ctx_http.listening`."""
    desk = Desk(workspace)

    def shown(address: str, token: str | None) -> None:
        announce(f"{address}/?token={token}" if token else f"{address}/")

    try:
        listening.serve(functools.partial(application, desk), host, port, token, shown, desk.leave)
    finally:
        desk.close()


def images_of(paths: Sequence[Path], folder: Path) -> Any:
    """What a session takes: one path as it is; of several, the images, but for those of the server's own folder."""
    if len(paths) == 1:
        return paths[0]
    queries = expand(paths, skip=[folder])
    if clips := [str(query.path) for query in queries if query.clip]:
        raise InputError(
            f"{clips[0]} is a clip, among {len(queries)} files: give it alone; a server has one clip or images"
        )
    return [query.path for query in queries]
