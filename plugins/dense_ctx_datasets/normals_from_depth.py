"""Surface normals from depth and camera intrinsics, for data that have none."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import InputError


def normals_from_depth(
    depth: Tensor, intrinsics: tuple[float, float, float, float], *, radius: int = 6, jump: float = 0.05
) -> Tensor:
    """Fit a plane to the 3D points around each pixel; the normal faces the camera.

    A plane n . X = 1 is fitted by least squares to the known points of a (2 radius + 1)^2 window whose relative depth
    difference to the centre is below `jump`, so that depth edges are not smoothed. Large windows are subsampled to
    every second or third row and column: against noise the width of the window matters, not the number of points.

    Args:
        depth: [1, H, W] in metres; NaN and values not above 0 are unknown.
        intrinsics: (fx, fy, cx, cy) in pixels.
        radius: of the window, pixels. On a Kinect's depth, 3 differs from 9 by some 20 degrees (RMS), 6 by some 10.
        jump: relative depth difference from which a point is treated as another surface.

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
    valid = z.isfinite() & (z > 0)
    if not bool(valid.any()):
        raise InputError("The depth map holds no known value (all NaN, 0 or below)")
    z = torch.where(valid, z, 0.0)
    height, width = z.shape
    x = (torch.arange(width, dtype=torch.float64, device=z.device) - cx)[None] / fx * z
    y = (torch.arange(height, dtype=torch.float64, device=z.device) - cy)[:, None] / fy * z
    # the normal equations A n = b, A = sum p p^T, b = sum p, over the near points: ten sums, in one pass an offset
    terms = torch.stack([x * x, x * y, x * z, y * y, y * z, z * z, x, y, z, valid.double()])
    sums = torch.zeros_like(terms)
    step = -(-radius // 3)
    offsets = [radius + k * step for k in range(-(radius // step), radius // step + 1)]
    padded = functional.pad(terms[None], (radius,) * 4)[0]
    limit = jump * z
    for dy in offsets:
        for dx in offsets:
            shifted = padded[:, dy : dy + height, dx : dx + width]
            # unknown pixels have terms of 0
            sums.addcmul_(shifted, ((shifted[8] - z).abs_() < limit).double())
    count = sums[9]
    solved = _solve_symmetric(sums[:6], sums[6:9])
    normal = functional.normalize(solved, dim=0)
    # n . X = 1 points away from the camera; the convention is towards it
    facing = torch.where(normal[0] * x + normal[1] * y + normal[2] * z > 0, -normal, normal)
    enough = valid & (count >= len(offsets))
    return torch.where(enough, facing, torch.nan).float()


def _solve_symmetric(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve A n = b for 3 x 3 systems by the adjugate, up to a positive factor; [3, H, W].

    A billionth of the trace is added to the diagonal for windows whose points lie on a line. A is then positive
    definite, so the omitted determinant is a positive factor, which does not change the direction.

    Args:
        matrix: xx, xy, xz, yy, yz, zz of A, [6, H, W]. right: b, [3, H, W].
    """
    scale = (matrix[0] + matrix[3] + matrix[5]).clamp_min(1e-12)
    a, b, c, d, e, f = matrix / scale
    a, d, f = a + 1e-9, d + 1e-9, f + 1e-9
    bx, by, bz = right / scale
    ad_bb, ae_bc, af_cc = a * d - b * b, a * e - b * c, a * f - c * c
    be_cd, bf_ce, df_ee = b * e - c * d, b * f - c * e, d * f - e * e
    return torch.stack(
        [
            df_ee * bx - bf_ce * by + be_cd * bz,
            -bf_ce * bx + af_cc * by - ae_bc * bz,
            be_cd * bx - ae_bc * by + ad_bb * bz,
        ]
    )
