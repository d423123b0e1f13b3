"""DIP: dense in-context post-training (arXiv 2506.18463): automatic tasks, the objective, its models' names."""

from importlib import resources

from dense_ctx.hookspecs import DefineKind, Register, hookimpl


@hookimpl
def define_kinds(define: DefineKind) -> None:
    """Segmenters: an image to class-agnostic segments."""
    define("segmenter", "dense_ctx_dip.segmenters:Segmenter")


@hookimpl
def register_parts(register: Register) -> None:
    """Name the parts."""
    register("objective", "dip", "dense_ctx_dip.objective:DipObjective")
    register("command", "pseudo-label", "dense_ctx_dip.command:PseudoLabel")
    register("segmenter", "ncut", "dense_ctx_dip.segmenters:NcutSegmenter")
    register("segmenter", "patches", "dense_ctx_dip.segmenters:PatchSegmenter")
    register("segmenter", "slic", "dense_ctx_dip.slic:SlicSegmenter", extra="dip")
    register("segmenter", "diffcut", "dense_ctx_dip.diffcut:DiffCutSegmenter", extra="diffcut")
    for name in ("dip-s14", "dip-b14"):
        register("model", name, f"hub:dense-ctx/{name}")
    for file in resources.files(__name__).joinpath("presets").iterdir():
        register("preset", file.name.removesuffix(".yaml"), f"{__name__}:presets/{file.name}")
