"""Plugin: metrics as the benchmarks define them, named by their tasks, and command `score`."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Register the metrics and the command."""
    register("metric", "segmentation", "dense_ctx_metrics.segmentation:SegmentationMetric")
    register("metric", "zero-shot", "dense_ctx_metrics.segmentation:ZeroShotMetric")
    register("metric", "depth", "dense_ctx_metrics.depth:DepthMetric")
    register("metric", "normals", "dense_ctx_metrics.normals:NormalsMetric")
    register("metric", "video", "dense_ctx_metrics.video:VideoMetric")
    register("command", "score", "dense_ctx_metrics.command:Score")
