"""The straightforward step of LILA, a PyTorch call for each sign of the formulas: what `lila_step.py` compares with.

PAMR stacks 24 shifted copies of the features in every iteration, as its official module does; the losses are operations
on whole maps, the gradient is autograd's; the regression inverts its matrix; each frame of a pair is encoded by itself.
"""

import torch
from torch.nn import functional

DILATIONS = (1, 3, 5)


def neighbours(x, dilations=DILATIONS):
    """[B, C, H, W] to [B, C, 8 * len(dilations), H, W], borders replicated."""
    height, width = x.shape[-2:]
    reach = max(dilations)
    padded = functional.pad(x, (reach,) * 4, mode="replicate")
    steps = [(y * d, x * d) for d in dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    return torch.stack([padded[..., reach + y :, reach + x :][..., :height, :width] for y, x in steps], 2)


def affinity(image, dilations=DILATIONS):
    """PAMR's weights, [B, 1, 8 * len(dilations), H, W]."""
    near = neighbours(image, dilations)
    centres = image[:, :, None].expand(-1, -1, len(dilations), -1, -1)
    std = torch.cat([near, centres], 2).std(2, keepdim=True)
    away = (near - image[:, :, None]).abs()
    return (-away / (1e-8 + 0.1 * std)).mean(1, keepdim=True).softmax(2)


def levels(features, image, pyramid=(4, 2, 1)):
    """Each level's picture and a function that brings features to its size."""
    for factor in pyramid:
        size = (image.shape[-2] // factor, image.shape[-1] // factor)
        level = image
        if factor > 1:
            level = functional.interpolate(image, size=size, mode="bilinear", antialias=True)
        yield level, lambda x, size=size: functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


def iterate(features, weights, count, channels=128):
    """`count` iterations; so many channels at a time that the copies fit into memory."""
    for _ in range(count):
        features = torch.cat([(neighbours(part) * weights).sum(2) for part in features.split(channels, 1)], 1)
    return features


def pamr(features, image, pyramid=(4, 2, 1), iterations=(20, 10, 5)):
    """Coarse to fine, an image at a time."""
    outputs = []
    for x, picture in zip(features.split(1), image.split(1), strict=True):
        for (level, resize), count in zip(levels(x, picture, pyramid), iterations, strict=True):
            x = iterate(resize(x), affinity(level), count)
        outputs.append(x)
    return torch.cat(outputs)


def standardized(context, query, floor=1e-3):
    """Both by the statistics of the pair."""
    pair = torch.stack([context, query])
    mean, std = pair.mean((0, 3, 4), keepdim=True), pair.std((0, 3, 4), keepdim=True, correction=0).clamp_min(floor)
    return (pair - mean) / std


def ridge(rows, targets, penalty, relative=True):
    """(X'X / N + penalty I)^-1 X'Y / N; the column of ones is not penalised.

    relative: the penalty counts in the features' mean variance. In float64: the inverse of a matrix in which the
    features' mean outweighs what varies keeps three digits in float32, and its gradient none.
    """
    rows, targets = rows.double(), targets.double()
    unit = rows.var(1, correction=0).mean(1) if relative else rows.new_ones(len(rows))
    penalties = penalty * unit[:, None].expand(-1, rows.shape[-1])
    penalties = torch.cat([penalties, torch.zeros_like(penalties[:, :1])], 1)
    rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1)
    count = rows.shape[-2]
    inverse = torch.linalg.inv(rows.mT @ rows / count + torch.diag_embed(penalties))
    return (inverse @ (rows.mT @ targets / count)).float()


def predict(pixels, weights):
    """[..., N, d] to [..., N, m]."""
    return torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ weights


def loss(predicted, cues, sigma, gamma):
    """Equations 3 to 6, each cue the same: L1 plus edges."""
    total = 0
    for part, target in zip(predicted.split([cue.shape[1] for cue in cues], 1), cues, strict=True):
        one = (part - target).abs().mean()
        for axis in (-1, -2):
            change, edge = part.diff(dim=axis).abs(), target.diff(dim=axis).abs()
            one = one + gamma * ((1 - torch.exp(-edge / sigma)) * (change - edge).abs()).mean()
        total = total + one / len(cues)
    return total
