"""Decoders: `dpt` (dense prediction transformer, Ranftl et al. 2021) and the parameter-free `upsample`."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_decoders(register: Register) -> None:
    """Name the decoders."""
    register("dpt", "dense_ctx_dpt.dpt:DPT")
    register("upsample", "dense_ctx_dpt.upsample:Upsample")
