"""Imports point one way, load no torch before they must, and are quick."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dense_ctx

CORE = Path(dense_ctx.__file__).parent
PLUGINS = CORE.parent / "plugins"
PACKAGES = sorted(path.name for path in PLUGINS.glob("dense_ctx_*"))


def imported(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def offences(files, forbidden):
    return [f"{f.name}: {n}" for f in files for n in imported(f) if n.split(".")[0] in forbidden]


def test_the_core_imports_no_plugin():
    assert not offences(CORE.rglob("*.py"), set(PACKAGES))


@pytest.mark.skipif(not PACKAGES, reason="not a source tree: plugins are installed packages here")
def test_plugins_import_the_public_core_and_never_each_other():
    for package in PACKAGES:
        files = list((PLUGINS / package).rglob("*.py"))
        assert not offences(files, set(PACKAGES) - {package})
        private = [n for f in files for n in imported(f) if n.startswith("dense_ctx.") and "._" in n]
        assert not private


def test_the_rule_sees_an_offence(tmp_path):
    file = tmp_path / "bad.py"
    lines = [
        "def f():",
        "    from dense_ctx_dpt.dpt import DPT",
        "    importlib.import_module('dense_ctx_lila')",
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert len(offences([file], {"dense_ctx_dpt", "dense_ctx_lila"})) == 2


def python(code):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), time.perf_counter() - start


@pytest.mark.parametrize("module", ["dense_ctx", "dense_ctx.cli", "dense_ctx.plugins", *PACKAGES])
def test_importing_loads_no_torch(module):
    heavy = {"torch", "numpy", "timm", "transformers"}
    out, _ = python(f"import sys, {module}; print([m for m in {sorted(heavy)} if m in sys.modules])")
    assert out == "[]"


def test_public_names_are_the_lazy_ones():
    assert set(dense_ctx.__all__) == {"DenseCtxError", "hookimpl", "registry", *dense_ctx._LAZY}
    for name in dense_ctx.__all__:
        assert getattr(dense_ctx, name) is not None


def test_import_is_quick():
    bare = min(python("pass")[1] for _ in range(3))
    ours = min(python("import dense_ctx")[1] for _ in range(3))
    assert ours - bare < 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["plugins", "--json"], ["segment", "--help"]])
def test_the_command_is_quick_and_loads_no_torch(arguments):
    code = (
        "import sys\nfrom dense_ctx.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    assert min(python(code)[1] for _ in range(2)) < 1.0
