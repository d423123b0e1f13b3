"""The targets of a pair of crops: the standardised maps of all cues on one grid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from dense_ctx.config import parse_part
from dense_ctx.errors import ConfigError, InputError, refuse_idle
from dense_ctx.interfaces import Batch, Features
from dense_ctx.plugins import registry

from .crops import crop_map
from .cue_cache import CueCache
from .cues.base import Cue, create_cue
from .feature_cue import FeatureCue
from .frame_maps import confidence_of, cue_maps
from .sampling import Sampling
from .synthetic import LAYERS
from .targets import Targets

FEATURES = "features"  # the cue that is the backbone's own


class CueMaps(nn.Module):
    """Cues by name, and their maps for a batch.

    The backbone's own are made of its maps of the crops. Of the registered ones those with weights run here, beside
    the model (`heavy`); the others in the data workers (`light`). With a cache all are read, and no network is built.
    `build` builds them, so that missing data is noticed before weights are fetched.

    Raises:
        ConfigError: no cue, one twice, or a text in place of a list. UnknownNameError, InputError: no cue of that name,
            or arguments that it does not take.
    """

    def __init__(self, names: Sequence[str], feature_cue: FeatureCue, sampling: Sampling, folder: str | None) -> None:
        super().__init__()
        if isinstance(names, str):
            raise ConfigError(f"cues={names!r} is one text; expected a list of names, cues=[{names!r}]")
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"cues={list(names)}: at least one, each once")
        self.names, self.feature_cue, self.sampling = tuple(names), feature_cue, sampling
        outside = [name for name in names if name != FEATURES]
        own = "objective.args.sampling"
        refuse_idle([
            (bool(folder) and not outside, "cue_cache", f"with the cue {FEATURES} alone, made of the crops"),
            (bool(folder) and sampling.synthetic > 0, "cue_cache", "on synthetic pairs, whose maps no cache has"),
            (LAYERS in outside and not sampling.synthetic, f"the cue {LAYERS}", f"with {own}.synthetic=0: real pairs"
             " do not have it"),
            (sampling.flow_check and not any(name.startswith("flow:") for name in outside), f"{own}.flow_check",
             "without a flow cue"),
        ])  # fmt: skip
        low, high = sampling.gap
        self.cache = CueCache(folder, outside, sampling.cue_side, range(low, high + 1)) if folder else None
        self._unbuilt = [] if self.cache else outside
        for part in map(parse_part, self._unbuilt):
            registry().bind("cue", part.name, **part.args)
        self.heavy, self.light = nn.ModuleDict(), dict[str, Cue]()

    def build(self) -> CueMaps:
        """Build the registered cues, once.

        Raises:
            As `create_cue`.
        """
        for name in self._unbuilt:
            cue = create_cue(name)
            if any(True for _ in cue.parameters()):
                self.heavy[_key(name)] = cue
            else:
                self.light[name] = cue
        self._unbuilt = []
        return self

    def train(self, mode: bool = True) -> CueMaps:
        """Cue networks stay in eval."""
        return super().train(False)

    def channels(self, dims: Sequence[int]) -> int:
        """Of all cues, above a backbone whose maps have `dims`."""
        return sum(self._channels(name, dims) for name in self.names)

    def _channels(self, name: str, dims: Sequence[int]) -> int:
        if name == FEATURES:
            return self.feature_cue.channels(dims)
        if self.cache is not None:
            channels = self.cache.channels[parse_part(name).name]
            return int(channels.stop - channels.start)
        cue = cast(Cue, self.light.get(name) or self.heavy[_key(name)])
        return cue.channels

    @torch.no_grad()
    def prepare(self, batch: Batch, device: torch.device, half: bool = False) -> Batch:
        """The batch with the maps of the cue networks, in place of the whole frames that they are of.

        Args:
            half: run the networks in bfloat16.
        """
        names = [name for name in self.names if _key(name) in self.heavy and f"context/{name}" not in batch]
        if not names:
            return batch
        if "frames" not in batch:
            raise InputError("The batch holds no whole frames for the cue networks; make it with this objective's data")
        side = self.sampling.map_size
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, frames in enumerate(batch["frames"]):
            shapes.setdefault(tuple(frames.shape), []).append(index)
        order = torch.tensor([index for group in shapes.values() for index in group]).argsort().to(device)
        rows: dict[str, list[Tensor]] = {}
        for group in shapes.values():  # frames of one size are one call of a network
            pairs = torch.stack([batch["frames"][index] for index in group]).to(device)
            for name in names:
                cue = cast(Cue, self.heavy[_key(name)])
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    maps_of = cue_maps(name, cue, pairs[:, 0], pairs[:, 1], self.sampling.flow_check)
                for key, (context, query) in maps_of.items():
                    used = {"context": context, "query": context if self.sampling.same_frame else query}
                    for role, one in used.items():
                        row = rows.setdefault(f"{role}/{key}", [])
                        row.append(crop_map(one, batch[f"{role}_box"][group], side))
        maps = {key: torch.cat(parts)[order] for key, parts in rows.items()}
        return {**{key: value for key, value in batch.items() if key != "frames"}, **maps}

    @torch.no_grad()
    def forward(self, features: Features, images: Tensor, batch: Batch) -> tuple[dict[str, int], Targets]:
        """Channels of each cue, in their order, and their maps of all contexts, then all queries, of a prepared batch.

        The features cue is the first. Registered cues are standardised by the mean and std of the whole context frame.
        Features are known in the crops only, and a crop may show one flat thing: by the mean and std of both crops.
        """
        others: list[Tensor] = []
        widths: dict[str, int] = {}
        for name in self.names:
            if name == FEATURES:
                continue
            key = name if self.cache is None else parse_part(name).name
            pair = [batch[f"{role}/{key}"].to(images.device) for role in ("context", "query")]
            others.append(torch.cat(pair).float())
            widths[name] = others[-1].shape[1]
        if FEATURES not in self.names:
            return widths, Targets.of(torch.cat(others, 1))
        own = self.feature_cue(features, images, self.sampling.map_size)
        return {FEATURES: own.channels, **widths}, own.beside(torch.cat(others, 1)) if others else own

    def confidence(self, channels: dict[str, int], batch: Batch, device: torch.device, *roles: str) -> Tensor | None:
        """How much each pixel counts for each channel of the registered cues, [B, H, W, M] from 0 to 1; None: all 1.

        Args:
            channels: of each cue. roles: "context", "query": whose pixels, one after the other.
        """
        keys = {name: confidence_of(name if self.cache is None else parse_part(name).name) for name in channels}
        keys.pop(FEATURES, None)
        some = next((key for key in keys.values() if f"query/{key}" in batch), None)
        if some is None:
            return None
        ones = torch.ones_like(batch[f"query/{some}"])
        parts = []
        for role in roles:
            maps = [batch.get(f"{role}/{key}", ones).expand(-1, channels[name], -1, -1) for name, key in keys.items()]
            parts.append(torch.cat(maps, 1))
        return rearrange(torch.cat(parts).to(device), "b m h w -> b h w m")


def _key(name: str) -> str:
    return re.sub(r"\W", "_", name)  # a module's name holds no dot
