"""Makes pages of the site from what lies outside of docs/: the READMEs and others, and the API.

A hook of MkDocs (mkdocs.yml). The documents are written for the repository, so links among them are
rewritten here: to the page, or to plain text where the site has no such page.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

ROOT: Final = Path(__file__).parents[1]
#: Pages that are not in docs/, by their file.
PAGES: Final = {
    "README.md": "index.md",
    "README.ru.md": "ru/index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
_FILES: Final = {page: file for file, page in PAGES.items()}
_API: Final = "api/"
_FORM: Final = """\
h2.doc-heading { font-size: 1.5rem; margin-top: 2.5rem }
h3.doc-heading, h4.doc-heading { font-size: 1.1rem; margin-top: 1.5rem }
.doc-children .doc-children { border-left: 2px solid var(--bs-border-color); padding-left: 1rem }
"""
_LINK: Final = re.compile(r"\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")
_SOURCE: Final = re.compile(r'(src|srcset)="([^":]+)"')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file in docs/.

    Args:
        files: The files of docs/.
        config: The configuration of the site; its navigation names the modules of the reference.

    Returns:
        The files with those pages.
    """
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for page in re.findall(rf"{_API}[\w.]+\.md", str(config.nav)):
        module = page.removeprefix(_API).removesuffix(".md")
        files.append(File.generated(config, page, content=f"# {module}\n\n::: {module}\n"))
    files.append(File.generated(config, "code.css", content=_colours()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 -- the form of a hook
    """Return a document with links that lead to pages of the site.

    Args:
        markdown: The document as it is.
        page: Its page.
        config: The configuration of the site.
        files: The files of the site.
    """
    here = page.file.src_uri
    document = PurePosixPath(_FILES.get(here, f"docs/{here}"))

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found.groups(default="")
        file = os.path.normpath(document.parent / target)
        if not (ROOT / file).exists():
            return found[0]
        there = _page(file)
        if files.get_file_from_path(there) is None:
            return text
        return f"[{text}]({os.path.relpath(there, PurePosixPath(here).parent)}{anchor})"

    def source(found: re.Match[str]) -> str:
        file = os.path.normpath(document.parent / found[2])
        return f'{found[1]}="{os.path.relpath(_page(file), PurePosixPath(here).parent)}"'

    return _SOURCE.sub(source, _LINK.sub(link, markdown))


def _page(file: str) -> str:
    return PAGES.get(file, file.removeprefix("docs/"))


def _colours() -> str:
    """Return the form of the reference, and the colours of code for light pages and dark ones."""
    light, dark = (HtmlFormatter(style=style) for style in ("default", "github-dark"))
    return (
        f"{_FORM}{light.get_style_defs('.highlight')}\n"
        f"{dark.get_style_defs('[data-bs-theme=dark] .highlight')}\n"
    )
