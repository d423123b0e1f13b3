"""Cue maps of videos on disk, computed once: `dense-ctx cues` writes them, training reads them.

    DIR/CUE/manifest.json            cue, arguments, version, frame size, gaps: another one is refused
    DIR/CUE/CLIP.safetensors         float16 maps of one clip; it has this name only when complete

CUE is the cue's name with "@" for ":". CLIP is the clip's path below the folder that was named, without its suffix.
"""

from __future__ import annotations

from .clips import ClipFile, find_clips, short_side
from .precompute import Plan, Report, plan_cues
from .read import CueCache

__all__ = ["ClipFile", "CueCache", "Plan", "Report", "find_clips", "plan_cues", "short_side"]
