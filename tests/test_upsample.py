"""The parameter-free decoder, by its properties."""

import pytest
import torch
from dense_ctx_dpt.upsample import Upsample

from dense_ctx.errors import InputError
from dense_ctx.interfaces import Features


def features(*maps, image=(64, 96)):
    return Features(tuple(maps), None, image)


def test_constant_maps_stay_constant_at_any_size():
    direction = torch.nn.functional.normalize(torch.randn(1, 6, 1, 1), dim=1)
    decoder = Upsample((6, 6), (8, 16))
    item = features(direction.expand(1, 6, 8, 12) * 5, direction.expand(1, 6, 4, 6) * 0.1)
    for size in ((64, 96), (7, 9), (3, 200)):
        out = decoder(item, torch.empty(0), size)
        assert out.shape == (1, 12, *size)
        # unit length per map, whatever its scale was
        torch.testing.assert_close(out, torch.cat([direction, direction], 1).expand(1, 12, *size), rtol=1e-4, atol=1e-5)


def test_each_map_is_resized_as_if_alone():
    a, b = torch.randn(1, 4, 8, 12), torch.randn(1, 3, 4, 6)
    out = Upsample((4, 3), (8, 16))(features(a, b), torch.empty(0), (64, 96))
    unit, resize = torch.nn.functional.normalize, torch.nn.functional.interpolate
    first = resize(unit(a, dim=1), size=(64, 96), mode="bilinear")
    second = resize(resize(unit(b, dim=1), size=(8, 12), mode="bilinear"), size=(64, 96), mode="bilinear")
    torch.testing.assert_close(out, torch.cat([first, second], 1))
    assert not list(Upsample((4, 3), (8, 16)).parameters())


def test_positions_are_kept():
    """A bright cell comes out centred on the pixels it stands for."""
    heat = torch.zeros(1, 1, 8, 12)
    heat[0, 0, 5, 3] = 1
    out = Upsample((1,), (8,), normalize=False)(features(heat), torch.empty(0), (64, 96))[0, 0]
    rows, columns = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    centre = [(float((axis * out).sum() / out.sum())) for axis in (rows, columns)]
    assert centre == pytest.approx([44, 28], abs=1e-3)


def test_layers_choose_maps():
    maps = features(torch.randn(1, 4, 8, 12), torch.randn(1, 3, 4, 6))
    decoder = Upsample((4, 3), (8, 16), layers=[-1])
    assert decoder.dim == 3
    assert decoder(maps, torch.empty(0), (8, 12)).shape == (1, 3, 8, 12)
    for bad in ([], [2], [-3]):
        with pytest.raises(InputError, match="maps 0 to 1"):
            Upsample((4, 3), (8, 16), layers=bad)


def test_bfloat16_maps_shrink_too():
    item = features(torch.randn(1, 4, 8, 12))
    exact = Upsample((4,), (8,))(item, torch.empty(0), (3, 5))
    rough = Upsample((4,), (8,))(features(item.maps[0].bfloat16()), torch.empty(0), (3, 5))
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.02, atol=0.02)
