"""What the docs point at exists: files, sections and make targets."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from cluster.protocol import wire
from tools.docs_commands import commands

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_MAKE = re.compile(r"(?:^|`)\s*(?:\$ |sudo )*make ([a-z][a-z-]*)", re.MULTILINE)
_COMMAND = re.compile(r"(?:`|^[#$] )(strongroom(?:-agent)?)((?: [a-z][a-z-]+){1,3})", re.MULTILINE)
_PAGE = re.compile(r"docs/[\w/-]+\.md")
_DECISION = re.compile(r"ADR (\d{4})")

ANNOUNCED: set[str] = set()
"""Commands that a message names as not there yet."""


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


def unknown_commands(text: str, known: set[str]) -> set[str]:
    """Return the commands of ours a text names that do not exist."""
    named = {f"{program}{words}" for program, words in _COMMAND.findall(text)}
    first_words = {" ".join(command.split()[:2]) for command in known}
    return {
        name
        for name in named
        if " ".join(name.split()[:2]) not in known
        and " ".join(name.split()[:3]) not in known
        and name not in first_words
    }


def sources(root: Path) -> Iterator[Path]:
    """Yield every module of the project's own packages."""
    yield from chain((root / "cluster").rglob("*.py"), (root / "agent").rglob("*.py"))


def test_commands_named_in_docs_and_messages_exist(root: Path) -> None:
    known = {*commands(), *ANNOUNCED}
    files = [*pages(root), *sources(root)]
    unknown = {file.name: unknown_commands(file.read_text(), known) for file in files}
    assert {name: found for name, found in unknown.items() if found} == {}


def test_unknown_command_is_seen() -> None:
    text = (
        "`strongroom secret create x`, `strongroom token`, `strongroom`, `strongroom secret shred`"
    )
    known = {"strongroom secret create", "strongroom token ls"}
    assert unknown_commands(text, known) == {"strongroom secret shred"}


def test_every_session_message_is_in_the_reference(root: Path) -> None:
    text = (root / "docs" / "reference" / "wire.md").read_text()
    messages = (*get_args(wire.FromAgent), *get_args(wire.FromManager))
    for message in messages:
        fields = ", ".join(field.encode_name for field in msgspec.structs.fields(message))
        assert f"| `{message.__struct_config__.tag}` | {fields}" in text


def test_pages_and_decisions_named_in_the_code_exist(root: Path) -> None:
    missing = set()
    for source in sources(root):
        text = source.read_text()
        missing |= {name for name in _PAGE.findall(text) if not (root / name).exists()}
        missing |= {
            f"ADR {number}"
            for number in _DECISION.findall(text)
            if not list((root / "docs" / "adr").glob(f"{number}-*.md"))
        }
    assert missing == set()


@pytest.mark.parametrize("link", ["gone.md", "page.md#gone", "#gone"])
def test_broken_link_is_seen(tmp_path: Path, link: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"# A title: here\n[good](#a-title-here) [out](https://example.org) [x]({link})\n"
    )
    assert list(broken_links(page)) == [link]
