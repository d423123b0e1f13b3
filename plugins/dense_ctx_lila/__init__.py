"""LILA: linear in-context learning of pixel features from video. Today: the short names its models will have."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_models(register: Register) -> None:
    """Name the models. Their repositories hold no weights yet; the README says how they are made."""
    for name in ("lila-s14", "lila-b14", "lila-l14"):
        register(name, f"hub:dense-ctx/{name}")
