"""Write docs/cli.md from the parsers of the verbs: python docs/make_cli.py. A test compares the two."""

from __future__ import annotations

import argparse
from pathlib import Path

from dense_ctx import registry
from dense_ctx.cli import build_parser
from dense_ctx.commands.arguments import VerbParser

FILE = Path(__file__).with_name("cli.md")
WIDTH = 112  # of usage lines, whatever the terminal's
INTRODUCTION = """\
# Command line

<!-- Written by docs/make_cli.py from the parsers: change those, and run it again. -->

`dense-ctx VERB ...`; `dense-ctx VERB --help` shows what follows here for one verb. The status is 0; 1 where a verb
reports failure (a check found problems, cells of a benchmark failed); 2 for an error, whose line begins with `error:`;
130 after Ctrl-C. `--debug` before the verb shows the traceback of an error.

## A model

Written the same way for every verb, as `MODEL` where the verb is about the model, as `--model MODEL` elsewhere, and as
`model` in a training configuration:

| written | is |
|---|---|
| `lila-lite0` | a registered model (`dense-ctx plugins model`) |
| `runs/mine/model` | a folder that training or `save_pretrained` wrote |
| `owner/name`, `owner/name(revision=v1)` | a model on the Hub |
| `dinov2-s14+dpt(dim=128)` | a new one: a backbone, and a decoder with its first weights |
| `dinov2-s14`, `dinov2-s14(weights=vit.pth)` | a backbone alone, which means `dinov2-s14+upsample` |
| `hf:facebook/dinov2-small`, `timm:NAME` | a backbone of transformers or timm by its name there |
| `lora:dinov2-s14`, `model:runs/mine/model` | a backbone with adapters; a saved model as a backbone |

Left out, it is `{default}`. For `features` a first word that is a file is an image, and the model left out.

## Arguments in brackets

Any registered part takes arguments in brackets, `NAME(key=value, ...)`: backbones, decoders, cues (`--cues`),
segmenters (`--segmenter`), probes (`--method`), heads and tasks of `bench`; in configurations too
(`objective: lila(start=64)`). Brackets need quotes in most shells: `'dinov2-s14+upsample(layers=[-1])'`.

## Settings

`key=value` changes what a verb reads from a file or has many of, with dots for keys inside others: a configuration
(`train run.yaml optimizer.lr=1e-4`), a protocol (`evaluate dinov2-s14 grid=8 --protocol davis2017-linear-v2 ...`), a
data set (`datasets nyuv2 data/nyu target=normals`), DIP's tasks (`pseudo-label photos side=320 --out tasks`). Settings
may stand before, between and behind options: a word of the form `key=value` is one unless it follows an option of a
single value. Words behind `--` are neither options nor settings. A file whose name looks like a setting is written
`./a=b.yaml`.

Values are YAML 1.2, as everywhere in dense_ctx: `1e-3` is a number; `true` and `false` are the only booleans; `no`,
`off`, `1:30` and `2024-01-01` are text; `null` is nothing; `[1, 2]` is a list, `{{a: 1}}` a mapping; quotes make text
of anything (`'name="1"'`).

Settings that contradict each other are refused, as are options that would have no effect. Options are written out in
full.
"""


def page() -> str:
    """The text of docs/cli.md."""
    from dense_ctx.model_spec import DEFAULT_MODEL

    own = [entry.name for entry in registry().entries("command") if entry.owner.distribution == "dense-ctx"]
    parsers = verb_parsers()
    verbs = [section(name, registry().create("command", name).help, parsers[name]) for name in own]
    return "\n".join([INTRODUCTION.format(default=DEFAULT_MODEL), *verbs])


def verb_parsers() -> dict[str, VerbParser]:
    """The parser of each verb."""
    (verbs,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(verbs.choices)


def section(name: str, help_text: str, parser: VerbParser) -> str:
    """One verb: its description, usage and arguments."""
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    ordered = sorted(actions, key=is_option)
    words = [usage(action) for action in ordered]
    lines, line = [], f"dense-ctx {name}"
    for word in words:
        if len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = " " * 8 + word
        else:
            line += f" {word}"
    rows = [f"| `{written(action)}` | {explained(action)} |" for action in ordered]
    description = [] if parser.description == help_text else [sentence(parser.description), ""]
    text = [f"## {name}", "", sentence(help_text), "", *description, "```text", *lines, line, "```", ""]
    text += ["| argument | meaning |", "|---|---|", *rows, ""] if rows else []
    return "\n".join(text + ([sentence(parser.epilog), ""] if parser.epilog else []))


def is_option(action: argparse.Action) -> bool:
    """Whether it is written with dashes."""
    return bool(action.option_strings)


def usage(action: argparse.Action) -> str:
    """An argument in the usage line."""
    text = written(action)
    optional = not action.required and (is_option(action) or action.nargs in ("?", "*"))
    return f"[{text}]" if optional and not text.startswith("[") else text


def written(action: argparse.Action) -> str:
    """An argument with its values: "--seeds N [N ...]"."""
    option = action.option_strings[-1] if action.option_strings else ""
    choices = None if action.choices is None else "{" + ",".join(map(str, action.choices)) + "}"
    name = action.metavar or choices or action.dest.upper()
    names = list(name) if isinstance(name, tuple) else [name]
    if action.nargs == 0:
        values = ""
    elif action.nargs in ("+", "*"):
        values = f"{names[0]} [{names[0]} ...]" if action.nargs == "+" else f"[{names[0]} ...]"
    else:
        values = " ".join(names * (action.nargs if isinstance(action.nargs, int) and len(names) == 1 else 1))
    return f"{option} {values}".strip()


def explained(action: argparse.Action) -> str:
    """The help of an argument, with the values that argparse fills in."""
    text = (action.help or "") % {**vars(action), "prog": "dense-ctx"}
    return text.replace("|", "\\|")


def sentence(text: str | None) -> str:
    """With a capital and a full stop."""
    text = (text or "").strip()
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8", newline="\n")
