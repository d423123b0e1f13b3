"""The cues of LILA that come from other networks: optical flow and depth. Features are the backbone's own."""
