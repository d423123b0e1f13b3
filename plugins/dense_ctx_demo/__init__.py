"""Plugin with the command `dense-ctx demo`."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Register the command."""
    register("command", "demo", "dense_ctx_demo.command:Demo")
