"""An object that leaves the view: it is found again with `recall`, and that it is gone is said."""

import json

import pytest
import torch
from dense_ctx_predict import track
from dense_ctx_probes.local_knn import Propagator

from dense_ctx import AutoDenseModel, cli
from dense_ctx.errors import InputError

H, W, SIDE, GONE = 48, 240, 24, 10


def scene():
    """A textured square at the left that leaves for ten frames and comes back at the right; pictures and masks."""
    generator = torch.Generator().manual_seed(0)
    ground = 0.4 + 0.1 * torch.rand(3, H, W, generator=generator)
    texture = torch.rand(3, SIDE // 4, SIDE // 4, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    texture[0] = 0.7 + 0.3 * texture[0]
    lefts = [16, 16, *[None] * GONE, 192, 192, 192]
    pictures, masks = [], []
    for left in lefts:
        picture, mask = ground.clone(), torch.zeros(H, W, dtype=torch.int64)
        if left is not None:
            picture[:, 12 : 12 + SIDE, left : left + SIDE] = texture
            mask[12 : 12 + SIDE, left : left + SIDE] = 3
        pictures.append(picture)
        masks.append(mask)
    return pictures, masks


def overlap(found, truth):
    return float(((found == 3) & (truth == 3)).sum() / ((found == 3) | (truth == 3)).sum().clamp_min(1))


@pytest.fixture(scope="module")
def model():
    return AutoDenseModel.from_parts("efficientnet-lite0", "upsample")


def test_an_object_that_was_gone_for_ten_frames_is_found_again(model):
    pictures, masks = scene()
    sure = {}
    lost = list(track(model, pictures, masks[0]))
    again = list(track(model, pictures, masks[0], recall=0.1, report=sure.__setitem__))
    assert overlap(lost[-1], masks[-1]) == 0
    assert overlap(again[-1], masks[-1]) > 0.7
    assert overlap(again[1], masks[1]) > 0.7  # of nine cells, one frame on
    hits = [frame for frame in range(3, 2 + GONE) if (again[frame] == 3).any()]
    assert hits == []  # nothing takes its place meanwhile
    assert list(sure) == list(range(1, len(pictures)))
    assert all(sure[frame] == 0 for frame in range(3, 2 + GONE))
    assert sure[1] > 0.8


def test_without_recall_it_is_the_published_recipe(model):
    pictures, masks = scene()
    plain = list(track(model, pictures[:4], masks[0]))
    never = list(track(model, pictures[:4], masks[0], recall=2.0))  # no cosine is above another by more
    assert all(torch.equal(a, b) for a, b in zip(plain, never, strict=True))


def test_the_margin_decides_who_votes():
    generator = torch.Generator().manual_seed(0)
    frames, labels = torch.randn(3, 8, 6, 40, generator=generator), torch.zeros(2, 6, 40)
    labels[1, :, :4] = 1
    labels[0] = 1 - labels[1]
    frames[2, :, :, 36:] = frames[0, :, :, :4]  # what was at the left is at the right, 36 cells away
    results = {}
    for margin in (None, 0.0, 0.1, 2.0):
        propagator = Propagator(frames[0], labels, size_mask_neighborhood=3, topk=1, recall=margin)
        propagator.step(frames[1])
        results[margin] = propagator.step(frames[2])
    assert (results[0.1][1, :, 36:] > 0.99).all()
    assert (results[None][1, :, 36:] < 0.01).all()
    assert torch.equal(results[2.0], results[None])
    assert not torch.equal(results[0.0], results[0.1])
    with pytest.raises(InputError, match="recall=-1"):
        Propagator(frames[0], labels, recall=-1)


def test_the_command_says_where_it_is_unsure(tmp_path, capsys):
    from dense_ctx import visualize

    pictures, masks = scene()
    for number, picture in enumerate(pictures):
        visualize.save_picture(tmp_path / f"clip/{number:02d}.png", (picture.permute(1, 2, 0) * 255).byte().numpy())
    visualize.save_labels(tmp_path / "mask.png", masks[0])
    words = ["track", tmp_path / "clip", "--mask", tmp_path / "mask.png", "--model", "efficientnet-lite0+upsample"]
    assert cli.main([str(word) for word in [*words, "--out", tmp_path / "out"]]) == 0
    printed = capsys.readouterr().out
    assert "unsure in" in printed
    assert "--recall 0.1 finds objects again" in printed
    assert cli.main([str(word) for word in [*words, "--out", tmp_path / "out", "--recall", "0.1"]]) == 0
    printed = capsys.readouterr().out
    assert "--recall 0.1 finds" not in printed
    stored = json.loads((tmp_path / "out/clip_certainty.json").read_text())
    assert len(stored) == len(pictures) - 1
    assert stored["5"] == 0
