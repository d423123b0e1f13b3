"""Plugin: probes, which predict from frozen features, and command `text`."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Register the parts."""
    register("probe", "ridge", "dense_ctx_probes.ridge:RidgeProbe")
    register("probe", "knn", "dense_ctx_probes.knn:KnnProbe")
    register("probe", "ensemble", "dense_ctx_probes.ensemble:EnsembleProbe")
    register("probe", "linear", "dense_ctx_probes.linear:LinearProbe")
    register("probe", "conv", "dense_ctx_probes.conv:ConvProbe")
    register("probe", "attention", "dense_ctx_probes.attention:AttentionProbe")
    register("probe", "retrieval", "dense_ctx_probes.retrieval:RetrievalProbe")
    register("probe", "zero-shot", "dense_ctx_probes.zero_shot:ZeroShotProbe")
    register("command", "text", "dense_ctx_probes.command:Text")
    register("probe", "propagation", "dense_ctx_probes.propagation:PropagationProbe")
