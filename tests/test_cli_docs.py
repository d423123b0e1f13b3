"""docs/cli.md is what the parsers say; command lines in examples and presets are right (pages: test_snippets.py)."""

import argparse
import re
import runpy
import shlex
from pathlib import Path

import pytest
import snippets

from dense_ctx import cli, registry
from dense_ctx.commands.arguments import VerbParser
from dense_ctx.model_spec import DEFAULT_MODEL

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*.py")),
    *sorted((ROOT / "plugins").glob("*/presets/*.yaml")),
]
VERBS = registry().names("command")
maker = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))


def code(page):
    """Comments of configurations and docstrings, with continuation lines joined."""
    return re.sub(r"\\\n[#\s]*", " ", page.read_text(encoding="utf-8")).splitlines()


def commands(page):
    """Command lines of a file, without what follows them."""
    for line in code(page):
        matches = re.match(
            r"^[#$\s]*(?:pip install [^&]* && |accelerate launch -m |.*-m )?dense[-_]ctx(?:\.cli)? ([a-z].*)", line
        )
        elided = matches is None or "..." in matches[1].split()
        if not elided and matches[1].split()[0] in VERBS:
            yield matches[1].partition("   #")[0].partition("  #")[0].strip()


LINES = [(page.relative_to(ROOT).as_posix(), line) for page in PAGES if page.suffix != ".md" for line in commands(page)]


def test_the_page_is_written_from_the_parsers():
    assert maker["FILE"].read_text(encoding="utf-8") == maker["page"](), "run python docs/make_cli.py"


def test_every_verb_has_a_command_line_in_the_documentation():
    assert len(LINES) > 10
    lines = [
        words for block in snippets.ALL if block.language == "bash" for words in snippets.command_lines(block.text)
    ]
    assert set(VERBS) <= {words[1] for words in lines if words[0] == "dense-ctx"}


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_documented_command_line_is_one(page, line, capsys):
    try:
        args = cli.build_parser().parse_args(shlex.split(line))
    except SystemExit:
        pytest.fail(f"{page}: {line}\n{capsys.readouterr().err}")
    assert all("=" in setting for setting in getattr(args, "settings", []))


def inline():
    """`dense-ctx VERB ...` inside a sentence, of whatever page and module."""
    files = [*PAGES, *(ROOT / "dense_ctx").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    for file in files:
        for found in re.findall(r"`dense-ctx ([a-z][^`\n]*)`", file.read_text(encoding="utf-8")):
            yield file.relative_to(ROOT).as_posix(), found.split()


def test_options_inside_sentences_exist():
    parsers = maker["verb_parsers"]()
    count = 0
    for file, (verb, *words) in inline():
        assert verb in parsers, f"{file}: {verb}"
        options = {text for action in parsers[verb]._actions for text in action.option_strings}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0].rstrip(".,") in options, f"{file}: {verb} {word}"
                count += 1
    assert count > 3


def test_a_verb_with_a_model_has_the_same_default():
    actions = {}
    for verb, parser in maker["verb_parsers"]().items():
        for action in parser._actions:
            if action.dest == "model" and not action.required:  # adapt takes a trained one alone
                actions[verb] = (action.option_strings, action.default, action.help)
    assert set(actions) >= {"demo", "evaluate", "features", "measure", "predict", "pseudo-label", "track"}
    assert {default for _, default, _ in actions.values()} == {DEFAULT_MODEL}
    assert len({text for _, _, text in actions.values()}) == 1
    assert {verb for verb, (options, _, _) in actions.items() if not options} == {"evaluate", "features", "measure"}


def test_every_argument_is_explained():
    for verb, parser in maker["verb_parsers"]().items():
        for action in parser._actions:
            assert action.help, f"{verb} {action.dest}"
            assert action.help != argparse.SUPPRESS, f"{verb} {action.dest} is hidden"


def test_the_settings_of_pseudo_label_are_those_of_its_tasks():
    from dataclasses import fields

    from dense_ctx_dip.task_settings import TaskSettings

    (text,) = [action.help for action in maker["verb_parsers"]()["pseudo-label"]._actions if action.dest == "settings"]
    defaults = {field.name: str(field.default) for field in fields(TaskSettings) if field.name != "segmenter"}
    assert dict(re.findall(r"(\w+)=([\w.]+)", text)) == defaults


# ---------------------------------------------------------------------- the parser of a verb


@pytest.fixture
def parser():
    from dense_ctx.commands.arguments import add_settings

    verb = VerbParser(prog="verb")
    verb.add_argument("name", nargs="?")
    add_settings(verb, "of it")
    verb.add_argument("--one")
    verb.add_argument("--many", nargs="+", default=[])
    verb.add_argument("--flag", action="store_true")
    return verb


@pytest.mark.parametrize(
    "line",
    [
        "x a=1 b.c=2 --one o --many p q --flag",
        "a=1 x b.c=2 --many p q --flag --one o",
        "--one o x a=1 --many p q b.c=2 --flag",
        "--many p a=1 q b.c=2 --flag --one o x",
        "--flag a=1 x --one o b.c=2 --many p q",
    ],
)
def test_settings_stand_anywhere(parser, line):
    args = parser.parse_args(line.split())
    assert (args.name, args.settings, args.one, args.many, args.flag) == ("x", ["a=1", "b.c=2"], "o", ["p", "q"], True)
    assert set(args.spelling) == {"name", "settings", "one", "many", "flag"}


def test_what_is_no_setting(parser):
    args = parser.parse_args(["--one", "a=1", "--many", "./a=b", "c/d=e", "f(g=1)", "--", "a=2"])
    assert (args.one, args.many, args.name, args.settings) == ("a=1", ["./a=b", "c/d=e", "f(g=1)"], "a=2", [])
    assert parser.parse_args([]).spelling == {}
    assert parser.parse_args(["x", "y", "a=1"]).settings == ["a=1", "y"]  # refused where settings are read


def test_an_unknown_option_is_answered_with_the_closest(parser, capsys):
    for line, message in {
        "x --mny p": "there is no option --mny; did you mean --many?",
        "x --fla": "there is no option --fla; did you mean --flag?",  # no abbreviations
        "x --zzzz=3": "there is no option --zzzz\n",
    }.items():
        with pytest.raises(SystemExit):
            parser.parse_args(line.split())
        assert message in capsys.readouterr().err


def test_a_verb_may_have_verbs(capsys):
    parser = VerbParser(prog="verb")
    parser.add_subparsers(dest="inner").add_parser("deep").add_argument("--x")
    assert parser.parse_args(["deep", "--x", "1"]).x == "1"


def test_settings_that_contradict(parser):
    from dense_ctx.commands.arguments import settings_of
    from dense_ctx.errors import DenseCtxError

    for good in (["a=1", "a=1"], ["a={}", "a.b=1"], ["a.b=1", "a.c=2"], ["a.b=1", "ab=2"]):
        assert settings_of(argparse.Namespace(settings=good)) == good
    for bad in (["a=1", "a=2"], ["a.b=1", "a=null"], ["a.b.c=1", "d=1", "a.b=2"]):
        with pytest.raises(DenseCtxError, match="contradicts 'a"):
            settings_of(argparse.Namespace(settings=bad))
