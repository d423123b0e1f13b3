"""Every block of code on every page is checked, and run unless snippet_table.py says why not.

Checked: a command line by the program's own parser with every name in it looked up, Python compiled with its imports,
names of parts and keywords of calls, YAML as the configuration or protocol that it is. Run: the blocks of a page one
after the other, in one folder, by one reader. A block of another language fails, and so does one that is neither run
nor listed.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys

import pytest
import snippet_commands
import snippet_stage
import snippet_table
import snippet_verbs
import snippets

from dense_ctx.config import Part, Parts, load_yaml, typed
from dense_ctx.evaluate.protocol import Protocol
from dense_ctx.train import TrainConfig

NAMES = [snippets.name_of(page) for page in snippets.PAGES]
SHELL = [block for block in snippets.ALL if block.language == "bash"]
PYTHON = [block for block in snippets.ALL if block.language == "python"]
PROGRAMS = re.compile(r"(\$ )?(dense-ctx [a-z]|python3? |pip |pytest\b|cvat-cli |curl |torchrun |accelerate )")
TUTORIALS = "docs/start/"  # run by tests/test_tutorials.py


def listed(block):
    """The reason why a block is not run, if there is one."""
    for (page, start), reason in snippet_table.STATIC.items():
        if block.page == page and block.begins(start):
            return reason
    return None


def runnable(page):
    return [b for b in [*SHELL, *PYTHON] if b.page == page and listed(b) is None and not page.startswith(TUTORIALS)]


PAGES_THAT_RUN = [name for name in NAMES if runnable(name)]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        snippet_stage.install_template(tmp_path_factory.mktemp("site"), patch)
        yield


def place(block):
    return block.place


# ------------------------------------------------------------------------------------------- what there is


@pytest.mark.parametrize("page", snippets.PAGES, ids=snippets.name_of)
def test_each_block_is_of_a_language_that_is_checked(page):
    for block in snippets.blocks(page):
        assert block.language in snippets.LANGUAGES, f"{block.place}: a block of {block.language or 'no language'}"
        if block.language == "text" and block.page not in snippets.GENERATED:
            lines = [line for line in block.text.splitlines() if PROGRAMS.match(line)]
            assert not lines, f"{block.place}: commands in a block of text: {lines}"
    indented = re.findall(
        r"\n\n {4}\S[^\n]*", re.sub(r"(?m)^ *(?:[-*]|\d+\.) .*\n(?:(?:  .*)?\n)*", "\n", snippets.prose(page))
    )
    assert indented == [], "a block by indentation has no language: fence it"


def test_the_table_lists_blocks_and_pages_that_there_are():
    for page, start in snippet_table.STATIC:
        same = [block for block in [*SHELL, *PYTHON] if block.page == page and block.begins(start)]
        assert len(same) == 1, (page, start)
    assert all(snippet_table.STATIC.values())
    for table in (snippet_table.BEFORE, snippet_table.INSTEAD, snippet_table.FAST):
        assert set(table) <= set(PAGES_THAT_RUN)
    for page, replacements in snippet_table.INSTEAD.items():
        text = "".join(block.text for block in runnable(page))
        assert [old for old in replacements if old not in text] == []
    for reason in snippet_table.STATIC.values():
        for file in re.findall(r"(?:tests/)?(test_\w+\.py)", reason):
            assert (snippets.ROOT / "tests" / file).is_file(), file


def test_most_blocks_run():
    run = sum(len(runnable(name)) for name in NAMES)
    tutorials = sum(block.page.startswith(TUTORIALS) for block in [*SHELL, *PYTHON])
    assert run + tutorials + len(snippet_table.STATIC) == len(SHELL) + len(PYTHON)
    assert run + tutorials > len(snippet_table.STATIC)


# ------------------------------------------------------------------------------------------- checked


@pytest.mark.parametrize("block", SHELL, ids=place)
def test_command_lines_are_right(block, template):
    lines = list(snippets.command_lines(block.text))
    assert lines
    for words in lines:
        snippet_commands.check(words)


@pytest.mark.parametrize("block", PYTHON, ids=place)
def test_python_compiles_and_its_names_resolve(block, template):
    tree = ast.parse(block.text, block.place)
    namespace = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dense_ctx") and "yours" not in node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                try:
                    namespace[alias.asname or alias.name] = getattr(module, alias.name)
                except AttributeError:
                    namespace[alias.asname or alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
    import dense_ctx

    namespace = {**{name: getattr(dense_ctx, name) for name in dense_ctx.__all__}, **namespace}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (target := callee(node.func, namespace)) is not None:
            check_keywords(target, node)
            check_parts(target, node)


def callee(node, known):
    """What a call calls, if it is reached from an imported name."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and (owner := callee(node.value, known)) is not None:
        return getattr(owner, node.attr)
    return None


def check_keywords(target, call):
    signature = inspect.signature(target)
    if any(keyword.arg is None for keyword in call.keywords) or any(isinstance(a, ast.Starred) for a in call.args):
        return
    # a method of a class that is called on an instance has its first argument already
    signature.bind(*[None] * len(call.args), **{keyword.arg: None for keyword in call.keywords})


