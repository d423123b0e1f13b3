"""How the command ends: statuses, one-line errors, tracebacks on request."""

import json
import os
import re
import sys
import warnings
from importlib.util import find_spec

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
    assert listed["failures"] == []
    missing = {name for name in ("aim", "mlflow", "tensorboard", "wandb") if find_spec(name) is None}
    missing |= {"ome-zarr"} if sys.version_info < (3, 11) else set()  # its library asks for Python 3.11
    assert {entry["name"] for entry in listed["unavailable"]} == missing
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


def test_features_are_of_images_that_are_all_there(tmp_path, monkeypatch, capsys):
    """It began with the first image, and took a forgotten one's model for an image."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16)).save("a.png")
    assert cli.main(["features", "rgb-xy", "a.png", "b.png", "c.png"]) == 2
    assert capsys.readouterr().err == "error: No image at b.png, c.png.\n"
    assert cli.main(["features", "b.png", "a.png"]) == 2
    assert capsys.readouterr().err == "error: No image at b.png.\n"
    assert cli.main(["features", "rgb-xy"]) == 2
    assert "No image at rgb-xy. If rgb-xy is a model, add images after it: rgb-xy IMAGE" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_part_that_fails_is_named_with_its_plugin(tmp_path, monkeypatch, capsys):
    from dense_ctx_dpt.upsample import Upsample
    from PIL import Image

    def broken(self, features, images, size):
        raise KeyError("a mistake")

    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    monkeypatch.setattr(Upsample, "forward", broken)
    assert cli.main(["features", "rgb-xy+upsample", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert re.search(
        r"^error: decoder 'upsample' of plugin 'dpt' of dense-ctx \S+ failed: KeyError: 'a mistake'$", err, re.M
    )


def test_a_warning_is_one_line(monkeypatch):
    lines = []

    def run(self, args):
        lines.append(warnings.formatwarning("first line\nsecond line", UserWarning, "file.py", 3))
        return 0

    monkeypatch.setattr(plugins.Plugins, "run", run)
    assert cli.main(["plugins"]) == 0
    assert lines == ["warning: first line second line\n"]


def test_only_a_near_kind_is_suggested(capsys):
    assert cli.main(["plugins", "gizmo"]) == 2
    assert capsys.readouterr().err.startswith("error: There is no kind 'gizmo'. The kinds are backbone, ")
