"""Optional capabilities of a decoder: reading only some layers, initialisation from data, a shift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..interfaces import Decoder, Features
from .common import Clauses, decoder_inputs, difference, finite, noise

SIZE = (33, 47)


@torch.no_grad()
def check_layers(check: Clauses, decoder: Decoder, dims: Sequence[int], strides: Sequence[int]) -> None:
    """`layers` names every map that forward reads."""
    features, images = decoder_inputs(dims, strides)
    with check.clause("layers") as require:
        count = len(dims)
        layers = range(count) if decoder.layers is None else decoder.layers
        exist = all(isinstance(layer, int) and -count <= layer < count for layer in layers)
        require(exist, f"layers is {decoder.layers}; the backbone has maps {-count} to {count - 1}")
        read = {layer % count for layer in layers}
        maps = tuple(m if i in read else torch.full_like(m, float("nan")) for i, m in enumerate(features.maps))
        only = decoder(Features(maps, features.cls, features.image_size), images, SIZE)
        gap = difference(only, decoder(features, images, SIZE))
        require(gap <= 1e-6, f"layers is {decoder.layers}, but forward reads other maps too")


@torch.no_grad()
def check_initialise(check: Clauses, decoder: Decoder, dims: Sequence[int], strides: Sequence[int]) -> None:
    """`initialise` works, or returns False with nothing read or changed."""
    batches = [decoder_inputs(dims, strides, grid=grid) for grid in ((4, 5), (6, 3))]
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    read = []

    def maps() -> Iterator[Sequence[Tensor]]:
        for features, _ in batches:
            read.append(features)
            yield features.maps

    with check.clause("initialise") as require:
        supported = decoder.initialise(maps())
        require(isinstance(supported, bool), f"gave a {type(supported).__name__}, not True or False")
        if supported:
            require(finite(decoder(*batches[0], SIZE)), "the output has NaN or infinity afterwards")
        else:
            same = all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
            require(same and not read, "says that it is not supported, and reads data or changes weights")


@torch.no_grad()
def check_shift(check: Clauses, decoder: Decoder, dims: Sequence[int], strides: Sequence[int]) -> None:
    """`shift` adds the offset to every pixel, or returns False with nothing changed."""
    features, images = decoder_inputs(dims, strides)
    with check.clause("shift") as require:
        before, offset = decoder(features, images, SIZE), noise(decoder.dim, seed=5)
        supported = decoder.shift(offset)
        require(isinstance(supported, bool), f"gave a {type(supported).__name__}, not whether it is supported")
        expected = before + offset[:, None, None] if supported else before
        gap = difference(decoder(features, images, SIZE), expected)
        require(gap <= 1e-4, f"returns {supported}, and the output differs by {gap:.1e} relative from what follows")
