"""Labels out to files of annotation tools, and back."""

from __future__ import annotations

import errno
import io
import lzma
import re
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from dense_ctx_http.refusals import Refusal
from dense_ctx_labels.base import LabelFormat
from dense_ctx_labels.classes import is_background

from dense_ctx import registry
from dense_ctx.config import Part, parse_part
from dense_ctx.errors import FileError, InputError, PluginError, shortened

from .edits import MAX_CLASSES
from .pictures import UNLABELLED
from .workspace import EXPORTS, Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dense_ctx_labels.annotation import Annotation, AnnotationSet
    from dense_ctx_session import Session

MAX_FILES, MAX_UNPACKED = 20_000, 1 << 30
_DAMAGE = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    ValueError,
)  # fmt: skip
_FORMAT = re.compile(r"[a-z0-9-]+(\([^()]*\))?")


def formats() -> list[dict[str, Any]]:
    """The label formats: {name, title, reads, writes}; without those whose packages are missing or broken."""
    rows = []
    for entry in registry().entries("label-format"):
        try:
            kind = registry().resolve(entry)
        except PluginError:
            continue
        assert isinstance(kind, type)
        assert issubclass(kind, LabelFormat)
        rows.append({"name": entry.name, "title": kind.title, "reads": kind.reads, "writes": kind.writes})
    return rows


def export(workspace: Workspace, format: Any, model: int) -> dict[str, Any]:
    """Write the labels of all items as a format; {name, folder, files}.

    Raises:
        Refusal: no such format, or one that is not written. InputError, FileError: as `Session.export`.
    """
    if not isinstance(format, str) or not _FORMAT.fullmatch(format):
        raise Refusal(f"format={format!r:.80}", "the name of a label format", "see GET /api/formats")
    name = parse_part(format).name
    if name not in (names := [row["name"] for row in formats() if row["writes"]]):
        raise Refusal(f"format={format!r:.80}", f"one that is written: {', '.join(names)}", "choose one", 404)
    _part(format)
    folder = workspace.folder / EXPORTS / name
    if folder.exists():
        shutil.rmtree(folder)  # of another time, with files of items that are rejected now
    workspace.reader(model).export(folder, format)
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {"name": name, "folder": str(folder), "files": len(files)}


def _part(text: str) -> Part:
    """A format and its options; refused where one names a file of this machine."""
    part = parse_part(text)
    entry, _ = registry().get("label-format", part.name)
    if paths := sorted(part.args.keys() & registry().resolve(entry).path_options):
        option = f"{part.name}({paths[0]}={part.args[paths[0]]!r:.60})"
        raise Refusal(option, "no option that names a file of this machine", "leave it out, or export in Python")
    return part


def packed(workspace: Workspace, name: str) -> bytes:
    """The files of an export as one zip.

    Raises:
        Refusal: it has not been exported.
    """
    names = {row["name"] for row in formats()}
    folder = workspace.folder / EXPORTS / name
    if name not in names or not folder.is_dir():
        raise Refusal(f"the export {name!r:.40}", "one that was written", "POST /api/export first", 404)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
            archive.write(file, file.relative_to(folder).as_posix())
    return data.getvalue()


def labels_in(workspace: Workspace, data: bytes, name: str, format: str, unlabelled: str | None) -> dict[str, Any]:
    """Take labels from a file of an annotation tool, or a zip of several; {items, classes, missing}.

    Classes go by their names; those that are not there are added. Items go by the names of their images.

    Args:
        data, name: of the file. format: of the labels; "auto" for the one that recognises them.
        unlabelled: what pixels without label are, "background" or "ignore"; None: as the format says.

    Raises:
        Refusal: no labels, or for none of the items. FileError, InputError: as `LabelFormat.open`.
    """
    if not _FORMAT.fullmatch(format):
        raise Refusal(f"format={format!r:.80}", "the name of a label format", "see GET /api/formats")
    with tempfile.TemporaryDirectory(prefix="dense-ctx-labels-") as place:
        path = _unpacked(data, name, Path(place))
        part = _part(format)
        options = part.args if unlabelled is None else {**part.args, "unlabelled": unlabelled}
        try:
            form = registry().create("label-format", part.name, **options)
            try:
                return _taken(workspace, form.open(path))
            except (FileError, InputError) as error:
                sizes = {} if isinstance(error, Refusal) else _sizes(workspace.session)
                if not sizes:
                    raise
                return _taken(workspace, form.open(path, **sizes))  # a file that does not state its images' sizes
        except Refusal:
            raise
        except (FileError, InputError) as error:  # the client's file, not one of ours
            message = shortened(str(error).replace(str(path), name), 300)
            raise Refusal(message, "labels of a format that is read", "say more of them, or take others") from error


