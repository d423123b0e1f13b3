"""Surface normals from depth and camera intrinsics, for data that have none."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .errors import InputError


def normals_from_depth(
    depth: Tensor, intrinsics: tuple[float, float, float, float], *, radius: int = 6, jump: float = 0.05
) -> Tensor:
    """Fit a plane to the 3D points around each pixel; the normal faces the camera.

    A plane n . X = 1 is fitted by least squares to the known points of a (2 radius + 1)^2 window whose depth differs
    from the centre's by less than `jump` of it, so that a window across an edge does not round it. Of large windows
    every second or third row and column is looked at: width is what steadies a plane against noise.

    Args:
        depth: [1, H, W] in metres; NaN and values not above 0 are unknown.
        intrinsics: (fx, fy, cx, cy) in pixels.
        radius: of the window, pixels. On a Kinect's depth, 3 differs from 9 by some 20 degrees (RMS), 6 by some 10.
        jump: relative difference in depth from which a point belongs to another surface.

    Returns:
        float32 [3, H, W], unit length, x right, y down, z away from the camera; NaN where the depth is unknown or too
        few points are near.

    Raises:
        InputError: another shape, no known depth, or intrinsics that are not positive.
    """
    if depth.ndim != 3 or depth.shape[0] != 1:
        raise InputError(f"A depth map is [1, H, W] in metres; got {list(depth.shape)}")
    if len(intrinsics) != 4:
        raise InputError(f"intrinsics={intrinsics}: expected four numbers (fx, fy, cx, cy) in pixels")
    fx, fy, cx, cy = (float(value) for value in intrinsics)
    if not fx > 0 or not fy > 0 or radius < 1:
        raise InputError(f"intrinsics={intrinsics}, radius={radius}: focal lengths above 0 and a radius of at least 1")
    z = depth[0].double()
    known = z.isfinite() & (z > 0)
    if not bool(known.any()):
        raise InputError("The depth map holds no known value (all NaN, 0 or below)")
    z = torch.where(known, z, 0.0)
    height, width = z.shape
    x = (torch.arange(width, dtype=torch.float64, device=z.device) - cx)[None] / fx * z
    y = (torch.arange(height, dtype=torch.float64, device=z.device) - cy)[:, None] / fy * z
    points = torch.stack([x, y, z])
    # the sums of the normal equations A n = b, A = sum p p^T, b = sum p, over the near points
    gram = z.new_zeros(6, height, width)
    total = z.new_zeros(3, height, width)
    count = z.new_zeros(height, width)
    step = -(-radius // 3)
    offsets = [radius + k * step for k in range(-(radius // step), radius // step + 1)]
    padded = functional.pad(points[None], (radius,) * 4)[0]
    flags = functional.pad(known[None, None].double(), (radius,) * 4)[0, 0]
    for dy in offsets:
        for dx in offsets:
            p = padded[:, dy : dy + height, dx : dx + width]
            near = flags[dy : dy + height, dx : dx + width] * ((p[2] - z).abs() < jump * z)
            px, py, pz = p * near
            gram += torch.stack([px * p[0], px * p[1], px * p[2], py * p[1], py * p[2], pz * p[2]])
            total += torch.stack([px, py, pz])
            count += near
    xx, xy, xz, yy, yz, zz = gram
    matrix = torch.stack([torch.stack([xx, xy, xz]), torch.stack([xy, yy, yz]), torch.stack([xz, yz, zz])])
    matrix = matrix.permute(2, 3, 0, 1)
    scale = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp_min(1e-12)
    ridge = 1e-9 * torch.eye(3, dtype=torch.float64, device=z.device)  # against windows that see one line only
    solved = torch.linalg.solve(matrix / scale + ridge, total.permute(1, 2, 0)[..., None] / scale)[..., 0]
    normal = functional.normalize(solved.permute(2, 0, 1), dim=0)
    # n . X = 1 points away from the camera; the convention is towards it
    facing = torch.where((normal * points).sum(0) > 0, -normal, normal)
    enough = known & (count >= len(offsets))
    return torch.where(enough, facing, torch.nan).float()
