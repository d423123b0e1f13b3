"""Model card of a predictor: task, classes and usage. It holds no local path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dense_ctx.persistence.card import PIPELINES

if TYPE_CHECKING:
    from .predictor import Predictor

RESULTS = {
    "segmentation": "int64 [H, W], the ids below",
    "depth": "float [1, H, W], metres",
    "normals": "float [3, H, W], unit vectors: x right, y down, z into the scene",
    "regression": "float [K, H, W], in the units of the examples",
}


def predictor_card(predictor: Predictor, name: str, license: str) -> str:
    """README.md of a predictor that was fitted to examples, with the Hub's metadata as front matter."""
    context = predictor.context
    method = "" if context is None else f", by the probe `{context.method}` fitted to a few annotated images"
    config = predictor.model.model_config
    parts = "" if config is None else f" backbone `{config.backbone.name}`, decoder `{config.decoder.name}`"
    lines = [
        "---",
        "library_name: dense_ctx",
        f"license: {license}",
        f"pipeline_tag: {PIPELINES.get(predictor.task, 'image-to-image')}",
        "tags: [dense-prediction, dense_ctx]",
        "---",
        f"# {name}",
        "",
        f"Predicts {'classes' if predictor.task == 'segmentation' else predictor.task} for every pixel{method}. "
        f"Features:{parts}.",
        "",
        "```python",
        "from dense_ctx_predict import Predictor",
        "",
        f'predictor = Predictor.from_pretrained("{name}")   # a folder, or owner/{name} on the Hub',
        f'predictor.predict("photo.jpg")   # {RESULTS[predictor.task]}',
        "```",
        "",
        "```bash",
        f"dense-ctx predict --model {name} --query photos/",
        "```",
        "",
    ]
    if predictor.classes:
        lines += ["| id | class | colour |", "|---|---|---|"]
        lines += [f"| {c.id} | {_cell(c.name)} | #{bytes(c.colour).hex()} |" for c in predictor.classes]
        lines.append("")
    lines += [
        "It was fitted to its examples only: check it on images that look different.",
        "",
        f"Licence: {license}. The backbone keeps the licence of its own home.",
        "",
    ]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