def _sizes(session: Session) -> dict[str, Any]:
    """What tells a format the sizes of the images: the one that all have, or the folder of their files."""
    sizes = {(item.height, item.width) for item in session.items}
    if len(sizes) == 1:
        return {"size": sizes.pop()}
    if len(session.paths) < len(session.items):
        return {}
    return {"images": session.paths[0].parents[len(PurePosixPath(session.items[0].name).parts) - 1]}


def _unpacked(data: bytes, name: str, place: Path) -> Path:
    """What came, as a file or a folder below `place`."""
    plain = PurePosixPath(name.replace("\\", "/")).name
    if not data or plain in ("", "..") or not plain.isprintable() or len(plain) > 200:
        raise Refusal(f"{len(data)} bytes called {name!r:.80}", "a file of labels and its name", "send ?name=FILE")
    if not zipfile.is_zipfile(io.BytesIO(data)):
        (place / plain).write_bytes(data)
        return place / plain
    try:
        _extract(data, place / "zip")
    except Refusal:
        raise
    except _DAMAGE as error:
        raise Refusal(f"a zip that cannot be unpacked ({error})", "a plain zip", "pack it again") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Refusal(
            f"a zip of names that no folder can hold ({error.strerror})", "a plain zip", "pack it again"
        ) from None
    for suffix in (".json", ".xml"):  # one file of all images, whatever lies beside it
        files = list((place / "zip").rglob(f"*{suffix}"))
        if len(files) == 1:
            return files[0]
    return place / "zip"


def _extract(data: bytes, place: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        inside = [item for item in archive.infolist() if not item.is_dir()]
        size = sum(item.file_size for item in inside)
        if len(inside) > MAX_FILES or size > MAX_UNPACKED:
            contents = f"a zip of {len(inside):,} files, {size:,} bytes"
            raise Refusal(contents, f"at most {MAX_FILES:,} files and {MAX_UNPACKED:,} bytes", "send parts of it", 413)
        archive.extractall(place)  # which drops drives, leading slashes and ".."


def _taken(workspace: Workspace, annotations: AnnotationSet) -> dict[str, Any]:
    names = {item.name: number for number, item in enumerate(workspace.session.items)}
    stems: dict[str, list[int]] = {}
    for name, number in names.items():
        stems.setdefault(PurePosixPath(name).stem, []).append(number)
    pairs, missing = [], []
    for annotation in annotations:
        same = stems.get(PurePosixPath(annotation.image).stem, [])
        place = names.get(annotation.image, same[0] if len(same) == 1 else None)
        if place is None:
            missing.append(annotation.image)
        else:
            pairs.append((place, _checked(annotation, workspace.item(place))))
    if not pairs:
        listing = ", ".join(missing[:3]) or "no image"
        raise Refusal(f"labels of {listing}", f"of {next(iter(names))} or another of the items", "take others")
    workspace.interrupt()
    ids = _class_ids(workspace.session, annotations.classes.names)
    for number, annotation in pairs:
        labels = np.full(annotation.labels.shape, UNLABELLED, np.uint8)
        for index, name in enumerate(annotations.classes.names):
            labels[annotation.labels == index] = ids[name]
        if (labels != UNLABELLED).any():
            workspace.session.clear(number)
            workspace.session.mask_label(number, labels)
    return {"items": [number for number, _ in pairs], "classes": list(ids), "missing": missing[:20]}


def _checked(annotation: Annotation, item: Any) -> Annotation:
    height, width = annotation.labels.shape
    if (height, width) != (item.height, item.width):
        raise Refusal(
            f"labels of {annotation.image}, {width} x {height}",
            f"{item.width} x {item.height}, as the image",
            "resize them by nearest neighbour",
        )
    return annotation


def _class_ids(session: Session, names: Sequence[str]) -> dict[str, int]:
    """The id of each name; classes that are not there are added."""
    ids = {item.name: item.id for item in session.classes}
    if backgrounds := [item.id for item in session.classes if is_background(item.name)]:
        ids |= {name: backgrounds[0] for name in names if is_background(name) and name not in ids}
    new = [name for name in names if name not in ids]
    if len(ids) + len(new) > MAX_CLASSES:
        raise Refusal(f"labels of {len(new)} new classes", f"at most {MAX_CLASSES} classes in all", "take fewer")
    return {name: ids[name] if name in ids else session.add_class(name).id for name in names}
