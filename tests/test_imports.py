"""Imports point one way and load no torch before they must; the core stays small."""

import ast
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import dense_ctx

CORE = Path(dense_ctx.__file__).parent
ROOT = CORE.parent
PLUGINS = ROOT / "plugins"
PACKAGES = sorted(path.name for path in PLUGINS.glob("dense_ctx_*"))
LIBRARIES = {"dense_ctx_runtime"}  # no plugins: packages that plugins are made of
LIGHT = {"dense_ctx", *PACKAGES, "pluggy", "yaml"}  # what may be loaded before a command knows its verb
source_tree = pytest.mark.skipif(not PACKAGES, reason="not a source tree: plugins are installed packages here")


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


def below(package):
    """The plugins on lower layers of the import linter."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\nlayers = [\n")[2].partition("\n]")[0]
    layers = [line.strip(' ",').split(" | ") for line in text.splitlines()]
    place = next(place for place, layer in enumerate(layers) if package in layer)
    return {name for layer in layers[place + 1 :] for name in layer}


@source_tree
@pytest.mark.parametrize("package", PACKAGES)
def test_plugins_import_the_public_core_and_never_each_other(package):
    """The import linter has the same rule; this one sees `import_module("...")` and type-only imports too.

    Packages on a layer above others, which are made of them, may import these.
    """
    files = list((PLUGINS / package).rglob("*.py"))
    assert not offences(files, set(PACKAGES) - {package} - below(package))
    assert not [n for f in files for n in imported(f) if n.startswith("dense_ctx.") and "._" in n]


def test_the_rule_sees_an_offence(tmp_path):
    file = tmp_path / "bad.py"
    lines = [
        "def f():",
        "    from dense_ctx_dpt.dpt import DPT",
        "    importlib.import_module('dense_ctx_lila')",
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert len(offences([file], {"dense_ctx_dpt", "dense_ctx_lila"})) == 2


@source_tree
def test_the_layers_of_the_import_linter_hold_and_name_every_plugin():
    lint = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.importlinter]")[2]
    for package in PACKAGES:
        assert settings.count(package + '"') + settings.count(package + " |") == 2, f"root_packages, layers: {package}"


@source_tree
def test_the_installed_entry_points_are_those_of_the_source_tree():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.entry-points.dense_ctx]\n")[2]
    names = set(re.findall(r'= "([\w.]+)"', text.partition("\n\n")[0]))
    installed = {point.value for point in distribution("dense-ctx").entry_points if point.group == "dense_ctx"}
    assert installed == names, "pyproject.toml names other plugins since it was installed: pip install -e . again"
    assert names == {"dense_ctx.builtin", *PACKAGES} - LIBRARIES


@source_tree
def test_mypy_checks_the_core_and_every_plugin():
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.mypy]")[2].partition("[[")[0]
    checked = re.findall(r'"(dense_ctx\w*)"', settings.partition("packages = [")[2])
    assert sorted(checked) == ["dense_ctx", *PACKAGES]


def test_the_core_is_small():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in CORE.rglob("*.py")}
    whole, flat = sum(lines.values()), sum(count for path, count in lines.items() if path.parent == CORE)
    text = "\n".join(path.read_text(encoding="utf-8") for path in lines)
    filled = sum(bool(line.strip()) for line in text.splitlines())
    print(f"dense_ctx/: {whole} lines, {filled} not blank, {flat} in its flat part")
    assert filled < 9_920  # the goal is below 10,000
    assert whole < 12_140
    assert flat < 2_830


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def loaded_by(code):
    """Packages beyond the standard library that a piece of code loads, but for the insides of Cython (PyYAML's)."""
    listing = "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    packages = python(f"import sys\nbefore = set(sys.modules)\n{code}\n{listing}")
    return {name for name in packages if not name.startswith(("_", "cython"))}


@pytest.mark.parametrize("module", ["dense_ctx", "dense_ctx.cli", "dense_ctx.plugins", *PACKAGES])
def test_importing_loads_nothing_heavy(module):
    assert loaded_by(f"import {module}") <= LIGHT


@pytest.mark.parametrize("module", ["dense_ctx.data.base", "dense_ctx.commands.base"])
def test_contracts_that_a_listing_reads_load_no_torch(module):
    assert "torch" not in loaded_by(f"import {module}")


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["plugins", "--json"], ["predict", "--help"]])
def test_the_command_loads_nothing_heavy_before_it_works(arguments):
    code = (
        "import contextlib, io\nfrom dense_ctx.cli import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    main({arguments!r})\n"
    )
    assert loaded_by(code) <= LIGHT


def test_public_names_are_the_lazy_ones():
    assert set(dense_ctx.__all__) == {"DenseCtxError", "hookimpl", "registry", *dense_ctx._LAZY}
    for name in dense_ctx.__all__:
        assert getattr(dense_ctx, name) is not None
