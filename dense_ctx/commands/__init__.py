"""The core's verbs of `dense-ctx`, one module each; plugins register more."""
