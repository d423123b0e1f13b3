"""Images as arrays: files, PIL images and arrays to float32 [3, H, W] in [0, 1]. No torch, so that exported models read
what `dense_ctx.images` reads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import FileError, InputError, about
from ..files import regular_size

# no other format is tried: for PostScript, Pillow starts an interpreter, whatever the file's suffix
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION, _WIDTH, _PHOTOMETRIC, _SAMPLE_FORMAT, _SUBSAMPLING = 274, 256, 262, 339, 530  # TIFF tags


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Open and decode an image file of one of `FORMATS` and apply its EXIF orientation.

    Raises:
        FileError: missing, a folder, a pipe, not an image, truncated, or a TIFF that Pillow would misread
            (docs/images.md); the message names the file.
    """
    with _opened(Path(path)) as image:
        image.load()
        if image.mode == "I" and image.format in ("PNG", "PPM"):  # 16 bits, in older releases of Pillow
            return Image.fromarray(np.asarray(image).astype(np.uint16))
        return ImageOps.exif_transpose(image)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of an image file as `open_image` gives it, from its header; raises FileError as that does."""
    with _opened(Path(path)) as image:
        return image.size if image.getexif().get(_ORIENTATION, 1) >= 5 else (image.height, image.width)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if not os.path.exists(path):  # False, too, for what no file system can name
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        near = sorted(p.name for p in beside if p.stem == path.stem and p.name != path.name)[:3]
        raise FileError(f"No image at {str(path)[:300]}." + (f" Did you mean {', '.join(near)}?" if near else ""))
    if path.is_dir():
        raise FileError(f"{path} is a folder; expected one image file")
    regular_size(path)
    Image.init()
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            _check_tiff(image, str(path))
            yield image
    except FileError:
        raise
    except UnidentifiedImageError:
        raise FileError(
            f"{path} is not an image that is read ({path.stat().st_size} bytes); formats: {', '.join(FORMATS)}"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(f"{path} is damaged or truncated: {error}") from error


def _check_tiff(image: Image.Image, name: str) -> None:
    """Refuse files that Pillow reads wrongly."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == 0 and image.mode in (*SIXTEEN_BIT, "I", "F"):
        raise FileError(f"{name} is a TIFF in which 0 is white; expected one in which 0 is black: invert it")
    if 2 in tags.get(_SAMPLE_FORMAT, ()) and image.mode == "L":
        raise FileError(f"{name} holds signed 8-bit values; expected unsigned ones: convert it")
    raw = image.info.get("compression") == "raw"
    if raw and tags.get(_PHOTOMETRIC) == 6 and (image.mode == "RGB" or tags.get(_SUBSAMPLING) != (1, 1)):
        # Pillow 12 reads four bytes a pixel; later ones, too, take colours that pixels share for their own
        raise FileError(f"{name} is an uncompressed YCbCr TIFF, which Pillow misreads; expected RGB: convert it")
    if raw and tags.get(_WIDTH, image.width) != image.width:
        # Pillow swaps the sides before it reads the rows, and cuts them at wrong positions
        raise FileError(f"{name} is an uncompressed TIFF that lies on its side; expected one upright, or compressed")


