"""Session: strokes on images or a clip, answers at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dense_ctx_predict import LabelClass

from dense_ctx.config import Part, parse_part
from dense_ctx.errors import CheckpointError, FileError, InputError
from dense_ctx.gateway import gateway
from dense_ctx.model import DenseModel
from dense_ctx.persistence.file_args import check_file_args

from . import exporting, saving
from .answers import Answers
from .base import VOTES
from .drawing import Drawing
from .journal import Folder
from .propagation import read_votes
from .reading import RIDGE
from .source import open_source

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Session(Drawing, Answers):
    """Annotate items (images, or the frames of a clip) by strokes and masks; all others are predicted.

    Features are computed once an item, by a thread in the background where `prefetch` asks for them, and kept within a
    budget. All methods may be called from several threads. Items are named by their number.

    Args:
        model: a DenseModel, or how to open one ("lila-lite0").
        source: an image or a list of images (paths, or PIL, arrays, tensors, which are kept with 8 bits), a folder of
            images at any depth, a video file, or with `frames` a folder or a list of frames; or a `Source` of your own,
            whose session cannot be saved.
        method: a registered probe, NAME or NAME(key=value, ...); default `ridge`, which follows each stroke by rank,
            exactly; others are fitted again.
        max_memory: what the session may add to the process, "2GB" or bytes; half of it is for features.
        cache_dir: a folder for features, which later sessions read; one serves any models and images.
        max_disk: what all of `cache_dir` may take; features that were not used for the longest time go first.
        classes: names, or LabelClass; more can be added.
        frames: the folder holds the frames of one clip, in order of their names; or the list does, in its order.
        skip: files and folders in a folder of images that are none of it, such as one of exported masks.

    Attributes: items, is_clip, model, method.

    Raises:
        FileError: nothing there, an empty folder, a file that cannot be read. InputError: an argument that is not
            one of these.
    """

    @gateway
    def __init__(
        self,
        model: DenseModel | str,
        source: Any,
        *,
        method: str | Part | None = None,
        max_memory: str | int = "2GB",
        cache_dir: str | os.PathLike[str] | None = None,
        max_disk: str | int = "20GB",
        classes: Iterable[str | LabelClass] | None = None,
        frames: bool = False,
        skip: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        if isinstance(classes, str):
            raise InputError(f"classes are several names; got one text {classes[:80]!r}")
        names = list(classes or ())
        opened = open_source(source, frames, skip)
        self._setup(model, opened, parse_part(method or RIDGE), max_memory, cache_dir, max_disk)
        for item in names:
            self.add_class(*((item.name, item.colour, item.id) if isinstance(item, LabelClass) else (item,)))
        self._work.forget()

    @gateway
    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the session to a folder, which from then on follows each change.

        It holds strokes, masks, classes, marks and propagated labels, and says which model and files they are of;
        images that were in memory are copied. The folder stays locked until `close`.

        Raises:
            FileError: another session has the folder, it holds something else, or it cannot be written.
        """
        path = Path(os.path.abspath(folder))
        with self._lock:
            if self._closed:
                raise InputError("The session is closed")
            if self._main is not None:
                raise InputError("A session beside another one is saved with it: save that one")
            target = self._folder if self._folder is not None and self._folder.path == path else Folder(path)
            try:
                self._write(target)
            except BaseException:
                if target is not self._folder:
                    target.close()
                raise
            if self._folder is not None and target is not self._folder:
                self._folder.close()
            self._folder = target
        return path

    def _load_votes(self, folder: Path) -> None:
        if (folder / VOTES).exists():
            try:
                self._predictions.votes = read_votes(folder / VOTES)
            except (FileError, ValueError, KeyError, TypeError) as error:
                warnings.warn(
                    f"The propagated labels are left out: {error}. propagate() makes them again", stacklevel=4
                )

    @classmethod
    @gateway
    def open(
        cls,
        folder: str | os.PathLike[str],
        model: DenseModel | str | None = None,
        *,
        method: str | Part | None = None,
        max_memory: str | int = "2GB",
        cache_dir: str | os.PathLike[str] | None = None,
        max_disk: str | int = "20GB",
    ) -> Self:
        """Go on with a saved session, which keeps following each change.

        Args:
            model, method: in place of those that the session names.
            max_memory, cache_dir, max_disk: as for a new session.

        Raises:
            CheckpointError: another model, or damaged. ConfigError: the model was made of modules and is not given.
            FileError: no session, one that is open elsewhere, an image that is missing or has changed.
        """
        home = Folder(Path(folder))
        session = cls.__new__(cls)
        try:
            data, events = home.read()
            reference = data.get("open")
            opened = saving.open_referenced(reference, home.path) if model is None else model
            source = saving.open_referenced_source(data["source"], home.path)
            part = parse_part(method or data["method"])
            if method is None:
                check_file_args("probe", part.name, part.args, home.path)
            session._setup(opened, source, part, max_memory, cache_dir, max_disk)
            if reference is not None and reference != f"./{saving.MODEL}" and session._spec is None:
                session._spec = reference
            saving.check_model(data.get("model"), session._identity, home.path)
            session._id = data["session"]
            session._work.restore(data)
            for event in events:
                session._work.apply(event)
            for index, digest in session._work.digests.items():
                if source.digest(index) != digest:
                    raise FileError(f"{source.items[index].name} has changed since it was annotated: put it back")
            session._follow(tuple(session._work.state.drawings))
            session._load_votes(home.path)
        except KeyError as error:
            home.close()
            raise CheckpointError(f"{folder} lacks {error}: it is damaged, or of another version") from None
        except BaseException:
            home.close()
            raise
        session._folder = home
        return session

    @gateway
    def export(
        self, folder: str | os.PathLike[str], format: str | Part = "png", items: Sequence[int] | None = None
    ) -> Path:
        """Write the labels of items in a format of annotation tools (`dense-ctx labels` lists them); the path.

        Args:
            format: NAME or NAME(key=value, ...). A format of one file has its name in the folder, `labels.json` ...
            items: default all that are not rejected.

        Raises:
            InputError: nothing to write, what the format has no place for. FileError: it cannot be written.
        """
        indices: Sequence[int] = range(len(self.items)) if items is None else items
        for index in indices:
            self._size(index)
        indices = [i for i in indices if items is not None or self._work.marks.get(i) != "rejected"]
        return exporting.export(self, Path(folder), parse_part(format), indices)

    @property
    def revision(self) -> int:
        """How many changes of annotation, classes and marks there have been, those before a restart among them."""
        return self._work.revision

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are annotated; none of images in memory."""
        return tuple(Path(os.path.abspath(path)) for path in self._source.paths)

    @gateway
    def beside(
        self,
        model: DenseModel | str,
        *,
        max_memory: str | int = "2GB",
        cache_dir: str | os.PathLike[str] | None = None,
        max_disk: str | int = "20GB",
    ) -> Self:
        """A session that shows what another model makes of this one's annotation, of which it follows each change.

        A change of either is one of both. It has no folder, and closes with this one.

        Args:
            model, max_memory, cache_dir, max_disk: as for a new session.
        """
        if self._main is not None:
            raise InputError("This session is beside another one: ask that one")
        other = type(self).__new__(type(self))
        with self._lock:
            other._setup(model, self._source, self.method, max_memory, cache_dir, max_disk)
            other._work, other._canvases, other._lock, other._main = self._work, self._canvases, self._lock, self
            other._follow(tuple(self._work.state.drawings))
            self._beside.append(other)
        return other

    @gateway
    def close(self) -> None:
        """Stop the background, sync the folder and give it free. A closed session answers, but takes no changes."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for other in self._beside:
            other._store.close()
            other._closed = True
        self._store.close()
        with self._lock:
            if self._folder is not None:
                try:
                    self._save_votes(self._folder.path)
                finally:
                    self._folder.close()
            if self._main is None:
                self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
