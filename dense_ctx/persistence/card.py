"""The model card: how to load it, its outputs, measurements and licences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config import ModelConfig

if TYPE_CHECKING:
    from ..model import DenseModel

PIPELINES = {"segmentation": "image-segmentation", "depth": "depth-estimation"}
_ROOT = r"(?:~[\\/]|[A-Za-z]:[\\/]|\\\\|/)"
_PATH = re.compile(  # alone or in quotes it may hold spaces
    rf"\A{_ROOT}[^\"'=,]*\Z|(?<=[\"']){_ROOT}[^\"']*(?=[\"'])"
    r"|(?<![\w./~\\:])(?:~|[A-Za-z]:)?(?:[\\/][^\s\\/\"',=]+)+[\\/]?"
)


def model_card(
    model: DenseModel, config: ModelConfig, name: str, metrics: Sequence[Mapping[str, Any]], license: str
) -> str:
    """README.md of a model folder, with the Hub's metadata on top."""
    parameters = sum(p.numel() for p in model.decoder.parameters())
    output, where = config.output, f'.from_pretrained("{name}")   # a folder, or owner/{name} on the Hub'
    if output is None:
        pipeline = "image-feature-extraction"
        what = f"Dense features, one vector of {model.dim} numbers for every pixel"
        code = ["from dense_ctx import AutoDenseModel", "", f"model = AutoDenseModel{where}"]
        code += ['features = model("photo.jpg")   # any size', f"features.pixels    # [1, {model.dim}, H, W]"]
        code += [f"features.patches   # [1, {model.backbone.dims[-1]}, h, w]"]
    else:
        pipeline = PIPELINES.get(output.task, "image-to-image")
        what = f"Predicts {', '.join(output.classes) or output.task} for every pixel"
        code = ["from dense_ctx_predict import Predictor", "", f"predictor = Predictor{where}"]
        code += ['predictor.predict("photo.jpg")   # any size']
    trained = json.dumps(config.to_dict()["trained_with"], indent=2) if config.trained_with else '"not trained"'
    rows = [f"| {row.get('name')} | {row.get('value')} | `{row.get('command', 'not stated')}` |" for row in metrics]
    measured = ["| metric | value | command |", "|---|---|---|", *rows] if rows else ["Nothing yet."]
    newline, plugins = "\n", ", ".join(f"{dist} {version}" for dist, version in config.plugins.items())
    return f"""---
library_name: dense_ctx
license: {license}
pipeline_tag: {pipeline}
tags: [dense-features, dense_ctx]
---
# {name}

{what}: backbone `{config.backbone.name}`, decoder `{config.decoder.name}`.

```python
{newline.join(code)}
```

Decoder: {parameters:,} parameters. {_stored(model, config)}

## Training

```json
{trained}
```

## Measured

{newline.join(measured)}

## Licences

The weights in this repository: {license}. The backbone keeps the licence of its own home. Plugins: {plugins}.
"""


def without_paths(value: Any) -> Any:
    """Replace each absolute path in JSON values by its last name: the rest is of use on this machine alone."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    return _PATH.sub(lambda path: re.split(r"[\\/]", path[0].rstrip("\\/"))[-1] or path[0], value)


def _stored(model: DenseModel, config: ModelConfig) -> str:
    """Which of the backbone's tensors this repository holds, and the source of the others."""
    stored = len(config.backbone_tensors)
    if stored and not config.backbone_digest:
        return "Backbone: all of it stored here."
    tuned = f"{stored} fine-tuned tensors stored here; the others" if stored else "none of it stored here; all of it"
    links = "".join(f", which is built on `{link.name}`" for link in model.backbone.links[1:])
    return f"Backbone: {tuned} fetched from its own home, {model.backbone.source}{links}."
