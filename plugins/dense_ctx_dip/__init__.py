"""DIP: dense in-context post-training (arXiv 2506.18463): automatic tasks, the objective, its models' names."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Name the parts."""
    register("objective", "dip", "dense_ctx_dip.objective:DipObjective")
    register("command", "pseudo-label", "dense_ctx_dip.command:PseudoLabel")
    for name in ("dip-s14", "dip-b14"):
        register("model", name, f"hub:dense-ctx/{name}")
