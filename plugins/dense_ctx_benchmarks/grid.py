"""Several models under several protocols, which share the passes of their backbones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dense_ctx.device import processes
from dense_ctx.errors import InputError
from dense_ctx.evaluate import Protocol, Result, evaluate
from dense_ctx.model import DenseModel
from dense_ctx.tiling import parse_memory

from .compare import compare
from .passes import BackbonePasses, backbone_digest


def places(out: Path, models: Sequence[str], protocols: Sequence[str]) -> dict[tuple[str, str], Path]:
    """The folder of each model under each protocol: `out`, with a level for protocols and one for models of several.

    Raises:
        InputError: a model or protocol twice, or two models whose folders would be one.
    """
    for what, names in (("model", models), ("protocol", protocols)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(f"the {what} {twice[0]} is given twice: leave one out")
    slugs = {model: re.sub(r"[^\w.+=-]+", "_", model).strip("_.") for model in models}
    for slug, count in Counter(slugs.values()).items():
        if count > 1:
            alike = " and ".join(model for model, own in slugs.items() if own == slug)
            raise InputError(f"{alike} would have one folder, {slug}: evaluate them with an --out each")
    folders = {}
    for model in models:
        for protocol in protocols:
            level = out / protocol if len(protocols) > 1 or len(models) > 1 else out
            folders[model, protocol] = level / slugs[model] if len(models) > 1 else level
    return folders


class Grid:
    """Evaluations one after the other; each prints its scores when it is done.

    Args:
        models: by name. out: of all; feature maps that are read again lie in it meanwhile.
        share: bytes of those, such as "10GB"; "0": each evaluation computes its own.

    Raises:
        InputError: `share` is not a size.
    """

    def __init__(self, models: dict[str, DenseModel], out: Path, share: str) -> None:
        self.models, self.results = models, list[Result]()
        try:
            budget = 0 if share == "0" else parse_memory(share)
        except InputError:
            raise InputError(f'share={share!r} is not a size such as "10GB", or 0') from None
        self.passes = BackbonePasses(out / ".features", budget // processes()[1])
        digests = {name: backbone_digest(model.backbone) for name, model in models.items()} if budget else {}
        users = Counter(digests.values())
        self.shared = {name for name, digest in digests.items() if users[digest] > 1}

    def run(
        self, name: str, protocol: Protocol, data: Path, out: Path, *, several: bool = False, **options: Any
    ) -> None:
        """Evaluate a model, by name; options as `dense_ctx.evaluate.evaluate`.

        Args:
            several: protocols follow that may read this model's maps again.
        """
        model = self.models[name]
        share = name in self.shared or (several and self.passes.budget > 0)
        with self.passes.shared(model.backbone, protocol.precision) if share else nullcontext():
            result = evaluate(model, protocol, data, out, name=name, **options)
        self.results.append(result)
        if processes()[0] == 0:
            spread = f" ± {result.std:.4f}" if result.std is not None else ""
            print(f"{result.protocol_id}  {name}  {result.metric} {result.value:.4f}{spread}")
            print("  " + "  ".join(f"{key} {value:.4f}" for key, value in result.scores.items()))
            print(f"  {out / 'result.json'}", flush=True)

    def finish(self) -> None:
        """Print a table of each protocol's models, and how many passes were shared; the maps are removed."""
        groups: dict[tuple[str, str], list[Result]] = {}
        for result in self.results:
            groups.setdefault((result.protocol_id, result.protocol_digest), []).append(result)
        if processes()[0] == 0:
            for group in groups.values():
                if len(group) > 1:
                    print(f"\n{compare(group)}")
            if self.passes.computed + self.passes.read:
                print(
                    f"\nbackbone passes: {self.passes.computed} computed, {self.passes.read} read again "
                    f"({self.passes.stored / 1e9:.2f} GB)"
                    + ("; --share was too small for the rest" if self.passes.full else "")
                )
            self.passes.remove()
