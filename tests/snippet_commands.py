"""Whether a command line of the documentation is one: the program's parser takes it, the files it names exist."""

import argparse
import json
import re
from contextlib import redirect_stderr
from importlib.metadata import metadata
from importlib.util import find_spec
from io import StringIO

from snippet_verbs import check_verb
from snippets import ROOT

EXTRAS = set(metadata("dense-ctx").get_all("Provides-Extra"))
# programs of others, which a reader has or installs; what stands behind them is theirs
FOREIGN = {
    "apt-get", "cd", "cp", "export", "grep", "label-studio", "mv", "napari", "perl", "xanylabeling", "xargs",
}  # fmt: skip


def check(words):
    """Raise an AssertionError, or the program's own error, where a command line is wrong."""
    if re.match(r"\w+=\$\(", words[0]) or words[0] == "head":  # of a shell script
        return
    while re.match(r"\w+=", words[0]):  # variables of the environment
        words = words[1:]
        if not words:
            return
    program, words = words[0].rpartition("/")[2], list(words[1:])
    if program == "dense-ctx":
        check_verb(words)
    elif program in ("accelerate", "torchrun", "srun"):
        check_launcher(program, words)
    elif program.startswith("python"):
        check_python(words)
    elif program == "pytest":
        check_pytest(words)
    elif program == "pip":
        check_pip(words)
    elif program == "cvat-cli":
        check_cvat(words)
    elif program == "curl":
        check_curl(words)
    elif program == "run":
        assert (ROOT / ".ci" / "run").is_file()
    elif program == "sh":
        assert (ROOT / words[0]).is_file(), words[0]
    else:
        assert program in FOREIGN or program == "pip-audit", f"{program}: who checks its command lines?"


def check_launcher(program, words):
    """Several processes: options of the launcher, then our module or verb."""
    if program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        if words[0] == "config":
            return
        assert words[0] == "launch"
        parsed = launch_command_parser().parse_args(words[1:])
        script, rest = parsed.training_script, parsed.training_script_args
        words = ["-m", script, *rest] if parsed.module else [script, *rest]
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(words)
        script, rest = parsed.training_script, parsed.training_script_args
        words = ["-m", script, *rest] if parsed.module else [script, *rest]
    else:  # Slurm's, which is not here
        while words[0].startswith("--"):
            words = words[1:]
        return check(words)
    check_python(words)


def check_python(words):
    """A module, or a script of the repository whose options it names."""
    if words[0] == "-m":
        module, rest = words[1], words[2:]
        if module == "dense_ctx.cli":
            return check_verb(rest)
        if module == "pytest":
            return check_pytest(rest)
        assert find_spec(module) is not None, module
        return
    script = ROOT / words[0]
    text = script.read_text(encoding="utf-8")
    for word in words[1:]:
        if word.startswith("--"):
            assert f'"{word.partition("=")[0]}"' in text, f"{words[0]} has no option {word}"


def check_pytest(words):
    from _pytest.config import get_config

    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    markers = set(re.findall(r'^  "(\w+): ', settings.partition("markers = [")[2].partition("]\n")[0], re.MULTILINE))
    config = get_config()
    known, unknown = config._parser.parse_known_and_unknown_args(words)
    assert set(unknown) <= {"-n", "logical"}, unknown  # of pytest-xdist
    assert set(re.findall(r"\w+", known.markexpr or "")) - {"or", "not", "and"} <= markers, words
    for path in known.file_or_dir:
        assert path in (*unknown, "logical") or (ROOT / path).exists(), path


def check_pip(words):
    assert words[0] == "install", words
    for word in words:
        if match := re.match(r"(?:\.|dense-ctx)\[([\w,-]+)\]$", word):
            assert set(match[1].split(",")) <= EXTRAS, word
        if word.endswith(".txt"):
            assert (ROOT / word).is_file(), word


def check_cvat(words):
    """CVAT's own parser; our function module takes the parameters."""
    import inspect
    from importlib import import_module

    if find_spec("cvat_cli") is not None:
        from cvat_cli._internal.commands_all import COMMANDS
        from cvat_cli._internal.common import configure_common_arguments

        parser = argparse.ArgumentParser()
        configure_common_arguments(parser)
        COMMANDS.configure_parser(parser)
        with redirect_stderr(StringIO()) as errors:
            try:
                parser.parse_args(words)
            except SystemExit:
                raise AssertionError(errors.getvalue()) from None
    module = import_module(words[words.index("--function-module") + 1])
    options = inspect.signature(module.create).parameters
    for index, word in enumerate(words):
        if word == "-p":
            name, _, value = words[index + 1].partition("=")
            assert name in options, name
            assert re.match(r"(str|int|float|bool):", value), value


def check_curl(words):
    from dense_ctx_explore.edits import FIELDS
    from dense_ctx_explore.routes import ENDPOINTS

    (url,) = [word for word in words if word.startswith("localhost")]
    method = words[words.index("-X") + 1] if "-X" in words else "GET"
    path = "/" + url.partition("/")[2].partition("?")[0]
    routes = {(point.method, re.sub(r"\{\w+(:int)?\}", "*", point.path)) for point in ENDPOINTS}
    assert (method, re.sub(r"/\d+(?=/|$)", "/*", path)) in routes, f"{method} {path}"
    if "-d" in words:
        body = json.loads(words[words.index("-d") + 1])
        assert set(body) <= {"id", "edit", *FIELDS[body["edit"]]}, body
