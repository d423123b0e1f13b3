"""CVAT's own package, which not every installation has. It must be there to import any of the functions.

Raises:
    MissingDependencyError: it is not installed. PluginError: it fails at import.
"""

from typing import TYPE_CHECKING

from dense_ctx.containment import optional_package

if TYPE_CHECKING:
    import cvat_sdk.auto_annotation as cvat
    from cvat_sdk import models
else:
    cvat = optional_package("cvat_sdk.auto_annotation", "A function for CVAT", '"dense-ctx[cvat]"')
    models = optional_package("cvat_sdk.models", "A function for CVAT", '"dense-ctx[cvat]"')

__all__ = ["cvat", "models"]
