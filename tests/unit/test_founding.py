"""Founding: the first records, the first certificates, and nothing that shows a key."""

from pathlib import Path

import pytest
from cryptography import x509

from cluster.founding import Founder, Founding
from cluster.pki.csr import make_csr, new_key
from cluster.pki.trust_bundle import TrustBundle
from cluster.protocol.errors import InvalidName, InvalidRequest
from cluster.seal.unlock import UnlockKey, matches_verifier
from cluster.store.records import AuthorityRecord, ClusterRecord, ManagerRecord, OperatorRecord
from tests.support.clock import ManualClock
from tests.support.entropy import SeededEntropy
from tests.unit.founded import TRUST_DOMAIN, config_in


@pytest.fixture
def unlock_key(entropy: SeededEntropy) -> UnlockKey:
    return UnlockKey.generate(entropy)


@pytest.fixture
def founder(tmp_path: Path, clock: ManualClock, entropy: SeededEntropy) -> Founder:

    return Founder(config_in(tmp_path), clock, entropy)


def found(founder: Founder, unlock_key: UnlockKey, **changes: object) -> Founding:
    asked = {"trust_domain": TRUST_DOMAIN, "operator": "ada", "csr": make_csr(new_key())} | changes
    return founder.found(unlock_key=unlock_key, node_ttl_s=3_600.0, **asked)  # type: ignore[arg-type]  # one mapping of several types


def test_first_operator_is_an_admin_with_a_certificate_of_the_cluster(
    founder: Founder, unlock_key: UnlockKey
) -> None:
    founding = found(founder, unlock_key)
    (operator,) = (one for one in founding.records if isinstance(one, OperatorRecord))
    (cluster,) = (one for one in founding.records if isinstance(one, ClusterRecord))
    chain = founding.reply["certificate_chain"]
    assert isinstance(chain, list)
    leaf, control = (x509.load_der_x509_certificate(der) for der in chain)
    leaf.verify_directly_issued_by(control)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == [f"spiffe://{TRUST_DOMAIN}/operator/ada"]
    assert operator.serials == (format(leaf.serial_number, "x"),)
    assert (operator.role.value, cluster.node_ttl_s) == ("admin", 3_600.0)
    bundle = TrustBundle.from_dict(founding.reply["bundle"])
    assert bundle.control == (chain[1],)


def test_cluster_record_knows_the_unlock_key_by_its_verifier_alone(
    founder: Founder, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    (cluster,) = (
        one for one in found(founder, unlock_key).records if isinstance(one, ClusterRecord)
    )
    assert matches_verifier(unlock_key, cluster.unlock_verifier)
    assert not matches_verifier(UnlockKey.generate(entropy), cluster.unlock_verifier)


def test_founding_manager_is_the_one_in_the_seal_file(
    founder: Founder, unlock_key: UnlockKey
) -> None:
    founding = found(founder, unlock_key)
    (manager,) = (one for one in founding.records if isinstance(one, ManagerRecord))
    assert manager.id == founding.contents.manager_id
    leaf = x509.load_pem_x509_certificates(founding.contents.tls_certificate_chain)[0]
    assert manager.serials == (format(leaf.serial_number, "x"),)
    assert not founding.contents.pending


def test_nothing_that_is_printed_shows_a_key(founder: Founder, unlock_key: UnlockKey) -> None:
    founding = found(founder, unlock_key)
    shown = repr(founding) + repr(founding.contents) + repr(founding.keyring)
    secrets = [founding.contents.root_key.reveal(), founding.contents.tls_key.reveal()]
    secrets += [one.private_key for one in founding.records if isinstance(one, AuthorityRecord)]
    for secret in secrets:
        assert repr(secret)[2:-1] not in shown


def test_two_foundings_have_nothing_in_common(founder: Founder, unlock_key: UnlockKey) -> None:
    one, other = found(founder, unlock_key), found(founder, unlock_key)
    assert one.contents.root_key != other.contents.root_key
    assert one.reply["cluster_id"] != other.reply["cluster_id"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"trust_domain": "NOT ONE"}, InvalidRequest),
        ({"operator": "a/b"}, InvalidName),
        ({"csr": b""}, InvalidRequest),
    ],
)
def test_founding_on_nonsense_is_refused(
    founder: Founder,
    unlock_key: UnlockKey,
    changes: dict[str, object],
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        found(founder, unlock_key, **changes)


def test_workload_authority_has_an_anchor_of_its_own_and_the_others_none(
    founder: Founder, unlock_key: UnlockKey
) -> None:
    founding = found(founder, unlock_key, service_ttl_s=60.0)
    (cluster,) = (one for one in founding.records if isinstance(one, ClusterRecord))
    assert cluster.service_ttl_s == 60.0
    authorities = [one for one in founding.records if isinstance(one, AuthorityRecord)]
    assert {one.role for one in authorities if one.anchor} == {"workload"}
    (workload,) = (one for one in authorities if one.role == "workload")
    anchor = x509.load_der_x509_certificate(workload.anchor)
    intermediate = x509.load_der_x509_certificate(workload.certificate)
    assert (anchor.subject, anchor.public_key()) == (
        intermediate.subject,
        intermediate.public_key(),
    )
    assert anchor.issuer == anchor.subject != intermediate.issuer


@pytest.mark.parametrize("ttl_s", [0.0, 19.9, 7 * 86_400.0 + 1, float("nan")])
def test_life_of_service_certificates_has_bounds(
    founder: Founder, unlock_key: UnlockKey, ttl_s: float
) -> None:
    with pytest.raises(InvalidRequest):
        found(founder, unlock_key, service_ttl_s=ttl_s)
