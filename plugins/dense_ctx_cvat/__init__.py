"""Functions for CVAT's auto-annotation: detection, tracking, interaction. It registers no part.

Each module has a `create` that `cvat-cli ... --function-module` calls (docs/cvat.md); they need the extra `cvat`.
"""
