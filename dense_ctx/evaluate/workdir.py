"""Work directory of an evaluation: atomically written pieces, so that runs resume and processes share work.

run.json         identity of the evaluation; another one is refused
parts/           one JSON per clip or shard of images, and the trained probes
result.json      the result
pictures.png     some predictions
predictions/     all of them, on request
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..files import read_json, write_json
from ..persistence.identity import Identity

_POLL = 0.2  # seconds


class RunFolder:
    """Shared by the processes of one evaluation, which coordinate through its files.

    Args:
        path: the folder. identity: what determines the result.
        rank, world: index of this process, and number of processes. barrier: returns when every one has called it.

    Raises:
        ConfigError: the folder holds the evaluation of something else.
        FileError: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        rank: int = 0,
        world: int = 1,
        barrier: Callable[[], Any] = lambda: None,
    ) -> None:
        self.path, self.rank, self.world = path, rank, world
        self.parts = path / "parts"
        self.predictions = path / "predictions"
        run = Identity(path / "run.json", "evaluation", "Choose another --out or remove it")
        run.read()  # before any process writes: each refuses a folder of other files, which stays unchanged
        with contextlib.suppress(OSError):
            self._failure(rank).unlink(missing_ok=True)
        barrier()  # from here on, a failure file in the folder is of this run
        with self.guarded():
            run.claim(identity)

    def part(self, name: str) -> Path:
        """The file of the piece `name`."""
        return self.parts / f"{name}.json"

    def share(self, pieces: Mapping[str, Sequence[Path]]) -> Iterator[str]:
        """This process' share of the unfinished pieces: one is finished with its part, and the files named here."""
        for index, (name, files) in enumerate(pieces.items()):
            if index % self.world == self.rank and not all(path.exists() for path in (self.part(name), *files)):
                yield name

    def wait(self, paths: Sequence[Path]) -> None:
        """Wait until all files exist.

        Raises:
            FileError: another process failed.
        """
        missing = list(paths)
        while missing:
            missing = [path for path in missing if not path.exists()]
            for rank in range(self.world):
                if rank != self.rank and self._failure(rank).exists() and missing:
                    raise FileError(f"process {rank} failed: {read_json(self._failure(rank))['error']}")
            if missing:
                time.sleep(_POLL)

    def _failure(self, rank: int) -> Path:
        return self.path / f".failed-{os.environ.get('MASTER_PORT', '0')}-{rank}.json"

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Write a failure file for the other processes if the block raises."""
        try:
            yield
        except BaseException as error:
            if self.world > 1:
                with contextlib.suppress(FileError):
                    write_json(self._failure(self.rank), {"error": f"{type(error).__name__}: {error}"})
            raise

    def once(self, target: Path, work: Callable[[], None]) -> None:
        """Process 0 writes `target` by `work`, unless it exists; the others wait for it."""
        if self.rank == 0 and not target.exists():
            work()
        self.wait([target])
