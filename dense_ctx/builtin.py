"""What the core itself registers: its verbs and metrics."""

from .hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Name the parts."""
    for verb in ("evaluate", "features", "plugins", "segment", "track", "train"):
        register("command", verb, f"dense_ctx.commands.{verb}:{verb.capitalize()}")
    for task, metric in (
        ("segmentation", "SegmentationMetric"),
        ("zero-shot", "ZeroShotMetric"),
        ("depth", "DepthMetric"),
        ("normals", "NormalsMetric"),
        ("video", "VideoMetric"),
    ):
        register("metric", task, f"dense_ctx.metrics:{metric}")
