"""Parts that break their contract when they are used; naming them is no fault."""

from dense_ctx import hookimpl


@hookimpl
def register_parts(register):
    """Name the parts."""
    register("metric", "faulty-state", "dense_ctx_faults.parts:TensorState")
    register("metric", "faulty-merge", "dense_ctx_faults.parts:OtherState")
    register("metric", "faulty-compute", "dense_ctx_faults.parts:NoHeadline")
    register("probe", "faulty-fit", "dense_ctx_faults.parts:FaultyFit")
    register("probe", "faulty-predict", "dense_ctx_faults.parts:FaultyPredict")
    register("objective", "faulty-forward", "dense_ctx_faults.parts:FaultyForward")
    register("dataset", "faulty-file", "dense_ctx_faults.parts:DamagedFile")
    register("dataset", "faulty-code", "dense_ctx_faults.parts:Mistake")
