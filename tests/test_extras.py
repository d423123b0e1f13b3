"""The built wheel in an environment with one extra alone: its parts import, the others say which extra they need.

`pip install` would bring a second torch for each extra. The environments here are folders of links to the installed
packages that the wheel's own metadata asks for, and to no others.
"""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wheel_site import build, install

from dense_ctx import registry

EXTRAS = [
    "",
    *(extra for extra in distribution("dense-ctx").metadata.get_all("Provides-Extra") if extra not in ("test", "docs")),
]
ENTRIES = [entry for entry in registry().entries() if entry.owner.distribution == "dense-ctx"]
CHECK = """
import json, dense_ctx
from dense_ctx.errors import MissingDependencyError
registry, state = dense_ctx.registry(), {}
assert not registry.failures, registry.failures
for entry in registry.entries():
    if entry.extra:
        try:
            registry.resolve(entry)
            state[f"{entry.kind} {entry.name}"] = [entry.extra, "imports"]
        except MissingDependencyError as error:
            state[f"{entry.kind} {entry.name}"] = [entry.extra, str(error)]
import torch
model = dense_ctx.AutoDenseModel.from_parts("efficientnet-lite0", "upsample")
shape = model(torch.rand(1, 3, 50, 70)).pixels.shape
print(json.dumps([dense_ctx.__file__, bool(model.backbone.source), list(shape), state]))
"""


def closure(requirement, seen):
    """The distributions that a requirement brings, those of its extras among them. Raises PackageNotFoundError."""
    key = canonicalize_name(requirement.name)
    if requirement.extras <= seen.get(key, set()) and key in seen:
        return
    new = requirement.extras - seen.get(key, set())
    first = key not in seen
    seen.setdefault(key, set()).update(requirement.extras)
    for line in distribution(key).requires or ():
        other = Requirement(line)
        contexts = [{"extra": extra} for extra in new] + ([{"extra": ""}] if first else [])
        if other.marker is None or any(other.marker.evaluate(context) for context in contexts):
            closure(other, seen)


def linked_site(folder, names):
    """A folder with links to the packages' files and to nothing else."""
    folder.mkdir()
    for name in names:
        if name == "dense-ctx":
            continue
        package = distribution(name)
        for top in {Path(str(file)).parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            source = Path(str(package.locate_file(top)))
            if source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source, target_is_directory=source.is_dir())
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def test_every_part_that_needs_an_extra_names_one_that_exists():
    assert {entry.extra for entry in ENTRIES if entry.extra} <= set(EXTRAS)


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_the_wheel_with_one_extra(extra, wheel, tmp_path):
    distributions = {}
    try:
        closure(Requirement(f"dense-ctx[{extra}]" if extra else "dense-ctx"), distributions)
    except PackageNotFoundError as error:
        pytest.skip(f"the extra {extra} is not installed here: {error}")
    site = install(wheel, linked_site(tmp_path / "site", distributions))
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "PYTHONPATH": str(site),
        "DENSE_CTX_SKIP_PLUGINS": "all",
    }
    # -S: without the site-packages of this interpreter
    done = subprocess.run(
        [sys.executable, "-S", "-c", CHECK], env=environment, cwd=site, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    file, pretrained, shape, state = json.loads(done.stdout)
    assert Path(file).is_relative_to(site)
    assert pretrained
    assert shape == [1, 496, 50, 70]
    assert set(state) == {f"{entry.kind} {entry.name}" for entry in ENTRIES if entry.extra}
    brought = {extra} if extra else set()
    for part, (needs, outcome) in state.items():
        if needs in brought:
            assert outcome == "imports", (part, outcome)
        elif outcome != "imports":  # a package of another extra that something else brings too
            assert re.search(rf'pip install "?dense-ctx\[{needs}\]', outcome), (part, outcome)
    missing = {needs for needs, outcome in state.values() if outcome != "imports"}
    assert missing, "every extra's packages are there: the environment is not separate"
