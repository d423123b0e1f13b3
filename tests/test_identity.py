"""Folders of work and the settings they were made with."""

import errno
import os

import pytest
from torch import multiprocessing

from dense_ctx.errors import ConfigError, FileError
from dense_ctx.files import read_json, write_json
from dense_ctx.persistence.identity import Identity, differences

SETTINGS = {"format": 1, "size": [20, 36], "model": {"name": "tiny", "args": {"dims": [6, 12], "lr": 1e-3}}}


def identity(folder):
    return Identity(folder / "manifest.json", "feature cache")


def test_a_folder_is_claimed_once(tmp_path):
    own = identity(tmp_path / "a/b")
    assert own.read() is None
    assert own.check(SETTINGS) is None
    assert not (tmp_path / "a").exists()  # to check writes nothing
    own.claim(SETTINGS, {"unit": "pixels"})
    own.claim({**SETTINGS, "size": (20, 36)}, {"unit": "metres"})  # a tuple is a list; notes do not count
    assert own.check(SETTINGS) == {**SETTINGS, "unit": "pixels"}
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"size": [20, 28]}, ["size: [20, 36] there, [20, 28] now"]),
        ({"model": {"name": "tiny", "args": {"dims": [6, 12], "lr": 0.1}}}, ["model.args.lr: 0.001 there, 0.1 now"]),
        (
            {"model": {"name": "large", "args": {"dims": [6, 12], "depth": None}}},
            ["model.name: 'tiny' there, 'large' now", "model.args.depth: nothing there, None now",
             "model.args.lr: 0.001 there, nothing now"],
        ),
        ({"model": "tiny"}, ["model: {'args': {'dims'", " there, 'tiny' now"]),
        ({"new": {}}, ["new: nothing there, {} now"]),
        ({"format": 2, "size": None}, ["format: 1 there, 2 now; size: [20, 36] there, None now"]),
    ],
)  # fmt: skip
def test_every_setting_that_differs_is_named(tmp_path, change, texts):
    own = identity(tmp_path)
    own.claim(SETTINGS)
    for refuse in (own.check, own.claim):
        with pytest.raises(ConfigError) as raised:
            refuse({**SETTINGS, **change})
        message = str(raised.value)
        assert message.startswith(f"{tmp_path} holds another feature cache (")
        assert message.endswith(" now). Ask for what it holds, or choose another folder")
        assert [text for text in texts if text not in message] == []
        assert message.count(" now") == sum(text.count(" now") for text in texts)  # what is the same is not named
    assert own.read() == SETTINGS


def test_settings_that_only_the_file_has_do_not_count_at_the_top(tmp_path):
    identity(tmp_path).claim(SETTINGS)
    assert identity(tmp_path).check({"format": 1}) == SETTINGS
    with pytest.raises(ConfigError, match=r"model\.args: .* there, nothing now"):
        identity(tmp_path).check({"model": {"name": "tiny"}})


def test_long_values_are_shortened_to_where_they_part():
    one, two = (f"{'a' * 500}{end}{'b' * 500}" for end in "xy")
    (text,) = differences({"digest": one}, {"digest": two})
    assert len(text) < 200
    there, now = text.removeprefix("digest: ").removesuffix(" now").split(" there, ")
    assert there != now
    assert "ax" in there
    assert "ay" in now
    assert differences({"digest": one}, {"digest": one}) == []


def test_a_folder_of_other_files_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / ".hidden").touch()
    assert identity(tmp_path).check(SETTINGS) is None
    (tmp_path / "thesis.tex").write_text("mine")
    for refuse in (identity(tmp_path).check, identity(tmp_path).claim, identity(tmp_path / "thesis.tex").claim):
        with pytest.raises(FileError, match="exists and holds no feature cache; choose another folder"):
            refuse(SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "thesis.tex"]
    assert (tmp_path / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"null"])
def test_a_manifest_that_cannot_be_read_says_what_to_do(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    for refuse in (identity(tmp_path).check, identity(tmp_path).claim):
        with pytest.raises(FileError, match=r"manifest\.json.*Remove .* or choose another folder"):
            refuse(SETTINGS)
    assert (tmp_path / "manifest.json").read_bytes() == content


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="Cannot write"):
        identity(tmp_path / "file" / "below").claim(SETTINGS)


def racer(rank, barrier, root, rounds):
    for number in range(rounds):
        barrier.wait()
        try:
            identity(root / str(number)).claim({"rank": rank, "text": str(rank) * 50_000})
            outcome = "claimed"
        except ConfigError as error:
            outcome = str(error)
        write_json(root / f"{number}-{rank}.json", outcome)


def test_of_processes_that_claim_at_once_one_wins(tmp_path):
    rounds, count = 40, 2
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    processes = [context.Process(target=racer, args=(rank, barrier, tmp_path, rounds)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    for number in range(rounds):
        outcomes = [read_json(tmp_path / f"{number}-{rank}.json") for rank in range(count)]
        winner = outcomes.index("claimed")
        assert f"rank: {winner} there, {1 - winner} now" in outcomes[1 - winner]
        assert identity(tmp_path / str(number)).read()["rank"] == winner
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == ["manifest.json"]


def test_a_disk_without_links(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    identity(tmp_path).claim(SETTINGS)
    assert identity(tmp_path).check(SETTINGS) == SETTINGS
    with pytest.raises(ConfigError, match="format: 1 there, 2 now"):
        identity(tmp_path).claim({"format": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
