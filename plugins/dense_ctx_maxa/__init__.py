"""MAXA: masked cross-attention adapters, the heads they are compared with, their tasks. Here are the parts' names."""

from dense_ctx.hookspecs import Register, hookimpl

TASKS = ("boundaries", "distance", "instances", "semantic", "depth", "normals")


@hookimpl
def register_parts(register: Register) -> None:
    """Name the parts."""
    register("decoder", "maxa", "dense_ctx_maxa.maxa:Maxa")
    register("decoder", "cnn", "dense_ctx_maxa.heads:CnnHead")
    register("decoder", "linear", "dense_ctx_maxa.heads:LinearHead")
    for task in TASKS:
        register("objective", f"maxa-{task}", "dense_ctx_maxa.objective:MaxaObjective", args={"task": task})
