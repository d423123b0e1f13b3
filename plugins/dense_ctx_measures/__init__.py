"""Plugin: measures of dense features that need few labels or none, and command `measure` (docs/measures.md)."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Register the command."""
    register("command", "measure", "dense_ctx_measures.command:Measure")
