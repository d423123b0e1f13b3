"""Load images and masks from files, PIL images, arrays or tensors; normalise, pad and resize."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from .errors import FileError, InputError, about
from .files import regular_size
from .gateway import gateway
from .interfaces import Size
from .numerics import holds

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any] | Tensor"

# no other format is tried: for PostScript, Pillow starts an interpreter, whatever the file's suffix
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION, _WIDTH, _PHOTOMETRIC, _SAMPLE_FORMAT, _SUBSAMPLING = 274, 256, 262, 339, 530  # TIFF tags


@gateway
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


@gateway
def image_size(path: str | os.PathLike[str]) -> Size:
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
    if tags.get(_PHOTOMETRIC) == 0 and image.mode in (*_SIXTEEN_BIT, "I", "F"):
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


@gateway
def load(image: ImageLike) -> Tensor:
    """Load one image as float32 [3, H, W] in [0, 1], RGB.

    Accepts a path, a PIL image, an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (uint8, uint16, or float in
    [0, 1]) or a tensor [3, H, W] or [1, H, W] (same dtypes). Grey is repeated to three channels; transparency is
    composited over white; 16-bit values are divided by 65535.

    Raises:
        FileError: the path cannot be read.
        InputError: another shape or dtype, values outside [0, 1], NaN or infinity.
    """
    if isinstance(image, (str, os.PathLike)):
        opened = open_image(image)
        with about(os.fspath(image)):
            return load(opened)
    if isinstance(image, Image.Image):
        image = _from_pil(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise InputError(f"An image tensor is [3, H, W] (or [1, H, W]); got {list(image.shape)}")
        return check_batch(image[None])[0]
    raise InputError(f"An image is a path, PIL image, array or tensor; got {type(image).__name__}")


def _from_pil(image: Image.Image) -> np.ndarray[Any, Any]:
    _check_tiff(image, f"The image {getattr(image, 'filename', '')}".rstrip())
    image = ImageOps.exif_transpose(image)
    if image.mode == "I":
        low, high = image.getextrema()
        raise InputError(
            f"A 32-bit integer image (values {low} to {high}) does not say what is white; expected 8 or 16 bits or "
            "floats in [0, 1]: divide its array by the value of white"
        )
    if image.mode in _SIXTEEN_BIT:
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


def _from_array(array: np.ndarray[Any, Any]) -> Tensor:
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
    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32))
    return check_batch(tensor[None])[0]


def check_batch(images: Tensor) -> Tensor:
    """Convert a batch [B, 3, H, W] or [B, 1, H, W] to floats [B, 3, H, W] in [0, 1]; errors as for `load`."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        hint = "; channels go first in tensors" if images.ndim == 4 and images.shape[3] in (1, 3) else ""
        raise InputError(f"A batch of images is [B, 3, H, W]; got {list(images.shape)}{hint}")
    if 0 in images.shape:
        raise InputError(f"An image has at least one pixel; got {list(images.shape)}")
    if images.dtype in (torch.uint8, torch.uint16):
        images = images.float() / (255 if images.dtype == torch.uint8 else 65535)
    elif not images.is_floating_point():
        raise InputError(f"An image tensor is uint8, uint16 or float in [0, 1]; got {images.dtype}")
    elif not holds((ends := torch.aminmax(images.detach())).min.ge(-1e-3) & ends.max.le(1 + 1e-3)):  # NaN is neither
        if not bool(torch.isfinite(images).all()):
            raise InputError("The image holds NaN or infinity")
        low, high = map(float, ends)
        white = 255 if high <= 255 else 65535
        # ImageNet's statistics put white at 2.64
        normalised = low < -1e-3 or high < 3
        hint = "undo the normalisation: the model normalises by itself" if normalised else f"divide by {white}"
        raise InputError(f"A float image lies in [0, 1]; got [{low:.3g}, {high:.3g}]: {hint}")
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


@gateway
def load_mask(mask: ImageLike, size: Size | None = None, name: str = "The mask") -> Tensor:
    """Load a label map as int64 [H, W]: the indices of palette and grey images, unscaled. name: for errors.

    Raises:
        FileError: the path cannot be read.
        InputError: an RGB mask, floats that are not whole numbers, or a size other than `size`.
    """
    if isinstance(mask, (str, os.PathLike)):
        name, mask = f"The mask {mask}", open_image(mask)
    if isinstance(mask, Image.Image):
        if mask.mode == "1":
            mask = mask.convert("L")
        if mask.mode not in ("L", "P", "I", *_SIXTEEN_BIT):
            raise InputError(
                f"{name} is a {mask.mode} picture; expected class indices: a palette (P), 8-bit (L) or 16-bit image"
                " (colours: a labelmap.txt names them for `dense-ctx labels`)"
            )
        mask = np.asarray(mask).astype(np.int64)
    if isinstance(mask, np.ndarray):
        if mask.dtype.kind not in "buif":
            raise InputError(f"{name} holds {mask.dtype}; expected whole numbers")
        mask = torch.from_numpy(mask.astype(np.int64 if mask.dtype.kind in "bui" else np.float64))
    if not isinstance(mask, Tensor):
        raise InputError(f"{name} is a path, PIL image, array or tensor; got {type(mask).__name__}")
    if mask.ndim == 3 and 1 in (mask.shape[0], mask.shape[2]):
        mask = mask.squeeze(0 if mask.shape[0] == 1 else 2)
    if mask.ndim != 2 or 0 in mask.shape:
        raise InputError(f"{name} is [H, W]; got {list(mask.shape)}")
    if mask.is_floating_point() and not bool((mask == mask.round()).all()):
        raise InputError(f"{name} holds floats that are not whole numbers; expected class indices")
    if size is not None and tuple(mask.shape) != size:
        raise InputError(
            f"{name} is {mask.shape[0]} x {mask.shape[1]} (H x W); the image is {size[0]} x {size[1]}. "
            "Resize the mask by nearest neighbour first"
        )
    return mask.long()


def prepare(
    images: Tensor, mean: Sequence[float], std: Sequence[float], stride: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normalise [B, 3, H, W] and pad it at the bottom and right to multiples of `stride`, replicating the border.

    Pixel (0, 0) stays in place.
    """
    scale = torch.tensor(std, device=images.device, dtype=torch.float32)[:, None, None]
    shift = torch.tensor(mean, device=images.device, dtype=torch.float32)[:, None, None]
    images = ((images.float() - shift) / scale).to(dtype)
    height, width = padded_size((images.shape[-2], images.shape[-1]), stride)
    extra = (0, width - images.shape[-1], 0, height - images.shape[-2])
    return functional.pad(images, extra, mode="replicate") if any(extra) else images


def padded_size(size: Size, stride: int) -> Size:
    """H and W rounded up to multiples of `stride`."""
    return -(-size[0] // stride) * stride, -(-size[1] // stride) * stride


def resized(image: Tensor, size: Size) -> Tensor:
    """Resize [3, H, W] to `size`: bilinear, antialiased, clamped to [0, 1]."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    small = functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
    return small.clamp(0, 1)


def nearest(target: Tensor, size: Size) -> Tensor:
    """Resize a target [H, W] or [K, H, W] to `size` by nearest neighbour: the value under each new pixel's centre."""
    height, width = target.shape[-2:]
    if (height, width) == tuple(size):
        return target
    rows = ((torch.arange(size[0], device=target.device) + 0.5) * height / size[0]).long()
    columns = ((torch.arange(size[1], device=target.device) + 0.5) * width / size[1]).long()
    return target[..., rows, :][..., columns]
