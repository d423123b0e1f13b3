"""A server for the annotation tools Label Studio and X-AnyLabeling: command `serve`."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Register the command."""
    register("command", "serve", "dense_ctx_serve.command:Serve")
