"""Ports for processes that meet."""

import itertools
import os
import socket

# Below 32768, where systems take the ports from that connections get: one of those may be taken between asking and use,
# and processes then meet strangers, or wait for each other.
_NUMBERS = itertools.count()
_FIRST, _ROOM = 20_000, 12_000


def free_port():
    """A TCP port that nothing listens on; not the same in two processes of a machine, nor twice in one."""
    while True:
        port = _FIRST + (os.getpid() * 64 + next(_NUMBERS)) % _ROOM
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
