"""Probes: `ridge`, `knn` and `linear` read predictions out of frozen features."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_probes(register: Register) -> None:
    """Name the probes."""
    register("ridge", "dense_ctx_probes.ridge:RidgeProbe")
    register("knn", "dense_ctx_probes.knn:KnnProbe")
    register("linear", "dense_ctx_probes.linear:LinearProbe")
