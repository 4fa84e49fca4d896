"""Every command of docs/how-to is typed as it stands there, on machines that have the addresses and
the paths the pages name."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.how_to_pages import (
    ELSEWHERE,
    FIRST,
    MACHINE_ONLY,
    PAGES,
    ROOT,
    commands_of,
    typed_elsewhere,
)
from tests.e2e.how_to_site import (
    RUN_ON,
    clean,
    ensure_manager,
    files,
    first_cluster,
    sealed_site,
    type_on,
)
from tests.e2e.how_to_stories import ALONE, STORIES, Story
from tests.support.machines import Site


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The cluster of the first page."""
    with tempfile.TemporaryDirectory(prefix="sr-") as directory:
        made = Site(Path(directory))
        try:
            first_cluster(made)
            yield made
        finally:
            made.close()


def filled(site: Site, story: Story, command: str) -> str:
    """Return a command with its placeholders filled in."""
    for placeholder, what in story.instead.items():
        if placeholder in command:
            command = command.replace(placeholder, what(site))
    return command


@pytest.mark.slow
@pytest.mark.needs_root
def test_the_first_cluster_comes_up_as_its_page_says(site: Site) -> None:
    assert site["m1"].ok("strongroom service ps red -q").split() != []
    managers = json.loads(site["m1"].ok("strongroom manager ls --format json"))
    assert {one["name"] for one in managers} == {"m1", "m2", "m3"}


@pytest.mark.slow
@pytest.mark.needs_root
@pytest.mark.parametrize("page", STORIES)
def test_commands_of_a_page_do_what_they_say(site: Site, page: str) -> None:
    story = STORIES[page]
    for name in ("m2", "m3"):
        if not any("manager run" in one for one in site[name].started):
            ensure_manager(site, name)
    clean(site)
    story.prepare(site)
    said = ""
    typed = [one for one in commands_of(page) if not typed_elsewhere(page, one)]
    for number, command in enumerate(typed):
        if number in story.before:
            story.before[number](site)
        codes = story.codes.get(command, frozenset({0}))
        said = f"{said}{filled(site, story, command)}"
        if command.startswith("export "):
            said += " && "
            continue
        on_node = command.startswith(("strongroom-agent", "rm -r /var/lib/strongroom-agent"))
        stdin = (site.home / story.stdin).read_bytes() if story.stdin else b""
        type_on(site[story.node if on_node else "m1"], said, codes, stdin)
        said = ""
    for machine in site.machines.values():
        for start in RUN_ON[2:]:
            machine.end(start)


@pytest.mark.slow
@pytest.mark.needs_root
@pytest.mark.parametrize("page", ALONE)
def test_commands_of_a_page_on_one_manager_do_what_they_say(page: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    site = sealed_site(tmp_path)
    try:
        files(site, "current-password.txt")
        for command in commands_of(page):
            if not typed_elsewhere(page, command):
                type_on(site["s1"], command)
    finally:
        site.close()


def test_every_command_of_every_page_is_typed_somewhere() -> None:
    pages = sorted(path.stem for path in PAGES.glob("*.md"))
    told = {*STORIES, *ALONE, FIRST}
    untold = [
        (page, command)
        for page in pages
        for command in commands_of(page)
        if page not in told and not typed_elsewhere(page, command)
    ]
    assert untold == []
    assert told <= set(pages)


def test_what_types_a_command_elsewhere_exists_and_is_needed() -> None:
    everything = [(path.stem, one) for path in PAGES.glob("*.md") for one in commands_of(path.stem)]
    for start, place in MACHINE_ONLY.items():
        assert (ROOT / place).exists(), place
        assert any(command.startswith(start) for _, command in everything), start
    for (page, start), place in ELSEWHERE.items():
        assert (ROOT / place).exists(), place
        assert any(at == page and command.startswith(start) for at, command in everything), start


def test_commands_hide_in_no_block_of_another_kind() -> None:
    for page in PAGES.glob("*.md"):
        other = re.findall(
            r"^```(?!console|sh)\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
        )
        for block in other:
            assert not re.search(r"^(?:[#$] )?strongroom(?:-agent)? [a-z]", block, re.MULTILINE), (
                page
            )