def check_parts(target, call):
    """Literal names of parts, with their literal arguments."""
    try:
        words = [ast.literal_eval(argument) for argument in call.args]
        options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError:
        return
    name = getattr(target, "__name__", "")
    if name == "from_parts":
        snippet_verbs.bind("backbone", Part(words[0], options.get("backbone_args", {})))
        if len(words) > 1:
            decoder = Part(words[1], options.get("decoder_args", {}))
            snippet_verbs.bind("decoder", decoder, dims=(8,), strides=(8,))
    elif name == "create_backbone":
        snippet_verbs.bind("backbone", Part(words[0], options))
    elif name == "from_pretrained" and "/" not in words[0]:
        saved = any(f'("{words[0]}")' in block.text and ".save" in block.text for block in PYTHON)
        snippet_verbs.check_model(f"./{words[0]}" if saved else words[0])


@pytest.mark.parametrize("block", [block for block in snippets.ALL if block.language == "yaml"], ids=place)
def test_yaml_is_a_configuration_or_a_protocol(block, template):
    values = load_yaml(block.text, block.place)
    if "task" in values:
        protocol = typed(Protocol, values, block.place)
        snippet_verbs.bind("probe", protocol.probe)
    else:
        config = TrainConfig.from_dict(values, block.place)
        assert isinstance(config.model, Parts)
        snippet_verbs.check_config(config)


@pytest.mark.slow
def test_python_is_typed_as_it_says(tmp_path):
    """mypy on each page's Python: attributes of results, arguments of methods, names that nobody defined."""
    files = []
    for name in NAMES:
        texts = [block.text for block in PYTHON if block.page == name]
        if texts:
            files.append(tmp_path / (re.sub(r"\W", "_", name) + ".py"))
            files[-1].write_text("\n".join([snippet_table.BEFORE.get(name, ""), *texts]), encoding="utf-8")
    assert len(files) > 20
    options = ["--no-error-summary", "--ignore-missing-imports", "--follow-imports=silent", "--no-incremental",
               "--disable-error-code=no-redef", "--disable-error-code=misc", "--config-file="]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, files)],
        cwd=snippets.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == ""


# ------------------------------------------------------------------------------------------- run


def run_page(page, folder):
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        folder.mkdir(exist_ok=True)
        snippet_stage.lay_out(folder)
        snippet_stage.install_template(folder / "site", patch)
        snippet_stage.stand_in(patch)
        patch.chdir(folder)
        exec(compile(snippet_table.BEFORE.get(page, ""), f"before {page}", "exec"), names)
        for block in sorted(runnable(page), key=lambda block: block.line):
            snippet_stage.run(block, snippet_table.INSTEAD.get(page, {}), names)


@pytest.mark.parametrize("page", [name for name in PAGES_THAT_RUN if name in snippet_table.FAST])
def test_a_page_runs(page, tmp_path):
    run_page(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name in PAGES_THAT_RUN if name not in snippet_table.FAST])
def test_a_longer_page_runs(page, tmp_path):
    run_page(page, tmp_path)


# ------------------------------------------------------------------------------------------- the checks see mistakes


@pytest.mark.parametrize(
    "line",
    [
        "dense-ctx trian run.yaml",
        "dense-ctx track clip.mp4 --masks a.png",
        "dense-ctx features dinov2-s15 a.jpg",
        "dense-ctx features 'dinov2-s14+dpt(dims=3)' a.jpg",
        "dense-ctx evaluate lila-lite0 --protocol davis-v9 --data d",
        "dense-ctx evaluate lila-lite0 --protocol camvid-linear-grid4-v2 --data d grids=8",
        "dense-ctx train lila-b15",
        "dense-ctx train run.yaml step=3",
        "dense-ctx compare --paper lila:table99",
        "dense-ctx cues c --cues flow:no --out o",
        "dense-ctx bench --backbones mae-b16 --heads maxi --tasks 'maxa-depth(name=nyuv2)' --out o",
        "dense-ctx datasets nyuv2 d targets=normals",
        "dense-ctx evaluate lila-lite0 ...",
        "python examples/gone.py",
        "python examples/head_plain.py --fast",
        "pytest -m slower",
        "pytest tests/test_gone.py",
        "pip install 'dense-ctx[explorer]'",
        "accelerate launch -m dense_ctx.cli train lila-b15",
        "torchrun --nproc-per-nodes 2 -m dense_ctx.cli train lila-b14",
        "curl localhost:8765/api/stat",
        "unknown-program x",
        "cvat-cli function run-agent 4 --function-module dense_ctx_cvat.detection -p models=str:x",
    ],
)
def test_a_wrong_line_is_noticed(line):
    (words,) = snippets.command_lines(line)
    with pytest.raises((Exception, SystemExit)):
        snippet_commands.check(words)


@pytest.mark.parametrize(
    "text",
    [
        "from dense_ctx import AutoDenseModels",
        "from dense_ctx_predict import Predictor\nPredictor(context, labels=1)",
        "from dense_ctx import AutoDenseModel\nAutoDenseModel.from_part('a', 'b')",
        "AutoDenseModel.from_parts('dinov2-s15', 'dpt')",
        "AutoDenseModel.from_parts('dinov2-s14', 'dpt', decoder_args={'dims': 3})",
        "for x in",
        "AutoDenseModel.from_pretrained('lila-lite1')",
    ],
)
def test_wrong_python_is_noticed(text, template):
    with pytest.raises(Exception):  # noqa: B017, PT011
        test_python_compiles_and_its_names_resolve(snippets.Block("page", 1, "python", text), None)
