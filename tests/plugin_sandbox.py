"""Small real distributions for the plugin tests: a package and a *.dist-info in a folder put on sys.path."""

from __future__ import annotations

from pathlib import Path

HOOK = "from dense_ctx import hookimpl\n"

GOOD_DECODER = """
import torch
from dense_ctx import Decoder

class Mean(Decoder):
    def __init__(self, dims, strides):
        super().__init__()
        self.dim = 1

    def forward(self, features, images, size):
        mean = features.maps[-1].mean(dim=(1, 2, 3)).reshape(-1, 1, 1, 1)
        return mean.expand(-1, 1, *size)
"""


def distribution(
    folder: Path,
    name: str,
    files: dict[str, str],
    points: dict[str, str],
    version: str = "3.2",
    egg: bool = False,
) -> None:
    """Lay out a distribution as an installer leaves it; `egg`: as an old develop install."""
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    stem = name.replace("-", "_")
    info = folder / (f"{stem}.egg-info" if egg else f"{stem}-{version}.dist-info")
    info.mkdir(parents=True)
    (info / ("PKG-INFO" if egg else "METADATA")).write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )
    lines = "".join(f"{key} = {value}\n" for key, value in points.items())
    (info / "entry_points.txt").write_text(f"[dense_ctx]\n{lines}", encoding="utf-8")


def hook(*calls: str, kind: str = "decoder") -> str:
    """A hook that makes these register(kind, ...) calls."""
    body = "\n".join(f"    register({kind!r}, {call})" for call in calls) or "    pass"
    return f"{HOOK}\n@hookimpl\ndef register_parts(register):\n{body}\n"


def good(folder: Path) -> None:
    """The well-behaved neighbour: plugin "good" with the decoder "good-mean"."""
    files = {
        "good_parts/__init__.py": hook('"good-mean", "good_parts.decoder:Mean"'),
        "good_parts/decoder.py": GOOD_DECODER,
    }
    distribution(folder, "able-parts", files, {"good": "good_parts"}, version="1.2")


def bad(folder: Path, case: str, init: str, files: dict[str, str] | None = None) -> None:
    """A distribution "bad-CASE" 3.2 whose plugin "CASE" is the package bad_CASE with this __init__."""
    package = f"bad_{case.replace('-', '_')}"
    inside = {f"{package}/{path}": text for path, text in (files or {}).items()}
    distribution(folder, f"bad-{case}", {f"{package}/__init__.py": init, **inside}, {case: package})


TWO_HOOKS = hook('"half-done", "bad_half_way:hookimpl"') + "    raise RuntimeError('half-way')\n"

