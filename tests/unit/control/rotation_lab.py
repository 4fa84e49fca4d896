"""A control layer with a secret that rotates by itself, and the duty that carries it out."""

from collections.abc import Callable

from cluster.control.policy import Principal, Role
from cluster.control.rotation_duty import RotationDuty
from cluster.control.scheduled import RotationDraft, Scheduled, ScheduleDraft
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import NodeId, SecretId, VersionNumber
from cluster.store.records import RotationRecord, SecretRecord, VersionState
from cluster.store.steps import Write
from tests.support.hooks import CredentialIssuer
from tests.unit.control.lab import MANAGER, TRUST_DOMAIN, ControlLab

EVERY_S = 86_400.0
MOVES = 12


class RotationLab:
    """Secret `db` on node `n1`, used by service `web`, changed at a third party by its hook."""

    def __init__(self, control: ControlLab) -> None:
        self.control = control
        self.party = CredentialIssuer()
        self.scheduled = Scheduled(control.requests, control.entropy, self.party)
        self.node_id = NodeId("")

    async def initialise(self, *, hook: str = "party", every_s: float = EVERY_S) -> None:
        """Make the secret, its service and its schedule."""
        control = self.control
        self.node_id = await control.join("n1")
        await control.secret("db", b"first")
        self.party.accepted.add(b"first")
        await control.service("web", "db")
        await control.settle(control.duty())
        await self.apply()
        draft = ScheduleDraft(every_s=every_s, generator="password", hook=hook)
        await self.scheduled.set_schedule(control.context(), "db", draft)

    def duty(self, guarded: Callable[[Write], Write] | None = None) -> RotationDuty:
        """Return the duty, as a manager takes it up."""
        identity = SpiffeId(TRUST_DOMAIN, Kind.MANAGER, MANAGER)
        return RotationDuty(
            self.control.store,
            self.control.clock,
            self.control.entropy,
            Principal(identity, str(identity), Role.MANAGER),
            guarded or (lambda write: write),
            self.party,
        )

    async def start(self, **draft: object) -> str:
        """Ask for a rotation and return its operation id."""
        asked = RotationDraft(**draft) if draft else None  # type: ignore[arg-type]  # by field
        answer = await self.scheduled.start(self.control.context(), "db", asked)
        return str(answer.body["operation"])

    async def apply(self) -> None:
        """Let the agent write what it should hold, and the other duties look."""
        await self.control.mounted("web", self.node_id, {"db": self.secret.primary.number})
        await self.control.settle(self.control.duty())

    async def carry_out(self, moves: int = MOVES, step_s: float = 0.0) -> None:
        """Let everybody go on: the duty, the agent, and time by `step_s` at each move."""
        duty = self.duty()
        for _ in range(moves):
            await duty.round()
            await self.apply()
            if step_s:
                self.control.clock.advance(step_s)

    @property
    def secret(self) -> SecretRecord:
        """The secret as it stands."""
        stored = self.control.view.secret_by_name("db")
        assert stored is not None
        return stored.record

    @property
    def rotation(self) -> RotationRecord:
        """The newest rotation."""
        found = [stored.record for stored in self.control.view.rotations.values()]
        return max(found, key=lambda record: (record.started_at, record.finished_at is None))

    def value(self, number: int | None = None) -> bytes | None:
        """Return the value of a version, or of the primary."""
        secret_id = SecretId(self.secret.id)
        version = VersionNumber(number or self.secret.primary.number)
        if self.control.view.secret_values.version(secret_id, version) is None:
            return None
        return self.control.store.open_value(secret_id, version).reveal()

    def state(self, number: int) -> VersionState | None:
        """Return the state of a version, or None where there is none of that number."""
        return next((v.state for v in self.secret.versions if v.number == number), None)
