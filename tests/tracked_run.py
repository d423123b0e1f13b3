"""A small run with a tracker, in the environment that has it; started by test_trackers_own.py.

    python tracked_run.py FOLDER SETTINGS.json      {"parts": where the plugin lies, "runs": [changes of each call]}

Every attempt to reach another machine is printed, and refused.
"""

import json
import os
import socket
import sys
from pathlib import Path


def closed(self, address):
    """As `socket.connect` of a machine without a network; sockets of this machine work."""
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print(f"CONNECTS {address}", flush=True)
        raise OSError("no network here")
    return plain(self, address)


plain = socket.socket.connect
socket.socket.connect = closed


def main():
    folder, given = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    import train_parts

    sys.path[:0] = train_parts.lay_out(folder / "parts")
    from dense_ctx.errors import StoppedError
    from dense_ctx.train import train

    for changes in given["runs"]:
        os.environ.update(changes.pop("environment", {}))
        score = (lambda model, step: {"J&F-Mean": step / 8}) if "validate" in changes else None
        try:
            train(train_parts.config(folder / "run", **changes), validate=score)
        except StoppedError:
            print("STOPPED")
    if Path(sys.argv[2]).with_suffix(".py").exists():
        exec(Path(sys.argv[2]).with_suffix(".py").read_text(), {"folder": folder})


if __name__ == "__main__":
    main()
