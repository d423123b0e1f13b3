"""MAXA: masked cross-attention adapters, the heads they are compared with, their tasks. Here are the parts' names."""

from dense_ctx.hookspecs import Register, hookimpl

TASKS = ("boundaries", "distance", "instances", "semantic", "depth", "normals")


@hookimpl
def register_decoders(register: Register) -> None:
    """Name the adapter and its two baselines."""
    register("maxa", "dense_ctx_maxa.maxa:Maxa")
    register("cnn", "dense_ctx_maxa.heads:CnnHead")
    register("linear", "dense_ctx_maxa.heads:LinearHead")


@hookimpl
def register_objectives(register: Register) -> None:
    """Name one objective for each task."""
    for task in TASKS:
        register(f"maxa-{task}", "dense_ctx_maxa.objective:MaxaObjective", args={"task": task})