def read_pixels(image: str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An image as float32 [3, H, W] in [0, 1], RGB; what is accepted and refused: `dense_ctx.images.load`."""
    if isinstance(image, (str, os.PathLike)):
        opened = open_image(image)
        with about(os.fspath(image)):
            return read_pixels(opened)
    if isinstance(image, Image.Image):
        image = _from_pil(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    raise InputError(f"An image is a path, PIL image, array or tensor; got {type(image).__name__}")


def read_mask(mask: Any, size: tuple[int, int] | None = None, name: str = "The mask") -> np.ndarray[Any, Any]:
    """A label map as int64 [H, W]; what is accepted and refused: `dense_ctx.images.load_mask`."""
    if isinstance(mask, (str, os.PathLike)):
        name, mask = f"The mask {mask}", open_image(mask)
    if isinstance(mask, Image.Image):
        if mask.mode == "1":
            mask = mask.convert("L")
        if mask.mode not in ("L", "P", "I", *SIXTEEN_BIT):
            raise InputError(
                f"{name} is a {mask.mode} picture; expected class indices: a palette (P), 8-bit (L) or 16-bit image"
                " (colours: a labelmap.txt names them for `dense-ctx labels`)"
            )
        mask = np.asarray(mask).astype(np.int64)
    if not isinstance(mask, np.ndarray):
        raise InputError(f"{name} is a path, PIL image, array or tensor; got {type(mask).__name__}")
    if mask.dtype.kind not in "buif":
        raise InputError(f"{name} holds {mask.dtype}; expected whole numbers")
    whole = mask.dtype.kind != "f" or bool((mask == mask.round()).all())
    return np.array(checked_mask(mask, whole, size, name), dtype=np.int64)  # the caller's stays its own


def checked_mask(mask: Any, whole: bool, size: tuple[int, int] | None, name: str) -> Any:
    """An array or tensor as [H, W]; whole: whether its values are whole numbers."""
    if mask.ndim == 3 and 1 in (mask.shape[0], mask.shape[2]):
        mask = mask.squeeze(0 if mask.shape[0] == 1 else 2)
    if mask.ndim != 2 or 0 in mask.shape:
        raise InputError(f"{name} is [H, W]; got {list(mask.shape)}")
    if not whole:
        raise InputError(f"{name} holds floats that are not whole numbers; expected class indices")
    if size is not None and tuple(mask.shape) != size:
        raise InputError(
            f"{name} is {mask.shape[0]} x {mask.shape[1]} (H x W); the image is {size[0]} x {size[1]}. "
            "Resize the mask by nearest neighbour first"
        )
    return mask


def check_range(low: float, high: float) -> None:
    """Refuse a float image whose extremes, NaN if it holds any, are not in [0, 1]."""
    if low >= -1e-3 and high <= 1 + 1e-3:  # neither holds for NaN
        return
    if not math.isfinite(high - low):
        raise InputError("The image holds NaN or infinity")
    white = 255 if high <= 255 else 65535
    # ImageNet's statistics put white at 2.64
    normalised = low < -1e-3 or high < 3
    hint = "undo the normalisation: the model normalises by itself" if normalised else f"divide by {white}"
    raise InputError(f"A float image lies in [0, 1]; got [{low:.3g}, {high:.3g}]: {hint}")


def _from_pil(image: Image.Image) -> np.ndarray[Any, Any]:
    _check_tiff(image, f"The image {getattr(image, 'filename', '')}".rstrip())
    image = ImageOps.exif_transpose(image)
    if image.mode == "I":
        low, high = image.getextrema()
        raise InputError(
            f"A 32-bit integer image (values {low} to {high}) does not say what is white; expected 8 or 16 bits or "
            "floats in [0, 1]: divide its array by the value of white"
        )
    if image.mode in SIXTEEN_BIT:
        if "transparency" in image.info:
            raise InputError("A 16-bit grey image with a transparent value; expected one without, or with 8 bits")
        return np.asarray(image).astype(np.uint16)
    if image.mode == "F":
        return np.array(image)
    if image.mode == "La":
        raise InputError("A grey image with premultiplied alpha (La); expected LA or RGBA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _from_array(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        hint = "; channels go last in arrays, first in tensors" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
        raise InputError(f"An image array is [H, W], [H, W, 3] or [H, W, 4]; got {list(array.shape)}{hint}")
    if array.dtype == np.uint16:
        array = array.astype(np.float32) / 65535
    elif array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    elif array.dtype == np.bool_:
        raise InputError("An image array of bool looks like a mask; expected uint8, uint16 or float in [0, 1]")
    elif not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"An image array is uint8, uint16 or float in [0, 1]; got {array.dtype}")
    if array.shape[2] == 4:
        alpha = array[:, :, 3:]
        array = array[:, :, :3] * alpha + (1 - alpha)
    array = np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32)
    if 0 in array.shape:
        raise InputError(f"An image has at least one pixel; got {list(array.shape)}")
    check_range(float(array.min()), float(array.max()))
    return array.repeat(3, 0) if len(array) == 1 else array
