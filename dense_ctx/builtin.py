"""Registration of the core's own command."""

from .hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Register the parts."""
    register("command", "plugins", "dense_ctx.commands.plugins:Plugins")
