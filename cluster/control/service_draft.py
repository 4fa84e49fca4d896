"""What an operator writes to describe a service, and how it becomes a spec.

Pure. Everything a node will act on is checked here first: targets, modes, owners, commands. Nodes
check again. Source: DESIGN 6.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from cluster.control.commands import check_command
from cluster.control.constraints import check_constraints
from cluster.control.labels import check_labels
from cluster.control.reference_lease import checked_lease
from cluster.control.spread import check_preferences
from cluster.control.update_draft import HealthDraft, UpdateDraft, health_of, update_of
from cluster.protocol.errors import InvalidName, InvalidReference, InvalidRequest
from cluster.protocol.ids import SecretId, VersionNumber, check_name, check_target
from cluster.protocol.wire import CERTIFICATE_TARGETS
from cluster.store.records import (
    LeaseLoss,
    OnChange,
    SecretReference,
    ServiceSpec,
    VersionedRecord,
    VersionState,
)

MAX_REFERENCES: Final = 64
MAX_REPLICAS: Final = 10_000
MAX_ID: Final = 2**31 - 1
MAX_TIMEOUT_S: Final = 300.0
SIGNALS: Final = frozenset({"HUP", "USR1", "USR2", "INT", "QUIT", "TERM", "WINCH"})

_OCTAL = re.compile(r"0?[0-7]{3}")
_OTHERS_WRITE: Final = 0o002
_MAX_MODE: Final = 0o777
_ISSUED: Final = frozenset({VersionState.PRIMARY, VersionState.ACTIVE})


class ReferenceDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One secret or config that a service asks for."""

    source: str
    target: str = ""
    """Empty: its name."""
    uid: int | None = None
    gid: int | None = None
    mode: int | str = "0440"
    """A number as it is (288), or octal text ("0440")."""
    version: int | str = "primary"
    """"primary", which follows rotations, or a version's number."""
    on_lease_loss: LeaseLoss = LeaseLoss.KEEP
    lease_s: float | None = None
    """How long a file that is wiped may outlive the last lease; null: the node's lease."""
    previous: bool = False
    """Whether `TARGET.previous` holds the version before, while it is still active."""
    config: bool = False
    """Whether `source` is a config's name."""


class OnChangeDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do in the service after a file was swapped: one of signal and command."""

    signal: str = ""
    command: tuple[str, ...] = ()
    timeout_s: float = 10.0


class ServiceDraft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A service as it is asked for."""

    name: str
    references: tuple[ReferenceDraft, ...] = ()
    constraints: tuple[str, ...] = ()
    placement_prefs: tuple[str, ...] = ()
    replicas: int = 1
    is_global: bool = msgspec.field(default=False, name="global")
    """One task on every node that fits; `replicas` then stands for nothing."""
    uid: int = 65534
    gid: int = 65534
    labels: dict[str, str] = {}
    on_change: OnChangeDraft | None = None
    update: UpdateDraft = UpdateDraft()
    health: HealthDraft | None = None
    certificate: bool = False
    """Whether `tls.crt`, `tls.key` and `ca.crt` are among the service's files."""
    logs: bool = False
    """Whether `service logs` shows what it prints under `exec`."""


FindSource = Callable[[ReferenceDraft], VersionedRecord | None]
"""Returns the secret or config that a reference names, or None where there is none or the caller
may not use it."""


def spec_of(draft: ServiceDraft, find_source: FindSource) -> ServiceSpec:
    """Return the spec a draft means. Raises InvalidReference and InvalidRequest."""
    if len(draft.references) > MAX_REFERENCES:
        raise InvalidReference(
            f"a service takes at most {MAX_REFERENCES} references to secrets and configs"
        )
    if not 0 <= draft.replicas <= MAX_REPLICAS:
        raise InvalidRequest(f"replicas range from 0 to {MAX_REPLICAS}")
    if not 1 <= draft.uid <= MAX_ID or not 0 <= draft.gid <= MAX_ID:
        raise InvalidRequest("a service takes a uid from 1 and a gid from 0; it never runs as root")
    references = tuple(_reference(reference, find_source) for reference in draft.references)
    _check_targets(references, reserved=CERTIFICATE_TARGETS if draft.certificate else ())
    return ServiceSpec(
        references=references,
        constraints=check_constraints(draft.constraints),
        placement_prefs=check_preferences(draft.placement_prefs),
        replicas=None if draft.is_global else draft.replicas,
        uid=draft.uid,
        gid=draft.gid,
        labels=check_labels(draft.labels),
        on_change=_on_change(draft.on_change),
        update=update_of(draft.update),
        health=health_of(draft.health),
        certificate=draft.certificate,
        logs=draft.logs,
    )


