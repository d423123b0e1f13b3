"""LILA: linear in-context learning of pixel features from video. Here are its parts' names."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_models(register: Register) -> None:
    """Name the models. `lila-lite0` is in this package; the repositories of the others hold no weights yet."""
    register("lila-lite0", "dense_ctx_lila:models/lila-lite0")
    for name in ("lila-s14", "lila-b14", "lila-l14"):
        register(name, f"hub:dense-ctx/{name}")


@hookimpl
def register_objectives(register: Register) -> None:
    """Name the objective."""
    register("lila", "dense_ctx_lila.objective:LilaObjective")


@hookimpl
def register_cues(register: Register) -> None:
    """Name the cues of other networks; the features cue is the backbone's own, made by the objective."""
    register("flow:dis", "dense_ctx_lila.cues.dis:DIS", extra="flow")
    for size in ("small", "large"):
        register(f"flow:raft-{size}", "dense_ctx_lila.cues.raft:RAFT", args={"size": size})
    for size in ("s", "m", "l"):
        register(f"flow:sea-raft-{size}", "dense_ctx_lila.cues.sea_raft:SEARAFT", args={"size": size}, extra="sea-raft")
    for size in ("small", "base", "large"):
        name = f"depth:depth-anything-v2-{size}"
        register(name, "dense_ctx_lila.cues.depth:DepthAnything", args={"size": size})
