"""Registration of the core's own commands."""

from .hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Register the parts."""
    for verb in ("plugins", "train"):
        register("command", verb, f"dense_ctx.commands.{verb}:{verb.capitalize()}")