# case -> (__init__ of the package, what the cause must say)
AT_LOAD: dict[str, tuple[str, str]] = {
    "import-error": (
        "from dense_ctx import no_such_thing\n",
        "ImportError: cannot import name 'no_such_thing'",
    ),
    "missing-dependency": ("import a_package_nobody_has\n", "No module named 'a_package_nobody_has'"),
    "system-exit": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "syntax-error": ("def broken(:\n", "SyntaxError"),
    "hook-argument": (f"{HOOK}\n@hookimpl\ndef register_parts(registry):\n    pass\n", "registry"),
    "misspelt-hook": (f"{HOOK}\n@hookimpl\ndef register_part(register):\n    pass\n", "register_part"),
    "unmarked-hook": (
        "def register_parts(register):\n    pass\n",
        "lacks the decorator @dense_ctx.hookimpl",
    ),
    "half-way": (TWO_HOOKS, "RuntimeError: half-way"),
    "exit-in-hook": (
        f"{HOOK}\n@hookimpl\ndef register_parts(register):\n    raise SystemExit('bye')\n",
        "SystemExit: bye",
    ),
    "twice": (hook('"twice", "bad_twice:a"', '"twice", "bad_twice:b"'), "'twice' is already registered"),
    "duplicate": (hook('"good-mean", "bad_duplicate:a"'), "by plugin 'good' of able-parts 1.2"),
    "squatter": (
        hook('"mine", "bad_squatter:a"', '"upsample", "bad_squatter:a"'),
        "by plugin 'dpt' of dense-ctx",
    ),
    "no-module": (hook('"lost", "bad_no_module.nowhere:Part"'), "no module 'bad_no_module.nowhere'"),
    "bad-target": (hook('"odd", "just a sentence"'), "is not 'package.module:attribute'"),
    "bad-name": (hook('"a name", "bad_bad_name:a"'), "'a name' is not letters"),
    "bad-args": (hook('"odd", "bad_bad_args:a", args=3'), "TypeError"),
    "future-api": ("DENSE_CTX_API = 99\n" + hook(), "plugin API 99"),
    "junk-result": (
        f"{HOOK}\n@hookimpl\ndef register_parts(register):\n    return {{'a': 'b'}}\n",
        "register_parts returned {'a': 'b'}",
    ),
    "generator-hook": (
        f"{HOOK}\n@hookimpl\ndef register_parts(register):\n    yield\n",
        "returned <generator",
    ),
    "keyboard-interrupt": ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
    "interrupt-in-hook": (hook() + "    raise KeyboardInterrupt('not by the user')\n", "not by the user"),
    "base-exception": ("class Own(BaseException):\n    pass\nraise Own('out')\n", "Own: out"),
    "generator-exit": ("raise GeneratorExit\n", "GeneratorExit"),
    "cancelled": ("import asyncio\nraise asyncio.CancelledError\n", "CancelledError"),
    "unprintable": (
        "class Mute(Exception):\n    def __str__(self):\n        raise ValueError\nraise Mute\n",
        "Mute: (its message cannot be printed)",
    ),
    "mute-interrupt": (
        "class Mute(BaseException):\n    def __str__(self):\n        raise SystemExit\nraise Mute\n",
        "(its message cannot be printed)",
    ),
    "unprintable-result": (
        f"{HOOK}\nclass Odd:\n    def __repr__(self):\n        raise KeyError('odd')\n\n"
        "@hookimpl\ndef register_parts(register):\n    return Odd()\n",
        "KeyError: 'odd'",
    ),
    "class-for-a-hook": (
        f"{HOOK}\n@hookimpl\nclass register_parts:\n    def __init__(self, register):\n        pass\n",
        "register_parts is a type; a hook is a function",
    ),
    "elsewhere": ("import os\nos.chdir('/')\nraise ValueError('elsewhere')\n", "ValueError: elsewhere"),
    "warnings-as-errors": (
        "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('old')\n",
        "UserWarning: old",
    ),
    "endless": ("def again():\n    again()\nagain()\n", "RecursionError"),
    "long-name": (hook("'n' * 100_000, 'bad_long_name:a'"), "(100002 letters) is not letters"),
    "long-target": (hook("'lengthy', 'bad_long_target.' + 'n' * 100_000 + ':a'"), "there is no module"),
    "long-kind": (hook("'lengthy', 'bad_long_kind:a'", kind="k" * 100_000), "a kind that no plugin here defines"),
    "long-message": ("raise ValueError('n' * 100_000)\n", "letters)"),
    "asks-too-early": ("import dense_ctx\ndense_ctx.registry()\n", "was called while plugins load"),
}

PART = "from dense_ctx import Decoder\nfine = Decoder\n"

# case -> (module with the target `Part`, what the cause must say); found out only when the part is asked for
AT_USE: dict[str, tuple[str, str]] = {
    "lazy-attribute": ("Other = 1\n", "no attribute 'Part'"),
    "lazy-dependency": ("import a_package_nobody_has\n", "No module named 'a_package_nobody_has'"),
    "lazy-import": ("raise ImportError('cannot')\n", "ImportError: cannot"),
    "lazy-exit": ("raise SystemExit(4)\n", "SystemExit: 4"),
    "lazy-syntax": ("def broken(:\n", "SyntaxError"),
    "wrong-class": (
        "class Part:\n    def __init__(self, dims, strides): pass\n",
        "not a subclass of dense_ctx.interfaces.decoder.Decoder",
    ),
    "not-callable": ("Part = 3\n", "is a int, not a class or function"),
}


def lazy_bad(folder: Path, case: str, module: str) -> None:
    """A plugin with two names, CASE and CASE-other, whose targets live in `module`."""
    package = f"bad_{case.replace('-', '_')}"
    init = hook(f'"{case}", "{package}.part:Part"', f'"{case}-other", "{package}.part:Other"')
    bad(folder, case, init, {"part.py": module})
