"""Label-light measures of dense features: temporal consistency, boundary quality, invariance (docs/measures.md)."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Name the verb."""
    register("command", "measure", "dense_ctx_measures.command:Measure")
