"""Hooks of the site: pages that are files of the repository's root, the reference, and links that leave docs/.

The pages of docs/ are read in the repository too, so their links are those of the source tree. What the site does not
hold (code, presets) stays as text there.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

import dense_ctx

ROOT = Path(__file__).parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")
PUBLIC = [  # beside the names of dense_ctx itself
    "dense_ctx_predict.predictor.Predictor", "dense_ctx_predict.tracking.track", "dense_ctx_session.session.Session",
    "dense_ctx.train.TrainConfig", "dense_ctx.train.train", "dense_ctx.evaluate.evaluate", "dense_ctx.evaluate.Result",
    "dense_ctx.errors", "dense_ctx.hookspecs", "dense_ctx.data.base", "dense_ctx.commands.base", "dense_ctx.testing",
]  # fmt: skip


def reference() -> str:
    """The page of the public names, from their docstrings."""
    names = [f"dense_ctx.{module}.{name}" for name, module in dense_ctx._LAZY.items()]
    blocks = "\n\n".join(f"::: {name}" for name in [*names, *PUBLIC])
    introduction = "Names of `dense_ctx` are imported from there: `from dense_ctx import InContext`."
    return f"# Python reference\n\n{introduction}\n\n{blocks}\n"


def inside(text: str, folder: Path) -> str:
    """The text of a page in `folder` of the repository, whose links lead to pages of the site, or nowhere."""

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        path = (folder / target).resolve()
        docs = ROOT / "docs"
        if path.parent == ROOT and path.name in PAGES:
            path = docs / PAGES[path.name]
        elif path == ROOT / "README.md":
            path = docs / "README.md"
        elif not path.is_relative_to(docs) or path.suffix == ".py" or path.is_dir():
            return words
        home = folder if folder.is_relative_to(docs) else docs
        return f"[{words}]({os.path.relpath(path, home).replace(os.sep, '/')}{anchor})"

    return LINK.sub(link, text)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=inside(text, ROOT)))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links of a page of docs/."""
    if page.file.generated_by:
        return markdown
    return inside(markdown, (ROOT / "docs" / page.file.src_uri).parent)
