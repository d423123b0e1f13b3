"""Plugin: LILA, linear in-context learning of pixel features from video; cues, and command `cues`."""

from importlib import resources

from dense_ctx.hookspecs import HUB_OWNER, DefineKind, Register, hookimpl

_HOW = (
    "Neither the authors nor we have published any. `dense-ctx train {name} data.root=YOUTUBE_VOS out=runs/{name}` (an "
    "official preset) makes them; then open runs/{name}/model"
)

_CLONE = (
    "It was trained on clips whose terms are not stated, so it is in the source repository alone and not in this "
    "package. Install a clone (pip install -e .), or train one in about ten minutes: `dense-ctx train lila-lite0 "
    "data=FOLDER_OF_CLIPS`; then open runs/lila-lite0/model"
)


@hookimpl
def define_kinds(define: DefineKind) -> None:
    """Cues: maps of two frames, for supervision."""
    define("cue", "dense_ctx_lila.cues.base:Cue")


@hookimpl
def register_parts(register: Register) -> None:
    """Register the parts."""
    if resources.files(__name__).joinpath("models").is_dir():  # a clone; what is built from it leaves them out
        register("model", "lila-lite0", "dense_ctx_lila:models/lila-lite0")
    else:
        register("model", "lila-lite0", f"hub:{HUB_OWNER}/lila-lite0", args={"unpublished": _CLONE})
    for name in ("lila-s14", "lila-b14", "lila-l14"):
        register("model", name, f"hub:{HUB_OWNER}/{name}", args={"unpublished": _HOW.format(name=name)})
    for file in resources.files(__name__).joinpath("presets").iterdir():
        register("preset", file.name.removesuffix(".yaml"), f"{__name__}:presets/{file.name}")
    register("command", "adapt", "dense_ctx_lila.adapt_command:AdaptCommand")
    register("command", "cues", "dense_ctx_lila.command:CuesCommand")
    register("objective", "lila", "dense_ctx_lila.objective:LilaObjective")
    register("cue", "layers", "dense_ctx_lila.cues.layers:Layers")
    for name in ("edges", "texture", "shading"):
        register("cue", name, f"dense_ctx_lila.cues.photometric:{name.capitalize()}")
    register("cue", "flow:dis", "dense_ctx_lila.cues.dis:DIS", extra="flow")
    for size in ("small", "large"):
        register("cue", f"flow:raft-{size}", "dense_ctx_lila.cues.raft:RAFT", args={"size": size})
    for size in ("s", "m", "l"):
        register(
            "cue",
            f"flow:sea-raft-{size}",
            "dense_ctx_lila.cues.sea_raft:SEARAFT",
            args={"size": size},
            extra="sea-raft",
        )
    for size in ("small", "base", "large"):
        name = f"depth:depth-anything-v2-{size}"
        register("cue", name, "dense_ctx_lila.cues.depth:DepthAnything", args={"size": size})
