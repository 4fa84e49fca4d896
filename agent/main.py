"""The agent: joins its parts and runs the loop.

One event at a time: whatever a message, a tick or a lost connection leads to is carried out to
its end before the next event is looked at, and a tick comes first, so that a stopped agent wipes
before it serves. Decisions are `agent.session`'s and `agent.assignments`'. When the loop ends,
mounts stay: an agent's death never takes a service's files. Source: DESIGN 6.
"""

import asyncio
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

import structlog

from agent import durable, effects
from agent.certificate_desk import CertificateDesk
from agent.client import Closed, Connected, Event, Links, Received
from agent.config import AgentConfig
from agent.counted import Counted, Standing
from agent.health_checks import HealthChecks
from agent.identity import DataDirectory
from agent.lease_file import LeaseFile
from agent.mount_table import MountTable
from agent.mounts import MountKind
from agent.on_change import OnChange
from agent.service_command import ServiceCommands
from agent.service_desk import ServiceDesk
from agent.service_logs import ServiceLogs
from agent.session import Session
from agent.session_state import HelloFacts
from agent.watching import Watching, standing_of
from agent.workload_socket import ControlServer, ServiceDescription, WorkloadServer
from cluster.pki.node_envelope import NodeKeys
from cluster.pki.renewal import renew_at
from cluster.pki.trust_bundle import TrustBundle
from cluster.protocol.errors import ClusterError
from cluster.protocol.wire import (
    Certificate,
    FileSpec,
    ServiceCertificate,
    ServiceCertificateRefused,
)
from cluster.system import Clock, Entropy

if TYPE_CHECKING:
    from cluster.protocol.checks import Check

log = structlog.get_logger(__name__)

