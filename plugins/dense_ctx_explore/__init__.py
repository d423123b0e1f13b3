"""A page in the browser to label images and clips: strokes, predictions, corrections. Here is the verb's name."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Register the command."""
    register("command", "explore", "dense_ctx_explore.command:Explore")
