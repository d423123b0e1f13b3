"""Nothing is skipped by omission: each way out of a test is on the list, with its reason."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# conditions and reasons of the default run and of -m slow, faults and gpu; -m hub says by itself what it lacks
ALLOWED = {
    "forks": "POSIX alone",
    "forks, links and signals of POSIX": "POSIX alone",
    "pipes and devices are POSIX's": "POSIX alone",
    "file modes are POSIX": "POSIX alone",
    "links need a privilege there": "Windows",
    "no SIGKILL on this system": "Windows",
    "no resource module": "Windows",
    "resource": "a module of POSIX",
    "a script of sh": "Windows",
    "no C++ compiler (c++, g++ or clang++) for the pretended device": "what stands for CUDA's driver is compiled",
    "peaks are counted on Linux with glibc": "its counter",
    "needs bash and perl": "the commands of a page, as they are",
    "no source tree": "the tests of an installation",
    "not a source tree": "the tests of an installation",
    "not a source tree: plugins are installed packages here": "the tests of an installation",
    "installed without its source": "the tests of an installation",
    "DENSE_CTX_TEST_DATA names no folder of real data": "300 MB of public data that are not ours to ship",
    "root is not there": "a part of that data",
    "ptlflow is not installed": "extra sea-raft: a second OpenCV beside the test extra's",
}

# of extras that the test extra takes in
EXTRAS = {
    "pycocotools": "datasets",
    "rasterio": "geo",
    "zarr": "zarr",
    "'rasterio' if name == 'geotiff' else 'zarr'": "geo",
}


def text(node):
    """A reason, with the names of its variables."""
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else ast.unparse(part.value) for part in node.values)
        return "".join(parts)
    return node.value if isinstance(node, ast.Constant) else ast.unparse(node)


def ways_out(path):
    """The reasons of pytest.skip and mark.skipif in a file, the modules of importorskip."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        reason = [word.value for word in node.keywords if word.arg == "reason"]
        if node.func.attr in ("skip", "importorskip") and ast.unparse(node.func.value) == "pytest":
            yield text((node.args or reason)[0])
        elif node.func.attr in ("skipif", "xfail"):
            yield text(reason[0]) if reason else ast.unparse(node)


def test_every_skip_is_on_the_list():
    files = [path for path in TESTS.glob("*.py") if path.name not in ("test_hub_real.py", Path(__file__).name)]
    assert len(files) > 100
    reasons = {reason for path in files for reason in ways_out(path)}
    of_extras = {reason for reason in reasons if EXTRAS.keys() & {reason, reason.partition(".")[0]}}
    assert reasons - set(ALLOWED) - of_extras == set()
    assert set(ALLOWED) - reasons == set(), "no test gives this reason any more"


def test_the_test_extra_takes_in_what_tests_import():
    project = TESTS.parent / "pyproject.toml"
    if not project.is_file():
        pytest.skip("no source tree")
    extras = re.search(r'^test = \[\s*"dense-ctx\[(.*?)\]"', project.read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert set(EXTRAS.values()) <= set(extras.split(","))


def test_a_new_skip_is_noticed(tmp_path):
    lines = ["import pytest", "cv2 = pytest.importorskip('cv2')", "pytest.skip(f'{x} is away')",
             "mark = pytest.mark.skipif(True, reason='today')", "other = pytest.mark.xfail(strict=True)"]  # fmt: skip
    (tmp_path / "test_x.py").write_text("\n".join(lines))
    assert list(ways_out(tmp_path / "test_x.py")) == [
        "cv2", "x is away", "today", "pytest.mark.xfail(strict=True)"
    ]  # fmt: skip
