"""Plugin: protocols of published benchmarks and the papers' tables; commands `evaluate` and `compare`."""

from importlib import resources

from dense_ctx.hookspecs import DefineKind, Register, hookimpl


@hookimpl
def define_kinds(define: DefineKind) -> None:
    """Published tables: one JSON file for each paper (`dense_ctx_benchmarks.papers`)."""
    define("paper", suffix=".json")


@hookimpl
def register_parts(register: Register) -> None:
    """Name every protocol and paper that lies here, and the verbs."""
    for kind, folder, suffix in (("protocol", "protocols", ".yaml"), ("paper", "papers", ".json")):
        for file in resources.files(__name__).joinpath(folder).iterdir():
            if file.name.endswith(suffix):
                register(kind, file.name.removesuffix(suffix), f"{__name__}:{folder}/{file.name}")
    register("command", "evaluate", f"{__name__}.evaluate_command:Evaluate")
    register("command", "compare", f"{__name__}.compare_command:Compare")
