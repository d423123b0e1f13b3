"""Plugin: DIP, dense in-context post-training (arXiv 2506.18463): objective, segmenters and automatic tasks."""

from importlib import resources

from dense_ctx.hookspecs import HUB_OWNER, DefineKind, Register, hookimpl

# no address of the files is known: the authors' page, github.com/sirkosophia/DIP, has a heading for them and no link
_HOW = (
    "The authors' file is dip_coco_{size}/checkpoint-4.pth of github.com/sirkosophia/DIP; no stable address or sha256 "
    "of it is known. Once you have it: `dense-ctx convert dip checkpoint-4.pth --out {name}`, then open that folder. "
    "Or train it: `dense-ctx train {name} data=TASKS` (an official preset)"
)


@hookimpl
def define_kinds(define: DefineKind) -> None:
    """Segmenters: an image to class-agnostic segments."""
    define("segmenter", "dense_ctx_dip.segmenters:Segmenter")


@hookimpl
def register_parts(register: Register) -> None:
    """Register the parts."""
    register("objective", "dip", "dense_ctx_dip.objective:DipObjective")
    register("command", "pseudo-label", "dense_ctx_dip.command:PseudoLabel")
    register("segmenter", "ncut", "dense_ctx_dip.segmenters:NcutSegmenter")
    register("segmenter", "patches", "dense_ctx_dip.segmenters:PatchSegmenter")
    register("segmenter", "slic", "dense_ctx_dip.slic:SlicSegmenter", extra="dip")
    register("segmenter", "diffcut", "dense_ctx_dip.diffcut:DiffCutSegmenter", extra="diffcut")
    register("converter", "dip", "dense_ctx_dip.convert:from_dip")
    for name, size in (("dip-s14", "small"), ("dip-b14", "base")):
        register("model", name, f"hub:{HUB_OWNER}/{name}", args={"unpublished": _HOW.format(name=name, size=size)})
    for file in resources.files(__name__).joinpath("presets").iterdir():
        register("preset", file.name.removesuffix(".yaml"), f"{__name__}:presets/{file.name}")
