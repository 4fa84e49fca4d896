"""A manager's own certificate: fresh when it serves, recorded before it is used, swapped live."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cluster.manager_certificate import ManagerCertificate
from cluster.protocol.errors import Unavailable
from cluster.seal.unlock import open_seal_file
from tests.support.clock import ManualClock
from tests.unit.founded import Founded, founded_cluster


@pytest.fixture
async def founded(tmp_path: Path, seed: int) -> AsyncIterator[Founded]:
    # TLS contexts are rehearsed in real time, so the founding lies in the past.
    clock = ManualClock(datetime.now(UTC) - timedelta(days=80))
    async with founded_cluster(tmp_path, clock, seed) as founded:
        yield founded


def certificate_of(founded: Founded) -> ManagerCertificate:
    return ManagerCertificate(
        founded.config,
        founded.founding.contents,
        founded.seal_key,
        founded.store,
        founded.cases.managers,
        founded.cases.own,
        founded.clock,
        founded.entropy,
    )


def leaf_of(chain: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain)[0]


def recorded(founded: Founded) -> tuple[str, ...]:
    stored = founded.store.view.managers.get(founded.founding.contents.manager_id)
    assert stored is not None
    return stored.record.serials


async def test_young_certificate_is_kept(founded: Founded) -> None:
    certificate = certificate_of(founded)
    await certificate.ensure_fresh()
    before = certificate.api_context.current
    founded.clock.advance(timedelta(days=40))
    await certificate.look()
    assert certificate.contents is founded.founding.contents
    assert certificate.api_context.current is before


async def test_certificate_is_renewed_in_time_and_served_at_once(founded: Founded) -> None:
    certificate = certificate_of(founded)
    await certificate.ensure_fresh()
    old, joining = certificate.api_context.current, certificate.join_context.current
    founded.clock.advance(timedelta(days=80))
    await certificate.look()
    leaf = leaf_of(certificate.contents.tls_certificate_chain)
    assert leaf.not_valid_after_utc > founded.clock.now() + timedelta(days=89)
    assert certificate.api_context.current is not old
    assert certificate.join_context.current is not joining
    assert recorded(founded)[0] == format(leaf.serial_number, "x")
    assert len(recorded(founded)) == 2


async def test_renewed_certificate_survives_a_restart(founded: Founded) -> None:
    certificate = certificate_of(founded)
    await certificate.ensure_fresh()
    founded.clock.advance(timedelta(days=80))
    await certificate.look()
    contents, _ = open_seal_file(founded.config.seal_file, founded.unlock_key)
    assert contents.tls_certificate_chain == certificate.contents.tls_certificate_chain
    assert contents.tls_key == certificate.contents.tls_key
    assert contents.root_key == founded.founding.contents.root_key


async def test_manager_that_was_off_for_long_starts_with_a_fresh_one(founded: Founded) -> None:
    founded.clock.advance(timedelta(days=200))
    certificate = certificate_of(founded)
    await certificate.ensure_fresh()
    leaf = leaf_of(certificate.contents.tls_certificate_chain)
    assert leaf.not_valid_after_utc > founded.clock.now()


async def test_start_goes_on_with_a_good_one_while_nothing_can_be_recorded(
    founded: Founded,
) -> None:
    """Failing would end the process, and a person would have to unlock it again."""
    founded.clock.advance(timedelta(days=80))
    await founded.store.close()
    certificate = certificate_of(founded)
    await certificate.ensure_fresh()
    assert certificate.contents is founded.founding.contents
    assert certificate.api_context.current is certificate.api_context.front


async def test_certificate_that_cannot_be_recorded_is_not_used(founded: Founded) -> None:
    certificate = certificate_of(founded)
    await certificate.ensure_fresh()
    before = certificate.api_context.current
    founded.clock.advance(timedelta(days=80))
    await founded.store.close()
    with pytest.raises(Unavailable):
        await certificate.look()
    assert certificate.api_context.current is before
    contents, _ = open_seal_file(founded.config.seal_file, founded.unlock_key)
    assert contents.tls_certificate_chain == founded.founding.contents.tls_certificate_chain
