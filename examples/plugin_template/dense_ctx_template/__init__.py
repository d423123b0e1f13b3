"""Names of this plugin's parts, and its hook. Only `hookimpl` is imported here: listing plugins must not load torch."""

from dense_ctx import hookimpl


@hookimpl
def register_parts(register):
    """Register each part as (kind, name, "module:Class"), or "package:file" for a kind of files."""
    register("decoder", "template-conv", "dense_ctx_template.decoder:ConvDecoder")
    register("objective", "template-colours", "dense_ctx_template.objective:Colours")
    register("dataset", "template-cells", "dense_ctx_template.dataset:Cells")
    register("metric", "template-dice", "dense_ctx_template.metric:Dice")
    register("protocol", "template-cells-ridge-v1", "dense_ctx_template:protocols/template-cells-ridge-v1.yaml")
    register("cue", "template-edges", "dense_ctx_template.cue:Edges")


@hookimpl
def training_evaluation(config, step, scores):
    """Keep the best validation of each run in OUT/best.json."""
    from .best import keep_best

    keep_best(config.out, step, scores)
