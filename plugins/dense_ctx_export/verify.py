"""Compare a written file with the model it was exported from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from dense_ctx_runtime.geometry import Size
from dense_ctx_runtime.graph_model import GraphModel

from dense_ctx.errors import ConfigError, DenseCtxError, InputError, cause_of
from dense_ctx.images import ImageLike, load, resized

from .source import Source

LIMIT = 1e-4  # of the largest value
_LONGEST = 448  # pixels of the photograph's longer side


def verify(source: Source, written: GraphModel, image: ImageLike | None, scope: str) -> list[dict[str, Any]]:
    """The largest differences by size and input, as `Facts.verified` has them.

    Args:
        image: the photograph; None: a frame of the demo's clip.
        scope: words for the message.

    Raises:
        ConfigError: a difference above 1e-4 of the largest value, ties everywhere, or a file that does not run.
    """
    photo = load(image) if image is not None else _packaged_photo()
    checks = []
    for size in sizes(source, (photo.shape[-2], photo.shape[-1])):
        random = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
        for kind, pixels in (("random", random), ("photograph", resized(photo, size))):
            array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
            try:
                error, ties = difference(source, written, array)
            except DenseCtxError:
                raise
            except Exception as fault:  # ONNX Runtime's own classes
                what = f"This model cannot be exported{scope}: its graph does not run at {size[0]} x {size[1]}"
                raise ConfigError(f"{what} ({cause_of(fault)})") from fault
            if not error <= LIMIT:
                raise ConfigError(
                    f"This model cannot be exported{scope}: at {size[0]} x {size[1]} the graph differs from the model "
                    f"by {error:.1e} of the largest value on a {kind} image; at most {LIMIT:.0e} is accepted"
                )
            checks.append({"size": list(size), "input": kind, "error": error, "ties": ties})
    if all(check["ties"] == 1 for check in checks):
        raise ConfigError(
            f"This model cannot be exported{scope}: nothing could be compared, since at every pixel the neighbour that "
            "votes last and the next are equally near. Are support images given twice? Leave copies out, or change k"
        )
    return checks


def difference(source: Source, written: GraphModel, image: Any) -> tuple[float, float]:
    """The largest difference over all outputs, each relative to its largest value; and the share of ties.

    Ties, pixels whose k-th and next neighbour are equally near up to rounding, are left out: which of the two votes
    differs between two runs of PyTorch itself, with the number of threads.
    """
    expected = {name: value.numpy() for name, value in source.eager(image).items()}
    if source.written is not None:
        given = source.written(written, image)
    elif written.task == "features":
        features = written(image)
        given = {"pixels": features.pixels, "patches": features.patches, "cls": features.cls}
    else:
        given = {"pixels": written.scores(image)[None]}
    clear = None if source.ties is None else ~source.ties(image).numpy()
    errors = [0.0]
    for name, value in expected.items():
        other = given[name]
        if other is None or other.shape != value.shape:
            raise InputError(f"{name} is {None if other is None else other.shape}, not {value.shape}")
        apart = np.abs(other - value)
        apart = apart if clear is None else apart[..., clear]
        errors.append(float(apart.max(initial=0.0) / max(float(np.abs(value).max()), 1e-12)))
    return max(errors), 0.0 if clear is None else float(1 - clear.mean())


def sizes(source: Source, photo: Size) -> list[Size]:
    """Sizes to compare at: the graph's own; or three with H != W, and that of the backbone's pre-training."""
    if source.facts.size is not None:
        return [source.facts.size]
    stride = source.facts.stride
    scale = min(1.0, _LONGEST / max(photo))
    own = (max(stride, round(photo[0] * scale)), max(stride, round(photo[1] * scale)))
    trained = source.graph.backbone.image_size
    square = [trained] if max(trained) <= 600 and source.facts.reads != "resized" else []
    if source.facts.track:  # a grid of several tiles
        square = [tuple(source.facts.track["stride"] * side + 1 for side in (44, 31))]
    return [(4 * stride + 3, 6 * stride - 1), (7 * stride, 3 * stride + 5), own, *square]


def _packaged_photo() -> torch.Tensor:
    from dense_ctx.data.video import Video

    try:
        from dense_ctx_demo.demo import clip_path

        return load(Video(clip_path()).first())
    except DenseCtxError as error:
        raise InputError(f"The exported file is checked on a photograph: give image=, or --image ({error})") from error
