"""What CONTRIBUTING.md tells a plugin's author to do works: its commands run on a copy of the template."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dense_ctx import registry, testing

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PLUGIN, REPOSITORY = TEXT.split("## Change this repository")
COMMANDS = re.findall(r"```bash\n(.*?)```", PLUGIN, re.DOTALL)
PARTS = {
    "decoder": "yours-conv",
    "objective": "yours-colours",
    "dataset": "yours-cells",
    "metric": "yours-dice",
    "protocol": "yours-cells-ridge-v1",
    "cue": "yours-edges",
}
# The commands as they are, but for pip: into a folder of its own, without a network. `-e` is dropped, as an editable
# install in a folder that is no site directory has no effect.
SHELL = """
set -eu
python() {{ "{python}" "$@"; }}
pip() {{ shift 2; python -m pip install --quiet --disable-pip-version-check --no-index --no-deps \\
         --no-build-isolation --target "$SITE" "$@"; }}
dense-ctx() {{ python -m dense_ctx.cli "$@"; }}
pytest() {{ python -m pytest -q -p no:cacheprovider "$@"; }}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("perl") is None, reason="needs bash and perl")
def test_the_commands_make_a_plugin_that_is_listed_and_passes_its_tests(tmp_path):
    clone, site = tmp_path / "dense_ctx", tmp_path / "site"
    ignore = shutil.ignore_patterns("__pycache__", ".pytest_cache")
    shutil.copytree(ROOT / "examples" / "plugin_template", clone / "examples" / "plugin_template", ignore=ignore)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "SITE": str(site), "DENSE_CTX_STRICT_PLUGINS": "0"}
    script = "\n".join([SHELL.format(python=sys.executable), *COMMANDS])
    done = subprocess.run(["bash", "-c", script], cwd=clone, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    rows = [line.split() for line in done.stdout.splitlines()]
    owner = ["yours", "dense-ctx-yours", "0.1.0"]
    for kind, name in PARTS.items():
        assert [kind, name, *owner] in rows, output
    assert not re.search(r"^UNAVAILABLE \w+ yours-", done.stdout, re.MULTILINE), output
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE), output


def test_the_table_has_every_kind_with_its_base_class_and_check():
    table = {row[0]: row[1] for row in re.findall(r"^\| `([\w-]+)` \| [^|]* \| ([^|]*) \|", PLUGIN, re.MULTILINE)}
    kinds = registry().kinds
    assert set(table) == set(kinds)
    for name, kind in kinds.items():
        expected = (kind.base or "").replace(":", ".") or (kind.suffix or "package:path")
        assert expected in table[name], name
    checks = {name for name in testing.__all__ if name.startswith("check_")}
    assert set(re.findall(r"`(check_\w+)`", PLUGIN)) == checks


def test_the_hook_in_the_text_is_the_template_s():
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", PLUGIN, re.DOTALL) if "hookimpl" in code]
    init = (ROOT / "examples" / "plugin_template" / "dense_ctx_template" / "__init__.py").read_text(encoding="utf-8")
    for line in re.findall(r"^ *(register\(.*\))$", code, re.MULTILINE):
        assert line in init.replace("template", "yours")


def test_what_runs_everything_runs_every_tool():
    assert ".ci/run " in REPOSITORY
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for tool in ("pytest", "ruff", "mypy", "lint-imports", "-m build"):
        assert tool in script
