"""DIP: dense in-context post-training. Today: the short names its models will have."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_models(register: Register) -> None:
    """Name the models. Their repositories hold no weights yet; the README says how they are made."""
    for name in ("dip-s14", "dip-b14"):
        register(name, f"hub:dense-ctx/{name}")
