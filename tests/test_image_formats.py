"""Every row of the table in docs/images.md: the values are right, or the file is refused by name."""

import re
import struct
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from dense_ctx.errors import FileError, InputError
from dense_ctx.images import load, load_mask

DEEP = np.array([[0, 1000, 255], [32768, 65535, 514]], dtype=np.uint16)
GREY = (DEEP >> 8).astype(np.uint8)
RGB = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)


def tiff(path, values, photometric=1, sample_format=1, orientation=1):
    """A TIFF of one strip: values [H, W] or [H, W, C] of any type."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    data, bits = values.tobytes(), 8 * values.dtype.itemsize
    tags = [(256, 4, width), (257, 4, height), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (274, 3, orientation),
            (277, 3, channels), (278, 4, height), (279, 4, len(data)), (258, 3, bits),
            (339, 3, sample_format)]  # fmt: skip
    start, beyond, entries = 8 + len(data) + len(data) % 2, b"", b""
    end = start + 2 + 12 * len(tags) + 4
    for tag, kind, value in sorted(tags):
        if tag in (258, 339) and channels > 2:
            entries += struct.pack("<HHII", tag, kind, channels, end + len(beyond))
            beyond += struct.pack(f"<{channels}H", *[value] * channels)
        else:
            count = channels if tag in (258, 339) else 1
            entries += struct.pack("<HHIHH" if kind == 3 else "<HHII", tag, kind, count, value, *[0] * (kind == 3))
    body = data + b"\0" * (len(data) % 2)
    path.write_bytes(
        b"II*\0" + struct.pack("<I", start) + body + struct.pack("<H", len(tags)) + entries + bytes(4) + beyond
    )
    return path


def saved(path, picture, **options):
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)
    return path


def over_white(colour, alpha):
    return colour * alpha + 1 - alpha


def plain(folder):
    yield saved(folder / "grey.png", GREY), GREY / 255
    yield saved(folder / "grey.tif", GREY), GREY / 255
    yield saved(folder / "rgb.png", RGB), RGB / 255
    yield saved(folder / "rgb.bmp", RGB), RGB / 255


def one_bit(folder):
    yield saved(folder / "a.png", Image.fromarray(GREY > 100)), (GREY > 100).astype(float)


def deep(folder):
    yield saved(folder / "a.png", DEEP), DEEP / 65535
    yield saved(folder / "a.tif", DEEP), DEEP / 65535
    yield tiff(folder / "b.tif", DEEP), DEEP / 65535


def deep_rgb(folder):
    values = np.stack([DEEP, DEEP // 2, DEEP // 4], -1)
    yield tiff(folder / "a.tif", values, 2), (values >> 8) / 255
    yield png(folder / "a.png", values, 2), (values >> 8) / 255


def png(path, values, colour, transparent=b""):
    """A 16-bit PNG, which Pillow does not write in colours."""
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
        + (chunk(b"tRNS", transparent) if transparent else b"") + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip
    return path


def deep_transparent(folder):
    yield png(folder / "a.png", DEEP, 0, struct.pack(">H", 1000)), (InputError, "16-bit grey image with a transparent")


def integers(folder):
    message = "32-bit integer image .values 0 to 65535. does not say what is white"
    yield saved(folder / "a.tif", DEEP.astype(np.int32)), (InputError, message)
    yield tiff(folder / "b.tif", (DEEP // 300).astype(np.uint32)), (InputError, "32-bit integer image .values 0 to 218")
    yield tiff(folder / "c.tif", DEEP.astype(np.int16), 1, 2), (InputError, "32-bit integer image")


def floats(folder):
    values = (DEEP / 65535).astype(np.float32)
    yield saved(folder / "a.tif", values), values
    yield tiff(folder / "b.tif", values, 1, 3), values


def wild_floats(folder):
    yield saved(folder / "a.tif", DEEP.astype(np.float32)), (InputError, "divide by 65535")
    yield saved(folder / "b.tif", np.full((2, 3), np.nan, np.float32)), (InputError, "NaN or infinity")


def unread_floats(folder):
    yield tiff(folder / "a.tif", DEEP / 65535, 1, 3), (FileError, "a.tif is not an image that is read")
    values = np.stack([(DEEP / 65535).astype(np.float32)] * 3, -1)
    yield tiff(folder / "b.tif", values, 2, 3), (FileError, "b.tif is not an image that is read")


def white_is_zero(folder):
    yield tiff(folder / "a.tif", GREY, 0), 1 - GREY / 255


def deep_white_is_zero(folder):
    yield tiff(folder / "a.tif", DEEP, 0), (FileError, "a.tif is a TIFF in which 0 is white")
    yield tiff(folder / "b.tif", (DEEP / 65535).astype(np.float32), 0, 3), (FileError, "in which 0 is white")


def signed(folder):
    yield tiff(folder / "a.tif", np.array([[-1, 5], [100, -128]], np.int8), 1, 2), (FileError, "signed 8-bit values")


def cmyk(folder):
    values = np.array([[[0, 0, 0, 0], [255, 0, 0, 0]], [[0, 51, 102, 51], [10, 20, 30, 255]]], np.uint8)
    share = values / 255
    expected = (1 - share[..., :3]) * (1 - share[..., 3:])
    yield tiff(folder / "a.tif", values, 5), expected
    path = folder / "a.jpg"
    Image.fromarray(values.repeat(16, 0).repeat(16, 1), "CMYK").save(path, quality=100, subsampling=0)
    yield path, expected.repeat(16, 0).repeat(16, 1), 0.02


def converted(folder):
    ycc = Image.fromarray(RGB).convert("YCbCr")
    yield saved(folder / "c.tif", ycc, compression="tiff_lzw"), RGB / 255, 0.02
    yield tiff(folder / "b.tif", np.full((2, 3, 3), (136, 0, 0), np.uint8), 8), np.full((2, 3, 3), 0.5), 0.02


def uncompressed_ycc(folder):
    ycc, refused = Image.fromarray(RGB).convert("YCbCr"), (FileError, "tif is an uncompressed YCbCr TIFF")
    old = int(PIL.__version__.split(".")[0]) < 13  # reads four bytes a pixel: another picture, or one cut short
    yield saved(folder / "a.tif", ycc), refused if old else np.asarray(ycc.convert("RGB")) / 255
    yield tiff(folder / "b.tif", np.asarray(ycc), 6), refused  # without a tag, two by two pixels share their colour
    yield tiff(folder / "c.tif", np.full((64, 48, 3), 99, np.uint8), 6), refused


def palette_image(transparent=None):
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0])
    return image, np.array([(10, 20, 30), (200, 100, 50), (0, 255, 0)])[np.asarray(image)] / 255


def palettes(folder):
    image, expected = palette_image()
    yield saved(folder / "a.png", image), expected
    yield saved(folder / "a.gif", image), expected
    yield saved(folder / "a.tif", image), expected


def transparent_values(folder):
    image, colours = palette_image()
    alpha = np.array([1.0, 0.0, 128 / 255])[np.asarray(image)][..., None]
    yield saved(folder / "p.png", image, transparency=bytes([255, 0, 128])), over_white(colours, alpha)
    clear = GREY[0, 1] == GREY
    yield saved(folder / "g.png", GREY, transparency=int(GREY[0, 1])), np.where(clear, 1, GREY / 255)
    clear = (RGB[1, 1] == RGB).all(-1, keepdims=True)
    yield saved(folder / "c.png", RGB, transparency=tuple(RGB[1, 1].tolist())), np.where(clear, 1, RGB / 255)


def alpha(folder):
    share = np.array([[0, 128, 255], [255, 64, 0]], np.uint8)
    white = over_white(RGB / 255, share[..., None] / 255)
    yield saved(folder / "rgba.png", np.dstack([RGB, share])), white
    yield saved(folder / "rgba.tif", np.dstack([RGB, share])), white
    yield saved(folder / "la.png", Image.fromarray(np.dstack([GREY, share]), "LA")), over_white(GREY / 255, share / 255)


def orientation(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    yield saved(folder / "a.png", RGB, exif=exif), np.rot90(RGB, -1) / 255
    yield saved(folder / "c.tif", RGB, exif=exif, compression="tiff_lzw"), np.rot90(RGB, -1) / 255
    yield tiff(folder / "b.tif", DEEP, orientation=3), DEEP[::-1, ::-1] / 65535


def sideways(folder):
    for turn in (5, 6, 7, 8):
        yield (
            tiff(folder / f"{turn}.tif", GREY, orientation=turn),
            (FileError, "TIFF that lies on its side"),
        )


def pages(folder):
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    yield saved(folder / "a.tif", first, save_all=True, append_images=[second]), RGB / 255


CASES = {
    "8-bit grey, RGB": plain,
    "1-bit": one_bit,
    "16-bit grey PNG, TIFF": deep,
    "16-bit RGB PNG, TIFF": deep_rgb,
    "16-bit grey PNG with a transparent value": deep_transparent,
    "32-bit integer TIFF": integers,
    "float TIFF in [0, 1]": floats,
    "float TIFF beyond [0, 1] or with NaN": wild_floats,
    "float64, float RGB TIFF": unread_floats,
    "TIFF in which 0 is white, 8 bits": white_is_zero,
    "TIFF in which 0 is white, 16 bits or float": deep_white_is_zero,
    "signed 8-bit TIFF": signed,
    "CMYK JPEG, TIFF": cmyk,
    "YCbCr, LAB TIFF": converted,
    "uncompressed YCbCr TIFF": uncompressed_ycc,
    "palette": palettes,
    "palette, grey or RGB with a transparent value": transparent_values,
    "grey or RGB with alpha": alpha,
    "EXIF or TIFF orientation": orientation,
    "uncompressed TIFF with orientation 5 to 8": sideways,
    "animation, several pages": pages,
}


def test_the_documentation_has_these_rows():
    text = (Path(__file__).parents[1] / "docs" / "images.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| .+ \|$", text, re.MULTILINE)
    assert rows[1:] == list(CASES)  # rows[0] is the header


@pytest.mark.parametrize("row", list(CASES))
def test_values_are_right_or_refused(tmp_path, row):
    for path, expected, *tolerance in CASES[row](tmp_path):
        if isinstance(expected, tuple):
            error, message = expected
            for given in (path,) if "not an image" in message else (path, Image.open(path)):
                with pytest.raises(error, match=message) as refusal:
                    load(given)
                assert "damaged" not in str(refusal.value)
            continue
        rgb = expected if expected.ndim == 3 else np.stack([expected] * 3, -1)
        reference = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).float()
        for given in (path, Image.open(path)):
            torch.testing.assert_close(load(given), reference, rtol=0, atol=tolerance[0] if tolerance else 0.003)


def test_deep_values_keep_their_sixteen_bits(tmp_path):
    near = np.array([[1, 2, 256]], dtype=np.uint16)
    assert load(saved(tmp_path / "a.png", near))[0].mul(65535).round().tolist() == [[1, 2, 256]]


def test_masks_of_thirty_two_bits_keep_their_integers(tmp_path):
    ids = np.array([[0, 70_000], [3, 2]], dtype=np.int32)
    assert load_mask(saved(tmp_path / "a.tif", ids)).tolist() == ids.tolist()


def test_premultiplied_grey_is_refused():
    with pytest.raises(InputError, match="premultiplied"):
        load(Image.new("La", (2, 2)))
