"""Pictures: palettes, joint PCA, overlays, files."""

import numpy as np
import pytest
import torch
from dense_ctx_predict.pca import pca_pictures
from PIL import Image

from dense_ctx.errors import FileError, InputError
from dense_ctx.images import load_mask
from dense_ctx.visualize import contact_sheet, overlay, palette, save_labels, save_picture


def test_palette_is_the_one_of_voc_and_davis():
    colours = palette()
    assert colours.shape == (256, 3)
    assert colours[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert colours[255].tolist() == [224, 224, 192]
    assert len(np.unique(colours, axis=0)) == 256


def test_pca_is_joint_the_same_feature_has_the_same_colour_everywhere():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 5, 7, generator=generator)
    b = torch.randn(6, 4, 9, generator=generator)
    b[:, 2, 3] = a[:, 1, 4]
    first, second = pca_pictures([a, b])
    assert first.shape == (5, 7, 3)
    assert second.shape == (4, 9, 3)
    assert (first[1, 4] == second[2, 3]).all()
    assert first.std() > 20
    large = pca_pictures([a], size=(10, 14))[0]
    assert large.shape == (10, 14, 3)


def test_pca_takes_few_dimensions_and_constant_features():
    assert pca_pictures([torch.randn(2, 5, 7)])[0].shape == (5, 7, 3)
    assert np.isfinite(pca_pictures([torch.ones(4, 5, 7)])[0]).all()
    with pytest.raises(InputError, match=r"\[4, 5, 7\], \[3, 5, 7\]"):
        pca_pictures([torch.ones(4, 5, 7), torch.ones(3, 5, 7)])


def test_overlay_leaves_the_background_and_marks_borders():
    image = np.full((6, 8, 3), 100, np.uint8)
    labels = torch.zeros(6, 8, dtype=torch.int64)
    labels[:, 4:] = 1
    picture = overlay(image, labels, alpha=0.5)
    assert (picture[:, :4] == 100).all()
    assert (picture[:, 4] == 255).all()
    assert (picture[:, 5:] == [114, 50, 50]).all()
    assert overlay(image, labels + 300).shape == image.shape  # 300 classes
    with pytest.raises(InputError, match="different sizes"):
        overlay(image, labels[:5])


@pytest.mark.parametrize("top", [3, 255, 256, 65535])
def test_saved_labels_read_back(tmp_path, top):
    labels = torch.tensor([[0, 1, 2], [2, 1, top]])
    path = save_labels(tmp_path / "sub" / "labels.png", labels)
    assert torch.equal(load_mask(path), labels)
    assert Image.open(path).mode == ("P" if top < 256 else "I;16")


def test_labels_a_png_cannot_hold_are_refused(tmp_path):
    for bad in (-1, 65536):
        with pytest.raises(InputError, match="0 to 65535"):
            save_labels(tmp_path / "x.png", torch.tensor([[0, bad]]))


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="Cannot write the picture"):
        save_picture(tmp_path / "file" / "x.png", np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(FileError, match=r"x\.unknown"):
        save_picture(tmp_path / "x.unknown", np.zeros((2, 3, 3), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_contact_sheet_holds_every_picture():
    rows = [[np.full((24, 30, 3), 40 * (3 * y + x), np.uint8) for x in range(3)] for y in range(2)]
    sheet = np.asarray(contact_sheet(rows, ["one", "two"], ["a", "b", "c"]))
    for value in (0, 40, 80, 120, 160, 200):
        assert ((sheet == value).all(-1)).sum() >= 240 * 240
