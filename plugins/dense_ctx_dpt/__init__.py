"""Decoders: `dpt` (dense prediction transformer, Ranftl et al. 2021) and the parameter-free `upsample`."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Name the parts."""
    register("decoder", "dpt", "dense_ctx_dpt.dpt:DPT")
    register("decoder", "upsample", "dense_ctx_dpt.upsample:Upsample")
