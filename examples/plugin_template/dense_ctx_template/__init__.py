"""Names of this plugin. Only `hookimpl` is imported here: listing plugins must not load torch."""

from dense_ctx import hookimpl


@hookimpl
def register_parts(register):
    """Name the parts."""
    register("decoder", "template-conv", "dense_ctx_template.decoder:ConvDecoder")
    register("objective", "template-colours", "dense_ctx_template.objective:Colours")
    register("cue", "template-edges", "dense_ctx_template.cue:Edges")
