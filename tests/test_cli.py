"""How the command ends: statuses, one-line errors, tracebacks on request."""

import json
import os

import pytest

from dense_ctx import cli, registry
from dense_ctx.commands import plugins
from dense_ctx.errors import InputError


def raising(error):
    def run(self, args):
        raise error

    return run


def test_our_errors_are_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(plugins.Plugins, "run", raising(InputError("given 3, expected 4")))
    assert cli.main(["plugins"]) == 2
    assert capsys.readouterr().err == "error: given 3, expected 4\n"
    with pytest.raises(InputError):
        cli.main(["--debug", "plugins"])
    monkeypatch.setenv("DENSE_CTX_DEBUG", "1")
    with pytest.raises(InputError):
        cli.main(["plugins"])


def test_interruption_is_status_130_and_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(plugins.Plugins, "run", raising(KeyboardInterrupt()))
    assert cli.main(["plugins"]) == 130
    monkeypatch.setattr(plugins.Plugins, "run", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["plugins"])


def test_plugins_lists_our_parts(capsys):
    assert cli.main(["plugins", "--json", "--check"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["failures"] == listed["unavailable"] == []
    assert {"backbone", "decoder"} <= {entry["kind"] for entry in listed["entries"]}
    assert {entry["distribution"] for entry in listed["entries"]} == {"dense-ctx"}


def test_waiting_threads_leave_the_core_to_others(monkeypatch, capsys):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    cli.main(["plugins"])
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")  # whoever sets it is obeyed
    cli.main(["plugins"])
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    capsys.readouterr()


@pytest.mark.parametrize("verb", registry().names("command"))
def test_every_verb_has_its_help(verb, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([verb, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: dense-ctx {verb} ")
