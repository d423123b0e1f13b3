"""The cue cache is the core's, for any cue and any objective; here under the name LILA's parts use."""

from dense_ctx.cue_cache import CueCache, short_side

__all__ = ["CueCache", "short_side"]
