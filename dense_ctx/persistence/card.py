"""The model card: how to load it, its outputs, measurements and licences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config import ModelConfig

if TYPE_CHECKING:
    from ..model import DenseModel


def model_card(
    model: DenseModel, config: ModelConfig, name: str, metrics: Sequence[Mapping[str, Any]], license: str
) -> str:
    """README.md of a model folder, with the Hub's metadata on top."""
    parameters = sum(p.numel() for p in model.decoder.parameters())
    trained = json.dumps(config.to_dict()["trained_with"], indent=2) if config.trained_with else '"not trained"'
    rows = [f"| {row.get('name')} | {row.get('value')} | `{row.get('command', 'not stated')}` |" for row in metrics]
    measured = "\n".join(["| metric | value | command |", "|---|---|---|", *rows] if rows else ["Nothing yet."])
    return f"""---
library_name: dense_ctx
license: {license}
pipeline_tag: image-feature-extraction
tags: [dense-features, dense_ctx]
---
# {name}

Dense features, one vector of {model.dim} numbers for every pixel: backbone `{config.backbone.name}`, \
decoder `{config.decoder.name}`.

```python
from dense_ctx import AutoDenseModel

model = AutoDenseModel.from_pretrained("{name}")   # a folder, or owner/{name} on the Hub
features = model("photo.jpg")   # any size
features.pixels    # [1, {model.dim}, H, W]
features.patches   # [1, {model.backbone.dims[-1]}, h, w]
```

Decoder: {parameters:,} parameters. {_stored(model, config)}

## Training

```json
{trained}
```

## Measured

{measured}

## Licences

The weights in this repository: {license}. The backbone keeps the licence of its own home. \
Plugins: {", ".join(f"{dist} {version}" for dist, version in config.plugins.items())}.
"""


def _stored(model: DenseModel, config: ModelConfig) -> str:
    """Which of the backbone's tensors this repository holds, and where the others come from."""
    stored = len(config.backbone_tensors)
    if stored and not config.backbone_digest:
        return "Backbone: all of it stored here."
    tuned = f"{stored} fine-tuned tensors stored here; the others" if stored else "none of it stored here; all of it"
    links = "".join(f", which is built on `{link.name}`" for link in model.backbone.links[1:])
    return f"Backbone: {tuned} fetched from its own home, {model.backbone.source}{links}."
