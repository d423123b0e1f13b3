"""Names of this plugin. Only `hookimpl` is imported here: listing plugins must not load torch."""

from dense_ctx import hookimpl


@hookimpl
def register_decoders(register):
    """Name the decoder."""
    register("template-conv", "dense_ctx_template.decoder:ConvDecoder")


@hookimpl
def register_objectives(register):
    """Name the objective."""
    register("template-colours", "dense_ctx_template.objective:Colours")


@hookimpl
def register_cues(register):
    """Name the cue."""
    register("template-edges", "dense_ctx_template.cue:Edges")
