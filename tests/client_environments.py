"""Environments of annotation tools for `pytest -m clients`, each made by pip.

DENSE_CTX_CLIENTS=DIR keeps them there for the next time.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from functools import cache
from pathlib import Path


@cache
def base_folder() -> Path:
    """Where the environments lie: DENSE_CTX_CLIENTS, or a folder of this process that the system clears."""
    folder = os.environ.get("DENSE_CTX_CLIENTS")
    return Path(folder) if folder else Path(tempfile.mkdtemp(prefix="dense_ctx-clients-"))


@cache
def client_python(tool: str, *requirements: str, with_dense_ctx: bool = False) -> Path:
    """The interpreter of an environment with `requirements`.

    with_dense_ctx: what the running interpreter imports (torch, dense_ctx) can be imported there too, behind the
        environment's own packages: the tool and the library run in one process without a second copy of torch.
    """
    home = base_folder() / tool
    program = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = home / "complete"
    state = "\n".join([*requirements, sys.prefix if with_dense_ctx else ""])
    if not stamp.exists() or stamp.read_text() != state:
        venv.create(home, with_pip=True, clear=True)
        if with_dense_ctx:
            shared = [path for path in sys.path if path.rstrip(os.sep).endswith("site-packages")]
            site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))
            lines = [f"import site; site.addsitedir({path!r})\n" for path in shared]
            site.joinpath("shared.pth").write_text("".join(lines))
        subprocess.run([program, "-m", "pip", "install", "--quiet", *requirements], check=True)
        stamp.write_text(state)
    return program
