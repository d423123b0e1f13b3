"""Pictures that requests bring, as files of this server; sessions over one picture each, the last few kept."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dense_ctx_http.refusals import Refusal
from dense_ctx_session import Session

from dense_ctx.errors import FileError
from dense_ctx.files import file_digest
from dense_ctx.images import image_size, open_image
from dense_ctx.model import DenseModel
from dense_ctx.partial_files import unique

OPEN = 4  # sessions over pictures
STORED = 4 << 30  # bytes of pictures that were fetched
_URI = re.compile(r"data:image/([a-z+.-]{1,20});base64,")
_SUFFIXES = {"jpeg": ".jpg", "jpg": ".jpg", "png": ".png", "bmp": ".bmp", "webp": ".webp", "tiff": ".tif"}


def write_picture(text: Any, place: Path, what: str) -> Path:
    """Write the picture of a data URI to a file, whose name begins with the sha256 of its content; the path.

    Args:
        text: "data:image/jpeg;base64,...". place: folder. what: "image", "frames[3]", for messages.

    Raises:
        Refusal: no data URI, or no picture that can be read.
    """
    match = _URI.match(text) if isinstance(text, str) else None
    suffix = None if match is None else _SUFFIXES.get(match[1])
    if match is None or suffix is None:
        raise Refusal(f"{what}={str(text)[:60]!r}", "a picture as a data URI, data:image/jpeg;base64,...", "send one")
    try:
        content = base64.b64decode(text[match.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(f"{what} is not base64 ({error})", "a picture as a data URI", "send it again") from None
    path = place / f"{hashlib.sha256(content).hexdigest()}-{unique()}{suffix}"  # two requests may bring the same
    path.write_bytes(content)
    check_picture(path, what)
    return path


def check_picture(path: Path, what: str) -> None:
    """Refuse a file that is no picture, and remove it."""
    try:
        image_size(path)
    except FileError as error:
        path.unlink(missing_ok=True)
        cause = str(error).replace(str(path), what)
        raise Refusal(cause, "a picture that can be read", "send another") from None


class StoredPictures:
    """Pictures that were fetched once, within a budget on disk; those fetched first go first.

    Args:
        place: folder. budget: bytes.
    """

    def __init__(self, place: Path, budget: int = STORED) -> None:
        self._place, self._budget = place, budget
        self._sizes: OrderedDict[str, int] = OrderedDict()

    def get(self, address: str, fetch: Callable[[], bytes], what: str) -> Path:
        """The file of an address; fetch gives its content. Raises Refusal: it is no picture."""
        name = f"stored-{hashlib.sha256(address.encode()).hexdigest()}"
        path = self._place / name
        if name not in self._sizes:
            content = fetch()
            path.write_bytes(content)
            check_picture(path, what)
            self._sizes[name] = len(content)
            while sum(self._sizes.values()) > self._budget and len(self._sizes) > 1:
                oldest, _ = self._sizes.popitem(last=False)
                (self._place / oldest).unlink(missing_ok=True)
        return path


class PictureSessions:
    """Sessions over one picture each, by its content: a second click finds the features of the first.

    Args:
        model: whose features. memory: bytes for all of them.
    """

    def __init__(self, model: DenseModel, memory: int) -> None:
        self._model, self._memory = model, memory
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def of(self, path: Path) -> Session:
        """The session over a picture. Raises FileError: it cannot be read."""
        key = file_digest(path)
        if key not in self._sessions:
            names = ["background", "object"]
            picture = open_image(path).convert("RGB")  # the file may be gone before the next click
            self._sessions[key] = Session(self._model, picture, classes=names, max_memory=self._memory // OPEN)
            while len(self._sessions) > OPEN:
                self._sessions.popitem(last=False)[1].close()
        self._sessions.move_to_end(key)
        return self._sessions[key]

    def close(self) -> None:
        """Close all."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
