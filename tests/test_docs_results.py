"""Every table of docs/results has its command and date in its section, or says that the command is lost."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "results").glob("*.md"))
TABLE = re.compile(r"^\|[ :|-]*--[ :|-]*\|$", re.MULTILINE)
COMMAND = re.compile(r"(?:[`\n ])(?:python benchmarks/\w+\.py|dense-ctx [a-z]\w+|pytest -m)[ `]")
DATE = re.compile(r"\b20\d\d-[01]\d-[0-3]\d\b")
LOST = re.compile(r"not\s+reproduced\s+since\s+20\d\d-[01]\d-[0-3]\d")
MACHINE = re.compile(r"\b(?:CPU|GPU)\b")
CALL = re.compile(r"python benchmarks/(\w+\.py)((?:[^`\n]|\n(?!\n))*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def sections(text):
    """(heading, text) of each part between two headings, of any level."""
    parts = re.split(r"^(#+ .*)$", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def unproven(text):
    """Headings of the sections whose tables have neither command and date nor the note that the command is lost."""
    return [
        heading
        for heading, body in sections(text)
        if TABLE.search(body) and not LOST.search(body) and not (COMMAND.search(body) and DATE.search(body))
    ]


def invented(text):
    """Options of benchmark commands that the script does not have."""
    wrong = []
    for script, rest in CALL.findall(text):
        source = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
        source += (ROOT / "benchmarks" / "common.py").read_text(encoding="utf-8")
        wrong += [
            f"{script} {option}" for option in OPTION.findall(rest) if not re.search(f'"(--)?{option[2:]}"', source)
        ]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_have_a_command_and_a_date(page):
    text = page.read_text(encoding="utf-8")
    assert unproven(text) == []
    assert MACHINE.search(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_commands_exist(page):
    assert invented(page.read_text(encoding="utf-8")) == []


def test_the_search_sees_what_is_missing():
    table = "\n| a | b |\n|---|---:|\n| 1 | 2 |\n"
    command, date = "\n`python benchmarks/lila.py CLIPS DATA --out DIR`", "\n2 cores of a CPU, 2026-11-21."
    assert unproven(f"# Page\n{command}{date}\n## Bare\n{table}") == ["## Bare"]
    assert unproven(f"# Page\n## No date\n{command}{table}") == ["## No date"]
    assert unproven(f"# Page\n## No command\n{date}{table}") == ["## No command"]
    assert unproven(f"# Page\n## Both\n{command}{date}{table}") == []
    assert unproven(f"# Page\n## Lost\n{table}Command lost; not reproduced since 2026-11-21.") == []
    assert unproven("# Page\n## No table\n") == []
    assert invented("`python benchmarks/lila.py CLIPS DATA --out DIR --no-such`") == ["lila.py --no-such"]
