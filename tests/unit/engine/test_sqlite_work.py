"""How much of the file SQLite reads for what: steps of its own machine, which no load changes."""

from pathlib import Path

import pytest

from cluster.engine.seam import Put
from cluster.engine.sqlite_file import SqliteFile

_GRAIN = 20
"""Steps between two calls of the counter."""


class CountedFile:
    """A store file whose reader's steps are counted."""

    def __init__(self, path: Path, records: int) -> None:
        self.file = SqliteFile(path, quota_bytes=1 << 30, opened_s=0.0)
        for start in range(0, records, 100):
            puts = [Put(b"%06d" % number, b"v") for number in range(start, start + 100)]
            self.file.transact(start.to_bytes(16, "big"), (), puts, 0.0)
        self._calls = 0
        self.file._reader.set_progress_handler(self._count, _GRAIN)

    def _count(self) -> int:
        self._calls += 1
        return 0

    def steps_of_last_change(self) -> int:
        """Return the steps of a watch that takes in the newest revision."""
        self._calls = 0
        batches, _ = self.file.changes(b"", self.file.revision)
        assert [len(batch.changes) for batch in batches] == [100]
        return self._calls * _GRAIN

    def steps_of_listing(self) -> int:
        """Return the steps of a listing in pages."""
        self._calls = 0
        after, seen = None, 0
        while True:
            page = self.file.list_page(b"", after, None, 50)
            seen += len(page.entries)
            if not page.more:
                break
            after = page.entries[-1].key
        assert seen == self.file.revision * 100 - 100
        return self._calls * _GRAIN


@pytest.fixture
def few(tmp_path: Path) -> CountedFile:
    return CountedFile(tmp_path / "few.db", 400)


@pytest.fixture
def many(tmp_path: Path) -> CountedFile:
    return CountedFile(tmp_path / "many.db", 3_200)


def test_a_watch_reads_what_changed_and_not_the_history(
    few: CountedFile, many: CountedFile
) -> None:
    assert many.steps_of_last_change() < 1.5 * few.steps_of_last_change()


def test_a_listing_reads_each_page_once(few: CountedFile, many: CountedFile) -> None:
    assert many.steps_of_listing() < 8 * 1.5 * few.steps_of_listing()
