"""One small part of every kind. Only `hookimpl` is imported here: listing plugins must not load torch."""

from dense_ctx import hookimpl

HERE = "dense_ctx_stranger"


@hookimpl
def define_kinds(define):
    """Add a kind of our own, which others may register parts of."""
    define("greeting", f"{HERE}.greeting:Greeting")


@hookimpl
def register_parts(register):
    """Name the parts."""
    register("backbone", "stranger-blocks", f"{HERE}.backbone:Blocks")
    register("decoder", "stranger-mix", f"{HERE}.decoders:Mix")
    register("decoder", "stranger-places", f"{HERE}.decoders:Places")
    register("objective", "stranger-scored", f"{HERE}.objectives:Stripes")
    register("objective", "stranger-torn-score", f"{HERE}.objectives:TornScore")
    register("objective", "stranger-colours", f"{HERE}.objectives:Colours")
    register("probe", "stranger-mean", f"{HERE}.probes:StrangerMean")
    register("probe", "stranger-steps", f"{HERE}.probes:StrangerSteps")
    register("metric", "stranger-share", f"{HERE}.metric:Share")
    register("dataset", "stranger-stripes", f"{HERE}.dataset:Stripes")
    register("protocol", "stranger-stripes-v1", f"{HERE}:protocols/stranger-stripes-v1.yaml")
    register("paper", "stranger", f"{HERE}:papers/stranger.json")
    register("command", "stranger-hello", f"{HERE}.command:Hello")
    register("cue", "stranger-grey", f"{HERE}.cue:Grey")
    register("segmenter", "stranger-tiles", f"{HERE}.segmenter:Tiles")
    register("task", "stranger-red", f"{HERE}.task:Red")
    register("greeting", "plain", f"{HERE}.greeting:Plain")
    register("greeting", "loud", f"{HERE}.greeting:Plain", args={"end": "!"})
