"""Normals from depth: planes, whose normal is known, edges between them, and holes."""

import math

import pytest
import torch
from dense_ctx_datasets.normals_from_depth import normals_from_depth

from dense_ctx.errors import InputError

H, W = 24, 32
CAMERA = (40.0, 38.0, 15.5, 11.5)


def plane(normal, distance, size=(H, W)):
    """Depth [1, H, W] of the plane normal . X = -distance, whose normal faces the camera."""
    fx, fy, cx, cy = CAMERA
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    rays = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)])
    unit = torch.tensor(normal, dtype=torch.float64)
    unit = unit / unit.norm()
    return (-distance / (unit[:, None, None] * rays).sum(0))[None], unit


def degrees(found, unit):
    cosine = (found.double() * unit[:, None, None]).sum(0).clamp(-1, 1)
    return torch.rad2deg(torch.acos(cosine))


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.3, 0, -1), (0, -0.5, -1), (0.4, 0.3, -1), (-0.6, 0.2, -0.8)])
@pytest.mark.parametrize("radius", [1, 3])
def test_a_plane_has_its_normal_everywhere(normal, radius):
    depth, unit = plane(normal, 2.0)
    assert (depth > 0).all()
    normals = normals_from_depth(depth.float(), CAMERA, radius=radius, jump=0.5)
    assert normals.dtype == torch.float32
    assert normals.shape == (3, H, W)
    assert degrees(normals, unit).max() < 0.2
    assert (normals.norm(dim=0) - 1).abs().max() < 1e-5


def test_axes_are_x_right_y_down_z_into_the_scene():
    wall = normals_from_depth(torch.full((1, H, W), 3.0), CAMERA)
    assert torch.allclose(wall, torch.tensor([0.0, 0.0, -1.0])[:, None, None].expand(3, H, W), atol=1e-4)
    floor, unit = plane((0, -1, -0.2), 1.5)  # below the camera: its normal points up, against y
    normals = normals_from_depth(torch.where(floor > 0, floor, torch.nan).float(), CAMERA, jump=0.5)[:, -6:]
    assert (normals[1] < -0.9).all()
    assert degrees(normals, unit).max() < 0.2


def test_an_edge_between_two_walls_is_not_rounded():
    near, near_unit = plane((0.3, 0, -1), 1.0)
    far, far_unit = plane((-0.3, 0.2, -1), 3.0)
    depth = torch.where(torch.arange(W) < 14, near, far).float()
    normals = normals_from_depth(depth, CAMERA)
    assert degrees(normals[:, :, :14], near_unit).max() < 0.5
    assert degrees(normals[:, :, 14:], far_unit).max() < 0.5
    rounded = normals_from_depth(depth, CAMERA, jump=10.0)  # without the rule both sides mix
    assert degrees(rounded[:, :, 12:14], near_unit).min() > 5


def test_unknown_depth_stays_unknown_and_does_not_bend_its_neighbours():
    depth, unit = plane((0.2, -0.3, -1), 2.0)
    depth = depth.float()
    depth[0, 5, 7], depth[0, 6, 20], depth[0, 10:14, 10:13] = torch.nan, 0.0, -1.0
    normals = normals_from_depth(depth, CAMERA)
    unknown = ~(depth[0] > 0)
    assert torch.equal(normals.isnan().all(0), unknown)
    assert degrees(normals, unit)[~unknown].max() < 0.2


def test_too_few_points_give_no_normal():
    depth = torch.full((1, H, W), torch.nan)
    depth[0, 4, 4] = depth[0, 4, 5] = 2.0  # two points are no surface
    assert normals_from_depth(depth, CAMERA).isnan().all()


def test_noise_is_averaged():
    depth, unit = plane((0.2, 0.1, -1), 2.0)
    noisy = depth.float() + 0.002 * torch.randn(depth.shape, generator=torch.Generator().manual_seed(0))
    errors = [degrees(normals_from_depth(noisy, CAMERA, radius=r), unit).mean() for r in (1, 2, 4)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(
    ("depth", "camera", "message"),
    [
        (torch.ones(H, W), CAMERA, r"\[1, H, W\] in metres; got \[24, 32\]"),
        (torch.ones(1, H, W), (0.0, 38.0, 1.0, 1.0), "focal lengths above 0"),
        (torch.ones(1, H, W), (40.0, math.nan, 1.0, 1.0), "focal lengths above 0"),
        (torch.ones(1, H, W), (40.0, 38.0), r"four numbers \(fx, fy, cx, cy\)"),
        (torch.full((1, H, W), torch.nan), CAMERA, "no known value"),
    ],
)
def test_input_is_checked(depth, camera, message):
    with pytest.raises(InputError, match=message):
        normals_from_depth(depth, camera)
