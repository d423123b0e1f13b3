"""MAXA: masked cross-attention adapters, the heads they are compared with, their tasks. Here are the parts' names."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_decoders(register: Register) -> None:
    """Name the adapter and its two baselines."""
    register("maxa", "dense_ctx_maxa.maxa:Maxa")
    register("cnn", "dense_ctx_maxa.heads:CnnHead")
    register("linear", "dense_ctx_maxa.heads:LinearHead")
