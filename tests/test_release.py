"""What goes to the package index: the source archive, the metadata, the README as it is shown there."""

import re
import subprocess
import tarfile
import zipfile
from email import message_from_bytes

import pytest
import yaml
from readme_renderer import markdown
from wheel_site import ROOT, build

README = (ROOT / "README.md").read_text(encoding="utf-8")
UNSTATED = "plugins/dense_ctx_lila/models/"  # what is in no archive: docs/licences.md


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build("sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def metadata(sdist):
    with tarfile.open(sdist) as archive:
        (name,) = [name for name in archive.getnames() if name.count("/") == 1 and name.endswith("/PKG-INFO")]
        return message_from_bytes(archive.extractfile(name).read())


def test_the_source_archive_is_the_repository(sdist):
    """All of its files, but for weights whose terms are not stated."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("no git repository")
    tracked = {name for name in done.stdout.split("\n") if name and not name.startswith(UNSTATED)}
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert files - {"PKG-INFO"} == tracked


def test_the_wheel_of_the_source_archive_is_that_of_the_tree(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    contents = []
    for name, tree in (("archive", source), ("tree", ROOT)):
        (tmp_path / name).mkdir()
        with zipfile.ZipFile(build("wheel", tmp_path / name, tree)) as wheel:
            contents.append({file: wheel.read(file) for file in wheel.namelist() if not file.endswith("/RECORD")})
    assert contents[0] == contents[1]
    assert {name.partition("/")[0] for name in contents[0]} >= {"dense_ctx", "dense_ctx_lila"}


def test_one_version_and_one_licence(metadata):
    version = metadata["Version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert headings[0] == citation["version"] == version
    assert metadata["License-Expression"] == citation["license"] == "Apache-2.0"
    assert metadata["Author"] == citation["authors"][0]["name"] == "dense_ctx developers"


def test_addresses_are_those_that_exist(metadata):
    """No home of the project is named before there is one."""
    addresses = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert all(address.startswith("https://arxiv.org/abs/") for address in addresses.values())
    assert metadata["Home-page"] is None


def test_the_index_shows_the_whole_text_of_the_readme(metadata):
    """It has no source tree: pictures and links into it are left out, the words of the links stay."""
    text = metadata.get_payload()
    html = markdown.render(text)
    assert html is not None
    targets = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    assert text.count("```") == README.count("```") > 6
    words = re.sub(r"!\[[^\]]*\]\([^)]*\)\n+", "", README)
    words = re.sub(r"\[([^\]]+)\]\((?!https:)[^)]*\)", r"\1", words)
    assert text.strip() == words.strip()
