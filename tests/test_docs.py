"""The pages: links that lead somewhere, every page in the navigation, names and paths that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgevit

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PAPERS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "apps").glob("*/*.md")), *PAGES]
_FENCE = re.compile(r"^(```+|~~~+).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|toml|md|json|yml))(?::\w+)?`")
_SHOWN = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def prose(page: Path) -> str:
    """A page without what stands in code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub and mkdocs both make them."""
    titles = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", title) for title in _HEADING.findall(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def dead_links(page: Path) -> Iterator[str]:
    """Relative links of a page that lead to no file, or to no heading of one."""
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name) if name else page
        if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAPERS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert not list(dead_links(page))


def test_every_page_is_in_the_navigation_and_the_index() -> None:
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES}
    navigation = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(navigation) == sorted(pages)
    index = {link.partition("#")[0] for link in _LINK.findall(prose(DOCS / "index.md"))}
    assert index == pages - {"index.md"}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/design.md", "docs/decisions.md"])
def test_files_that_are_named_exist(name: str) -> None:
    # below a bundle, a plan or an app there are other files of such names
    paths = [path for path in _PATH.findall(prose(ROOT / name)) if not path.startswith(("build/", "models/sub"))]
    assert not [path for path in paths if not (ROOT / path).exists() and not (ROOT / "edgevit" / path).exists()]


def defines(module: Path, name: str) -> bool:
    """Whether a module has a function or class of that name at its top."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) and node.name == name for node in ast.parse(module.read_bytes()).body)


@pytest.mark.parametrize("page", sorted((DOCS / "reference").glob("*.md")), ids=lambda page: page.stem)
def test_the_reference_shows_what_there_is(page: Path) -> None:
    for shown in _SHOWN.findall(page.read_text(encoding="utf-8")):
        module = ROOT.joinpath(*shown.split(".")).with_suffix(".py")
        if not module.is_file():
            owner, name = module.parent.with_suffix(".py"), shown.rpartition(".")[2]
            assert owner.is_file() and defines(owner, name), shown


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "reference/api.md").read_text(encoding="utf-8")
    assert not [name for name in edgevit.__all__ if not re.search(rf"(- |\.){name}$", text, re.MULTILINE)]
