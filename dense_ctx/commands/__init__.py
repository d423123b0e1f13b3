"""The core's commands of `dense-ctx`, one module each; plugins register more."""
