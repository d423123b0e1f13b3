"""The verbs `compare` and `score`."""