def check_usable(reference: SecretReference, secret: VersionedRecord | None) -> VersionedRecord:
    """Return what a reference means, or raise InvalidReference saying what is missing."""
    if secret is None or secret.id != reference.secret_id:
        kind = "config" if reference.config else "secret"
        raise InvalidReference(
            f"there is no {kind} {reference.source!r} you may use; see `strongroom {kind} ls`"
        )
    if reference.version is not None and not any(
        version.number == reference.version and version.state in _ISSUED
        for version in secret.versions
    ):
        raise InvalidReference(
            f"secret {reference.source!r} has no version {reference.version} that can be issued; "
            f"see `strongroom secret inspect {reference.source}`"
        )
    return secret


def _reference(draft: ReferenceDraft, find_source: FindSource) -> SecretReference:
    check_name(draft.source)
    if draft.config and (draft.previous or draft.version != "primary"):
        raise InvalidReference(
            f"config {draft.source!r} has one version; `version` and `previous` go with secrets"
        )
    secret = find_source(draft)
    for owner in (draft.uid, draft.gid):
        if owner is not None and not 0 <= owner <= MAX_ID:
            raise InvalidReference(f"uid and gid range from 0 to {MAX_ID}")
    reference = SecretReference(
        secret_id=SecretId(secret.id if secret is not None else ""),
        source=draft.source,
        target=_target(draft.target or draft.source),
        uid=draft.uid,
        gid=draft.gid,
        mode=_mode(draft.mode),
        version=_version(draft.version),
        on_lease_loss=draft.on_lease_loss,
        lease_s=checked_lease(draft.source, draft.on_lease_loss, draft.lease_s),
        previous=draft.previous,
        config=draft.config,
    )
    if reference.previous:
        _check_previous(reference)
    check_usable(reference, secret)
    return reference


def _check_previous(reference: SecretReference) -> None:
    if reference.version is not None:
        raise InvalidReference(
            f"the reference to {reference.source!r} pins a version, which has none before it; "
            "`previous` goes with the primary"
        )
    _target(reference.targets[-1])


def _target(text: str) -> str:
    if "{{" in text:
        raise InvalidReference("targets are not templates; name the file as it is to be called")
    try:
        return check_target(text)
    except InvalidName as error:
        raise InvalidReference(error.message) from None


def _mode(mode: int | str) -> int:
    """Return a file's mode; one that lets others write, or sets more than 0777, is refused."""
    if isinstance(mode, str):
        if _OCTAL.fullmatch(mode) is None:
            raise InvalidReference("a mode reads like 0440: three octal digits after a zero")
        mode = int(mode, 8)
    if not 0 <= mode <= _MAX_MODE or mode & _OTHERS_WRITE:
        raise InvalidReference("a mode is at most 0777 and never lets others write; use 0440")
    return mode


def _version(version: int | str) -> VersionNumber | None:
    if version == "primary":
        return None
    if isinstance(version, str) and version.isascii() and version.isdigit() and len(version) < 10:  # noqa: PLR2004  # fits 32 bits
        version = int(version)
    if not isinstance(version, int) or version < 1:
        raise InvalidReference("a version is `primary` or a number from 1")
    return VersionNumber(version)


def _check_targets(references: tuple[SecretReference, ...], *, reserved: Sequence[str]) -> None:
    seen: set[str] = set()
    for target in (target for reference in references for target in reference.targets):
        if target in reserved:
            raise InvalidReference(f"the target {target!r} is the certificate's; choose another")
        if target in seen:
            raise InvalidReference(f"two references share the target {target!r}; give each its own")
        seen.add(target)


def _on_change(draft: OnChangeDraft | None) -> OnChange | None:
    if draft is None:
        return None
    if bool(draft.signal) is bool(draft.command):
        raise InvalidRequest("on_change takes a signal or a command, and not both")
    if not 0 < draft.timeout_s <= MAX_TIMEOUT_S:
        raise InvalidRequest(f"the timeout of on_change is at most {MAX_TIMEOUT_S:.0f} seconds")
    if draft.signal:
        return OnChange(signal=_signal(draft.signal), timeout_s=draft.timeout_s)
    return OnChange(command=check_command(draft.command, "on_change"), timeout_s=draft.timeout_s)


def _signal(text: str) -> str:
    signal = text.upper().removeprefix("SIG")
    if signal not in SIGNALS:
        raise InvalidRequest(f"the signal of on_change is one of {', '.join(sorted(SIGNALS))}")
    return signal
