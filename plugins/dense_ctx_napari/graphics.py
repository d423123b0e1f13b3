"""Mesa's drivers and triton in one process."""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import suppress


def load_triton() -> None:
    """Import triton, which torch imports at its first use, so that it keeps to the LLVM inside of it.

    Mesa's drivers for software rendering and for AMD bring an LLVM of their own. Once a viewer has loaded it, triton's
    library takes functions of that one, and the process crashes. RTLD_DEEPBIND makes a library prefer its own.
    """
    if not sys.platform.startswith("linux") or "triton" in sys.modules or importlib.util.find_spec("triton") is None:
        return
    before = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_DEEPBIND)
    try:
        with suppress(Exception):  # torch goes on without it
            import triton  # noqa: F401
    finally:
        sys.setdlopenflags(before)
