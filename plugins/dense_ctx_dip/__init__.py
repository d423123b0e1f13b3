"""DIP: dense in-context post-training (arXiv 2506.18463): automatic tasks, the objective, its models' names."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_objectives(register: Register) -> None:
    """Name the objective."""
    register("dip", "dense_ctx_dip.objective:DipObjective")


@hookimpl
def register_backbones(register: Register) -> None:
    """Name the family of backbones with low-rank adapters."""
    register("lora:", "dense_ctx_dip.lora:LoraBackbone")


@hookimpl
def register_models(register: Register) -> None:
    """Name the models. Their repositories hold no weights yet; the README says how they are made."""
    for name in ("dip-s14", "dip-b14"):
        register(name, f"hub:dense-ctx/{name}")
