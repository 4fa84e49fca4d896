"""What the docs point at exists: files, sections and make targets."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_MAKE = re.compile(r"(?:^|`)\s*(?:\$ |sudo )*make ([a-z][a-z-]*)", re.MULTILINE)


def pages(root: Path) -> list[Path]:
    """Return every Markdown page of the project."""
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]


def anchors(text: str) -> set[str]:
    """Return the names of the sections of a page, as a forge derives them."""
    titles = re.findall(r"^#+\s+(.*)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(page: Path) -> Iterator[str]:
    """Yield the relative links of a page that lead nowhere."""
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        is_page = file.suffix == ".md" and file.exists()
        if not file.exists() or (anchor and is_page and anchor not in anchors(file.read_text())):
            yield target


def test_links_lead_somewhere(root: Path) -> None:
    broken = {page.name: found for page in pages(root) if (found := list(broken_links(page)))}
    assert broken == {}


def test_make_targets_in_the_docs_exist(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    unknown = {
        f"{page.name}: make {target}"
        for page in pages(root)
        for target in _MAKE.findall(page.read_text())
        if target not in targets
    }
    assert unknown == set()


@pytest.mark.parametrize("link", ["gone.md", "page.md#gone", "#gone"])
def test_broken_link_is_seen(tmp_path: Path, link: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"# A title: here\n[good](#a-title-here) [out](https://example.org) [x]({link})\n"
    )
    assert list(broken_links(page)) == [link]