TICK_S: Final = 0.5
_RENEWAL_PAUSE: Final = timedelta(seconds=10)
"""The least time between renewals: with a wrong clock every certificate looks old."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Agent:
    """One node's agent. `run` is the whole of its life."""

    def __init__(
        self, config: AgentConfig, clock: Clock, entropy: Entropy, checks: "tuple[Check, ...]" = ()
    ) -> None:
        """`checks`: what hardening the process reached, to be shown in `status`."""
        self._config = config
        self._clock = clock
        self._entropy = entropy
        self._checks = checks
        self._data = DataDirectory(config.data_dir)
        self._table = MountTable(config)
        self._boot_id = _BOOT_ID.read_text().strip()
        self._lease_file = LeaseFile(config.run_dir / "lease.json", self._boot_id)
        self._counted = Counted()
        self._last_error = ""
        self._sockets: dict[str, tuple[int, int]] = {}
        """Which services have a workload socket, and whose it is."""
        self._serves = False

    def state(self) -> str:
        """Return how it stands, in a line for its supervisor; empty before it serves."""
        if not self._serves or self._session.is_synced:
            return "in session with a manager" if self._serves else ""
        return self._last_error or "looking for a manager; what is mounted stays"

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then leave the mounts in place.

        Raises NotFound before a join, AlreadyExists if another agent uses the data directory,
        MountRefused if nothing can be mounted here.
        """
        self._data.prepare()
        self._config.run_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        with durable.locked(self._data.path):
            identity = self._data.fetch_identity()
            # Of this process alone: what was sealed to it cannot be opened once it is gone.
            self._envelope_keys = NodeKeys.generate(identity.id.subject)
            self._table.adopt()
            self._session = self._new_session()
            self._renew_at = self._plan_renewal(*identity.validity)
            try:
                async with asyncio.TaskGroup() as group:
                    self._links = Links(
                        identity,
                        self._data,
                        self._config.managers,
                        self._clock,
                        self._entropy,
                        group,
                    )
                    commands = ServiceCommands(self._config.run_dir)
                    self._on_change = OnChange(commands, group)
                    self._health = HealthChecks(
                        commands if self._config.mounts is MountKind.KERNEL else None,
                        self._table.path_of,
                        self._clock,
                        group,
                    )
                    self._logs = ServiceLogs(
                        self._config.run_dir, self._table, self._clock, group, self._links.send
                    )
                    self._certificates = CertificateDesk(
                        identity.id.trust_domain,
                        self._table,
                        lambda: self._entropy.uniform(0.0, 1.0),
                    )
                    await self._serve(stop)
            finally:
                self._table.close()

    # --- the loop -------------------------------------------------------------------------------

    async def _serve(self, stop: asyncio.Event) -> None:
        desk = ServiceDesk(self._config, self._table, self._may_serve)
        self._workloads = WorkloadServer(self._config.run_dir, desk)
        control = ControlServer(
            self._config.run_dir, lambda name: self._describe(desk, name), self._status
        )
        # First of all: what the lease no longer covers goes before anybody is answered.
        await self._carry_out(self._session.on_tick(self._clock.boottime_s()))
        watching = Watching(self._config.metrics_listen, self._counted, self._standing)
        try:
            await control.start()
            await watching.start()
            await self._open_sockets()
            suites = [key.suite for key in self._envelope_keys.public_keys()]
            log.info("agent.started", node_id=self._links.identity.id.subject, envelope=suites)
            self._links.open()
            self._serves = True
            while not stop.is_set():
                await self._turn()
        finally:
            for part in (self._on_change, self._health, self._logs):
                part.cancel()
            await self._links.close_all()
            await self._workloads.close_all()
            await control.close()
            await watching.close()
        log.info("agent.stopped")

    async def _turn(self) -> None:
        """Wait for the next event, or a tick, and carry out all that follows from it."""
        await self._follow(await self._links.next_event(TICK_S))

    async def _follow(self, event: Event | None) -> None:
        now_s = self._clock.boottime_s()
        await self._carry_out(self._session.on_tick(now_s))
        if event is not None:
            await self._carry_out(self._take_in(event, now_s))
        self._table.sweep(self._clock.monotonic_s())
        self._links.end_expired()
        if self._clock.now() >= self._renew_at and self._session.is_synced:
            await self._renew(now_s)
        self._health.begin_due()
        if (link := self._session.synced_link) is not None:
            for report in self._health.reports(link):
                await self._links.send(link, report)
            for request in self._certificates.due(now_s):
                await self._links.send(link, request)

    def _take_in(self, event: Event, now_s: float) -> list[effects.Effect]:
        match event:
            case Connected(link):
                self._counted.connected += 1
                return self._session.on_connected(link, now_s)
            case Received(link, message):
                return self._session.on_message(link, message, now_s)
            case Closed(link):
                return self._session.on_closed(link, now_s)
            case _:
                assert_never(event)

    async def _renew(self, now_s: float) -> None:
        if self._session.is_renewing:
            return
        request = self._data.pending_request()
        await self._carry_out(self._session.on_renewal_due(request.csr, now_s))

    # --- effects --------------------------------------------------------------------------------

    async def _carry_out(self, todo: list[effects.Effect]) -> None:
        for effect in todo:
            await self._carry_out_one(effect)

    async def _carry_out_one(self, effect: effects.Effect) -> None:  # noqa: C901, PLR0912  # one case each
        match effect:
            case effects.Send(link, message):
                await self._links.send(link, message)
            case effects.Apply():
                await self._apply(effect)
            case effects.ReadLogs(link, request):
                self._logs.answer(link, request)
            case effects.WipeLapsed(services):
                log.warning("lease.lapsed", services=[service.name for service in services])
                self._counted.lapsed += 1
                self._table.wipe_lapsed(services)
                self._follow_health(without={service.service_id for service in services})
            case effects.WipeAll(reason):
                log.warning("agent.wipes_all", reason=reason)
                self._certificates.follow((), self._clock.boottime_s())
                self._table.wipe_all()
                self._follow_health()
                await self._open_sockets()
            case effects.SaveHighest(revision):
                self._data.save_highest(revision)
            case effects.SaveLease(granted):
                self._lease_file.save(granted)
            case effects.StoreManagers(managers, join_addresses):
                self._store_managers(managers, join_addresses)
            case effects.StoreCertificate(certificate):
                self._store_certificate(certificate)
            case effects.TakeServiceCertificate(message):
                await self._take_service_certificate(message)
            case effects.OpenSuccessor():
                self._links.open()
            case effects.Close(link, reason):
                log.info("link.closing", link=link, reason=reason)
                await self._links.close(link)
            case effects.Reconnect(delay_s, reason):
                self._counted.lost += 1
                log.info("session.lost", reason=reason, retry_in_s=round(delay_s, 2))
                self._links.open(delay_s)
            case effects.Report(error):
                self._report(error)
            case _:
                assert_never(effect)

    async def _apply(self, work: effects.Apply) -> None:
        self._certificates.follow(work.services, self._clock.boottime_s())
        began_s = self._clock.monotonic_s()
        outcome = self._table.apply(work.services, work.values, self._envelope_keys)
        took_s = self._clock.monotonic_s() - began_s
        self._counted.applied(took_s, self._clock.boottime_s())
        await self._open_sockets()
        log.info(
            "assignments.applied",
            revision=work.revision.number,
            services=len(outcome.results),
            failed=[r.service_id for r in outcome.results if r.error],
            request_ids=work.request_ids,
        )
        self._follow_health()
        for service in outcome.changed:
            self._on_change.notify(service, self._table.path_of(service.service_id))
        now_s = self._clock.boottime_s()
        await self._carry_out(
            self._session.on_applied(
                work.revision, outcome.results, outcome.dropped, now_s, outcome.unopened
            )
        )

    async def _take_service_certificate(
        self, message: ServiceCertificate | ServiceCertificateRefused
    ) -> None:
        now_s = self._clock.boottime_s()
        renewed = self._certificates.take(message, now_s)
        if renewed is None:
            await self._carry_out(self._session.on_certificates(now_s))
        else:
            self._on_change.notify(renewed, self._table.path_of(renewed.service_id))

    def _follow_health(self, without: Collection[str] = ()) -> None:
        """Check what is in place, and nothing whose files were wiped."""
        mounted = self._table.mounted
        self._health.follow(mounted[i] for i in mounted.keys() - without)

    async def _open_sockets(self) -> None:
        """Have a workload socket for each mounted service, with its present owner, and no other."""
        if self._config.mounts is MountKind.GIVEN and self._config.socket_root is None:
            return
        wanted = {s.name: (s.uid, s.gid) for s in self._table.mounted.values()}
        for name in [n for n, owner in self._sockets.items() if wanted.get(n) != owner]:
            await self._workloads.close(name)
            del self._sockets[name]
        for name, (uid, gid) in wanted.items():
            if name not in self._sockets:
                await self._open_socket(name, uid, gid)

    async def _open_socket(self, name: str, uid: int, gid: int) -> None:
        try:
            if self._config.socket_root is None:
                await self._workloads.open(name, uid, gid)
            else:
                # The directory is a volume that only this service's containers have.
                directory = self._config.socket_root / name
                path = directory / "workload.sock"
                group = directory.stat().st_gid
                await self._workloads.open_at(path, name, os.geteuid(), group, None)
        except (ClusterError, OSError) as error:
            log.warning("workload.no_socket", service=name, reason=str(error))
            return
        self._sockets[name] = (uid, gid)

    def _store_managers(self, managers: tuple[str, ...], join_addresses: tuple[str, ...]) -> None:
        identity = self._links.identity
        known = (identity.managers, identity.join_addresses)
        if managers and join_addresses and known != (managers, join_addresses):
            identity = replace(identity, managers=managers, join_addresses=join_addresses)
            self._data.save_identity(identity)
            self._links.identity = identity

    def _store_certificate(self, certificate: Certificate) -> None:
        bundle = TrustBundle(
            roots=certificate.roots, control=certificate.control, workload=certificate.workload
        )
        try:
            identity = self._links.identity.with_certificate(
                self._data.pending_request().key, certificate.chain, bundle
            )
        except ClusterError as error:
            self._renew_at = self._clock.now() + _RENEWAL_PAUSE
            self._report(error)
            return
        self._data.save_identity(identity)
        self._data.settle_request()
        self._links.identity = identity
        self._renew_at = self._plan_renewal(*identity.validity)
        log.info("identity.renewed", not_after=identity.validity[1].isoformat())

    # --- what is known --------------------------------------------------------------------------

    def _new_session(self) -> Session:
        facts = HelloFacts(
            agent_version=version("strongroom"),
            boot_id=self._boot_id,
            mounts=self._config.mounts.value,
            strength=self._table.probe().value,
            envelope_keys=self._envelope_keys.public_keys(),
        )
        return Session(
            facts,
            self._data.load_highest(),
            self._table.mounted.values(),
            self._lease_file.load(),
            lambda: self._entropy.uniform(0.0, 1.0),
        )

    def _plan_renewal(self, not_before: datetime, not_after: datetime) -> datetime:
        planned = renew_at(not_before, not_after, self._entropy.uniform(0.0, 1.0))
        return max(planned, self._clock.now() + _RENEWAL_PAUSE)

    def _may_serve(self, file: FileSpec) -> bool:
        return self._session.may_serve(file, self._clock.boottime_s())

    def _describe(self, desk: ServiceDesk, name: str) -> ServiceDescription | None:
        if name not in self._sockets:
            return None
        return desk.describe(name, str(self._workloads.socket_path(name)))

    def _status(self) -> Mapping[str, object]:
        identity, highest = self._links.identity, self._session.highest
        return {
            "node_id": identity.id.subject,
            "name": identity.name,
            "trust_domain": identity.id.trust_domain,
            "synced": self._session.is_synced,
            "manager": self._session.manager_id,
            "revision": highest.number if highest is not None else None,
            "certificate_not_after": identity.validity[1].isoformat(),
            "mounts": self._config.mounts.value,
            "strength": self._table.probe().value,
            "checks": {check.name: check.strength.value for check in self._checks},
            "services": sorted(s.name for s in self._table.mounted.values()),
            "certificate_faults": sorted(self._table.certificate_faults.values()),
            "last_error": self._last_error,
        }

    def _standing(self) -> Standing:
        certificate_left = self._links.identity.validity[1] - self._clock.now()
        return standing_of(
            self._session, self._table.mounted, self._counted, self._clock.boottime_s(),
            certificate_left_s=certificate_left.total_seconds(),
            certificate_faults=len(self._table.certificate_faults),
        )  # fmt: skip

    def _report(self, error: ClusterError) -> None:
        self._last_error = f"{error.code}: {error.message}"
        log.error("agent.error", code=error.code, message=error.message)
