"""Probes: what reads predictions out of frozen features."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_probes(register: Register) -> None:
    """Name the probes."""
    register("ridge", "dense_ctx_probes.ridge:RidgeProbe")
    register("knn", "dense_ctx_probes.knn:KnnProbe")
    register("linear", "dense_ctx_probes.linear:LinearProbe")
    register("conv", "dense_ctx_probes.conv:ConvProbe")
    register("attention", "dense_ctx_probes.attention:AttentionProbe")
    register("retrieval", "dense_ctx_probes.retrieval:RetrievalProbe")
    register("zero-shot", "dense_ctx_probes.zero_shot:ZeroShotProbe")
    register("propagation", "dense_ctx_probes.propagation:PropagationProbe")
