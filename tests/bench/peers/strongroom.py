"""Our side: three managers with etcd, one agent, kernel mounts."""

import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from typing import Final

from tests.bench.commands import enrolled, fill, listed
from tests.bench.deliveries import Operator, deliver
from tests.bench.elections import lose_leader
from tests.bench.load import Asked, Target, generating
from tests.bench.memory import of_managers, own_mb
from tests.bench.peers.sides import Amount, Work
from tests.bench.stage import SECRET, SERVICE, Size, Stage, creation, stage
from tests.support.issuing import IssueCaller
from tests.support.running import Credential, node_id_of


class StrongroomSide:
    """Our side of a comparison."""

    name: Final = "Strongroom"
    notes: Final[Mapping[Work, str]] = {
        Work.CREATE_ALONE: "audit entry in the same transaction",
        Work.CREATE_TOGETHER: "audit entry in the same transaction",
        Work.ISSUE: "by certificate; receipt and a barrier of the quorum first",
        Work.ROTATE: "push; no restart; file 0440; receipt committed first",
    }

    def __init__(self, own: Stage) -> None:
        self._stage = own
        self._number = itertools.count()
        fill(own, 1_000)
        self._shell = enrolled(own)

    def sample(self, work: Work, amount: Amount) -> float | None:
        """See `Side.sample`."""
        leader = self._stage.cluster.leader().api
        match work:
            case Work.CREATE_ALONE:
                target = Target.with_credential([leader], self._stage.operator)
                return self._rate(target, self._creation(), 1, max(amount.creates // 10, 30))
            case Work.CREATE_TOGETHER:
                return self._rate(self._stage.target(), self._creation(), 64, amount.creates)
            case Work.ISSUE:
                return self._issue(leader, amount.issues)
            case Work.ROTATE:
                operator = Operator(self._stage, leader)
                found = deliver(operator, self._stage.in_file)
                operator.close()
                return found.readable / 1_000
            case Work.LOSE_LEADER:
                return lose_leader(self._stage.cluster, next(self._number))
            case Work.LIST:
                started = time.perf_counter()
                listed(self._shell)
                return (time.perf_counter() - started) * 1_000

    def memory(self) -> Mapping[str, float]:
        """See `Side.memory`."""
        managers, engines = of_managers([one.pid for one in self._stage.cluster.managers])
        both = [manager + engine for manager, engine in zip(managers, engines, strict=True)]
        return {"server": max(both), "file writer": own_mb(self._stage.agent.pid)}

    def _creation(self) -> Asked:
        return creation(f"peer-{next(self._number)}")

    def _rate(self, target: Target, asked: Asked, callers: int, count: int) -> float:
        with generating(target, asked, callers, processes=min(callers, 2)) as generator:
            return generator.round(count).rate

    def _issue(self, endpoint: str, count: int) -> float:
        node = Credential.of_node(self._stage.agent.data_dir)
        body = json.dumps(IssueCaller(node_id_of(node)).body(SERVICE, SECRET)).encode()
        target = Target.with_credential([endpoint], node)
        return self._rate(target, Asked("POST", "/v1/issue", body), 32, count)


@contextlib.contextmanager
def strongroom(size: Size) -> Iterator[StrongroomSide]:
    """Run our side."""
    with stage(size) as own:
        yield StrongroomSide(own)
