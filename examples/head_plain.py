"""Train a head on a backbone's maps with a plain loop, as on timm's `features_only` networks.

    python examples/head_plain.py            # prints the mean IoU of the demo's clip, from its first frame (extra demo)

The backbone is frozen; `backbone.dims` and `backbone.strides` are timm's feature_info.channels() and reduction().
"""

import argparse

import torch
from dense_ctx_demo import demo
from torch import nn
from torch.nn import functional

from dense_ctx import AutoDenseModel
from dense_ctx.data.video import Video
from dense_ctx.images import load


class Head(nn.Module):
    """A 1x1 convolution of each map, summed at the finest one, enlarged to the images."""

    def __init__(self, dims, classes):
        super().__init__()
        self.project = nn.ModuleList([nn.Conv2d(dim, classes, 1) for dim in dims])

    def forward(self, maps, size):
        scores = [layer(each) for layer, each in zip(self.project, maps, strict=True)]
        finest = max(score.shape[-2:] for score in scores)
        return functional.interpolate(
            sum(functional.interpolate(s, finest, mode="bilinear") for s in scores), size, mode="bilinear"
        )


def sample(number):
    """Image [1, 3, H, W] in [0, 1] and labels [1, H, W] of an annotated frame."""
    frame = next(frame for index, frame in enumerate(Video(demo.clip_path())) if index == number)
    return load(demo.enlarge(frame))[None], demo.enlarge_labels(demo.annotation(number))[None]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="five steps")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = AutoDenseModel.from_parts("efficientnet-lite0", backbone_args={"layers": [1, 2, 3]})
    images, labels = sample(0)
    maps = model.encode(images)[0].maps  # normalised and padded to the stride, as the backbone needs it
    head = Head(model.backbone.dims, len(demo.CLASSES))
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
    first = None
    for _ in range(5 if args.quick else args.steps):
        loss = functional.cross_entropy(head(maps, labels.shape[-2:]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = loss.item() if first is None else first
    print(f"loss {first:.3f} -> {loss.item():.3f}")
    images, labels = sample(60)
    with torch.no_grad():
        predicted = head(model.encode(images)[0].maps, labels.shape[-2:]).argmax(1)
    print(f"mean IoU on frame 60: {sum(demo.class_iou(predicted[0], labels[0])) / len(demo.CLASSES):.3f}")


if __name__ == "__main__":
    main()
