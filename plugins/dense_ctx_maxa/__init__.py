"""Plugin: MAXA, masked cross-attention adapters; baseline heads, objectives and tasks."""

from importlib import resources

from dense_ctx.hookspecs import DefineKind, Register, hookimpl

TASKS = {
    "boundaries": "instance_tasks:Boundaries",
    "distance": "instance_tasks:Distance",
    "instances": "instance_tasks:Instances",
    "semantic": "pixel_tasks:Semantic",
    "depth": "pixel_tasks:Depth",
    "normals": "pixel_tasks:Normals",
}


@hookimpl
def define_kinds(define: DefineKind) -> None:
    """Add the kind "task"."""
    define("task", "dense_ctx_maxa.tasks:Task")


@hookimpl
def register_parts(register: Register) -> None:
    """Name the parts; the objective `maxa` takes any registered task."""
    register("decoder", "maxa", "dense_ctx_maxa.maxa:Maxa")
    register("decoder", "cnn", "dense_ctx_maxa.heads:CnnHead")
    register("decoder", "linear", "dense_ctx_maxa.heads:LinearHead")
    register("objective", "maxa", "dense_ctx_maxa.objective:MaxaObjective")
    for task, target in TASKS.items():
        register("task", task, f"dense_ctx_maxa.{target}")
        register("objective", f"maxa-{task}", "dense_ctx_maxa.objective:MaxaObjective", args={"task": task})
    for file in resources.files(__name__).joinpath("presets").iterdir():
        register("preset", file.name.removesuffix(".yaml"), f"{__name__}:presets/{file.name}")
