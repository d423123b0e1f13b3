"""The tests against each mutant of a module, in forked children of the process that collected them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from mutations import Mutant

ROOT = Path(__file__).parent.parent
MEMORY = 3 << 30  # bytes beside what the process has, for one mutant: a size that is doubled must not take the machine
WAIT = 20  # seconds by the clock for each of the processor's: the machine may be busy


class Case(Protocol):
    """A mutant and the file it is of."""

    file: str
    mutant: Mutant


def module_of(file: str) -> types.ModuleType:
    name = file.removeprefix("plugins/").removesuffix(".py").replace("/", ".")
    return importlib.import_module(name)


def put(mutant: Mutant, module: types.ModuleType) -> None:
    """Make a module behave as the mutant, for all who have imported its functions and classes."""
    changed = types.ModuleType(module.__name__)
    changed.__dict__.update({k: v for k, v in module.__dict__.items() if k.startswith("__")})
    exec(compile(mutant.source, module.__file__ or "", "exec"), changed.__dict__)
    for name, value in vars(changed).items():
        before = module.__dict__.get(name)
        if inspect.isclass(value) and value.__module__ == module.__name__:
            _put_members(before, value)
        elif inspect.isfunction(value) and value.__module__ == module.__name__:
            _put_function(before, value)
        elif not (mutant.function or name.startswith("__") or inspect.ismodule(value)):
            for other in list(sys.modules.values()):
                if getattr(other, "__name__", "").startswith("dense_ctx") and other.__dict__.get(name) is before:
                    other.__dict__[name] = value


def _put_members(old: Any, new: type) -> None:
    for name, value in vars(new).items():
        before = vars(old).get(name)
        if isinstance(value, property):
            _put_function(before.fget, value.fget)
        elif isinstance(value, (staticmethod, classmethod)):
            _put_function(before.__func__, value.__func__)
        elif inspect.isfunction(value) and "__dataclass_fields__" in vars(new) and name == "__init__":
            old.__init__ = value  # made of the fields, with their defaults
        elif inspect.isfunction(value):
            if before.__code__.co_freevars == value.__code__.co_freevars:
                _put_function(before, value)
            else:  # `super()` is gone from it
                cells = dict(zip(before.__code__.co_freevars, before.__closure__ or (), strict=True))
                closure = tuple(cells[k] for k in value.__code__.co_freevars)
                setattr(old, name, types.FunctionType(value.__code__, before.__globals__, name, None, closure))
                _put_function(getattr(old, name), value)
        elif isinstance(value, (int, float, str, tuple, frozenset, dict)) and not name.startswith("__"):
            setattr(old, name, value)


def _put_function(old: Any, new: Any) -> None:
    old, new = inspect.unwrap(old), inspect.unwrap(new)
    old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__


class Loop:
    """A plugin of pytest that runs the collected tests once for each mutant, in a child process."""

    def __init__(
        self, todo: list[Case], tests: list[str], done: Callable[[Case, str, float], None], seconds: float
    ) -> None:
        self.todo, self.done, self.seconds = todo, done, seconds
        self.words = dict(name.rstrip("]").split("[") for name in tests if "[" in name)
        self.failed: str | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        config.option.tbstyle = "native"  # no one reads it, and the others parse the source

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self.words.get(item.path.stem, "") in item.name]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or f"{report.nodeid} ({report.when})"

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = session.items
        if session.testsfailed:
            sys.exit("A file of tests cannot be collected: run pytest on it")
        files = sorted({case.file for case in self.todo})
        modules = {file: module_of(file) for file in files}  # most have been imported by the tests
        paths = {str(module.__file__): file for file, module in modules.items()}

        def trace() -> str:
            for file, module in modules.items():  # unchanged, put in place as a mutant is
                put(Mutant("", True, (0, 0), "", (ROOT / file).read_text(encoding="utf-8")), module)
            return json.dumps(self._trace(items, paths))

        gc.collect()
        gc.freeze()  # a child's collections must not copy what it has from here
        record = json.loads(_child(trace, limit=600)[1] or "{}")
        if red := record.get("failed", "Some test stops the process, or the tests take over 600 s:"):
            sys.exit(f"{red} without a mutant")
        seconds: dict[str, float] = record["seconds"]
        print(f"{len(items)} tests, {sum(seconds.values()):.0f} s; {len(self.todo)} mutants", flush=True)
        kills: Counter[tuple[str, str]] = Counter()  # of a test: in each function, and in all ("")
        for case in self.todo:
            near = [item for item in items if self._reaches(record["lines"][item.nodeid].get(case.file, []), case)]

            def cost(item: pytest.Item, function: str = case.mutant.function) -> float:  # seconds for each likely kill
                here, all_kills = kills[item.nodeid, function], kills[item.nodeid, ""]
                return float((seconds[item.nodeid] + 0.01) / (0.1 + 5 * here + all_kills))

            near.sort(key=cost)
            limit, start = 5 + 3 * sum(seconds[item.nodeid] for item in near), time.monotonic()
            result = "no test reaches it"
            if near:
                status, word = _child(lambda: self._kill(case, modules[case.file], near), limit)  # noqa: B023
                result = word if status == 0 else "killed by the end of the process or of its time"
                killer = result.removeprefix("killed by ").rpartition(" (")[0]
                kills.update([(killer, ""), (killer, case.mutant.function)])
            self.done(case, result, time.monotonic() - start)
            if sum(os.times()[:4]) > self.seconds:
                break
        return True

    @staticmethod
    def _reaches(lines: list[int], case: Case) -> bool:
        first, last = case.mutant.lines
        if not case.mutant.body:  # a default: a test may read it of the signature
            return True
        return bool(lines) and (not case.mutant.function or any(first <= n <= last for n in lines))

    def _run(self, items: list[pytest.Item]) -> None:
        for item, after in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if self.failed:
                return

    def _kill(self, case: Case, module: types.ModuleType, items: list[pytest.Item]) -> str:
        put(case.mutant, module)
        self._run(items)
        return f"killed by {self.failed}" if self.failed else "survived"

    def _trace(self, items: list[pytest.Item], paths: dict[str, str]) -> dict[str, Any]:
        """Which lines of the target each test reaches, and how long it takes."""
        lines: dict[str, dict[str, list[int]]] = {}
        seconds = {}
        for item, after in zip(items, [*items[1:], None], strict=True):
            reached: dict[str, set[int]] = {}

            def local(frame: types.FrameType, event: str, _: Any, reached: Any = reached) -> Any:
                reached.setdefault(paths[frame.f_code.co_filename], set()).add(frame.f_lineno)
                return local

            start = time.process_time()
            sys.settrace(lambda frame, event, _: local if frame.f_code.co_filename in paths else None)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            sys.settrace(None)
            seconds[item.nodeid] = time.process_time() - start
            lines[item.nodeid] = {file: sorted(numbers) for file, numbers in reached.items()}
        return {"failed": self.failed, "seconds": seconds, "lines": lines}


def _space() -> int:
    """Bytes of address space of this process; where the system does not say, more than a test needs."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 12 << 30


def _child(work: Callable[[], str], limit: float) -> tuple[int, str]:
    """Exit status and result of work done in a forked process, which ends with all it has started.

    limit: seconds of the processor's time.
    """
    with tempfile.TemporaryFile("w+") as result:
        if not (child := os.fork()):
            status = 1
            try:
                os.setpgid(0, 0)
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 1))
                resource.setrlimit(resource.RLIMIT_AS, (_space() + MEMORY,) * 2)
                with open(os.devnull, "w") as nothing:
                    os.dup2(nothing.fileno(), 1), os.dup2(nothing.fileno(), 2)
                result.write(work())
                result.flush()
                status = 0
            finally:
                os._exit(status)
        end, status = time.monotonic() + WAIT * limit, None
        while status is None and time.monotonic() < end:
            found, code = os.waitpid(child, os.WNOHANG)
            status = code if found else None
            time.sleep(0.005)
        with contextlib.suppress(OSError):  # it, or what it left behind
            os.killpg(child, signal.SIGKILL)
        if status is None:
            os.waitpid(child, 0)
            return 1, ""
        result.seek(0)
        return status, result.read()
