"""Creating and issuing: rates with callers of their own processes, beside the raw engine."""

import asyncio
import itertools
import json
import os
import time
from pathlib import Path
from typing import Final

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_channel import STATUS, TXN, EtcdChannel, Method
from tests.bench import targets
from tests.bench.load import Asked, Generator, Measured, Target, busyness, generating
from tests.bench.rows import Row, percentile
from tests.bench.stage import SECRET, SERVICE, VALUE_BYTES, Stage, creation
from tests.support.issuing import IssueCaller
from tests.support.running import Credential, ManagerProcess, node_id_of

PUT: Final = Method("KV/Put", pb.PutRequest, pb.PutResponse)
OUTSIDE: Final = b"z"
"""A keyspace that no manager looks at."""
RAW_MERGED: Final = "raw engine put of 1 KB, 64 callers, 32 a transaction"
MERGED: Final = 32
"""Puts of one transaction, where callers share one."""


def requests(stage: Stage) -> list[Row]:
    """Measure creating and issuing."""
    return [*alone(stage), *together(stage), issued(stage)]


# --- creates ------------------------------------------------------------------------------------


def alone(stage: Stage) -> list[Row]:
    """Measure one caller, round by round beside one raw put after the other at the same member."""
    manager = stage.cluster.leader()
    target = Target.with_credential([manager.api], stage.operator)
    count = max(stage.size.creates // 10, 50)
    created: list[Measured] = []
    put: list[float] = []
    with generating(target, creation("alone"), 1) as generator:
        for _ in range(stage.size.rounds):
            put.append(raw_puts(manager, count, 1))
            created.append(generator.round(count))
    rates = [one.rate for one in created]
    ratios = [rate / raw for rate, raw in zip(rates, put, strict=True)]
    return [
        Row.of("create, 1 caller", "1/s", rates, note=busyness(created)),
        Row.of("raw engine put of 1 KB, 1 caller", "1/s", put),
        Row.of(targets.CREATE_OVER_PUT, "ratio", ratios),
    ]


def together(stage: Stage) -> list[Row]:
    """Measure 64 callers, spread over the managers."""
    before = term_of(stage.cluster.managers[0])
    with generating(stage.target(), creation("together"), 64, processes=2) as generator:
        done, put, merged, cost = _rounds(stage, generator)
    elections = term_of(stage.cluster.managers[0]) - before
    note = f"{cost}; {busyness(done)}"
    p99 = [percentile(one.latencies_ms, 0.99) for one in done]
    return [
        Row.of(targets.CREATE_MANY, "1/s", [one.rate for one in done], note=note),
        Row.of(targets.CREATE_MANY_P99, "ms", p99),
        Row.of("raw engine put of 1 KB, 64 callers", "1/s", put, note="one put a transaction"),
        Row.of(RAW_MERGED, "1/s", merged, note=f"{64 // MERGED} transactions under way"),
        Row.of("elections under that load", "count", [elections], note="nobody died"),
    ]


def _rounds(
    stage: Stage, generator: Generator
) -> tuple[list[Measured], list[float], list[float], str]:
    leader = stage.cluster.leader()
    generator.round(200)  # the first requests of a connection are slower
    done: list[Measured] = []
    put: list[float] = []
    merged: list[float] = []
    used_s = 0.0
    for _ in range(stage.size.rounds):
        before = stage.used_s()
        done.append(generator.round(stage.size.creates))
        used_s += stage.used_s() - before
        put.append(raw_puts(leader, stage.size.creates, 64))
        merged.append(raw_puts(leader, stage.size.creates, 64, MERGED))
    return done, put, merged, each(used_s, stage.size.creates * len(done))


# --- the raw engine -----------------------------------------------------------------------------


def engine_socket(manager: ManagerProcess) -> Path:
    """Return the socket of a manager's etcd member."""
    return manager.base / "run" / "engine" / f"{manager.name}.sock:0"


def raw_puts(manager: ManagerProcess, count: int, callers: int, together: int = 1) -> float:
    """Return puts of 1 KB a second through a manager's own member, without anything of ours:
    `together` in each transaction."""
    return asyncio.run(_raw_puts(engine_socket(manager), count, callers, together))


async def _raw_puts(socket: Path, count: int, callers: int, together: int) -> float:
    channel = EtcdChannel(socket)
    run = os.urandom(8)
    numbers = iter(range(count))

    def of(number: int) -> pb.PutRequest:
        return pb.PutRequest(key=OUTSIDE + run + number.to_bytes(4), value=os.urandom(VALUE_BYTES))

    async def work() -> None:
        while puts := [of(number) for number in itertools.islice(numbers, together)]:
            if together == 1:
                await channel.ask(PUT, puts[0])
            else:
                operations = [pb.RequestOp(request_put=one) for one in puts]
                await channel.ask(TXN, pb.TxnRequest(success=operations))

    await channel.ask(PUT, pb.PutRequest(key=OUTSIDE, value=b""))  # connects
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers // together):
            group.create_task(work())
    took_s = time.perf_counter() - started
    await channel.close()
    return count / took_s


def term_of(manager: ManagerProcess) -> int:
    """Return the engine's term: how often a leader was elected."""

    async def ask() -> int:
        channel = EtcdChannel(engine_socket(manager))
        status = await channel.ask(STATUS, pb.StatusRequest())
        await channel.close()
        return status.header.raft_term

    return asyncio.run(ask())


# --- issues -------------------------------------------------------------------------------------


def issued(stage: Stage) -> Row:
    """Measure issuing 1 KB to a node by its certificate. The quorum holds the version's receipt
    before the first answer; a barrier of the quorum precedes every one."""
    node = Credential.of_node(stage.agent.data_dir)
    body = json.dumps(IssueCaller(node_id_of(node)).body(SERVICE, SECRET)).encode()
    target = Target.with_credential([stage.cluster.leader().api], node)
    with generating(target, Asked("POST", "/v1/issue", body), 32) as generator:
        generator.round(200)
        before = stage.used_s()
        done = [generator.round(stage.size.issues) for _ in range(stage.size.rounds)]
        cost = each(stage.used_s() - before, stage.size.issues * len(done))
    rates = [one.rate for one in done]
    return Row.of(targets.ISSUE, "1/s", rates, note=f"{cost}; {busyness(done)}")


def each(used_s: float, count: int) -> str:
    """Return what a request cost the managers and engines together, as text."""
    return f"{used_s / count * 1_000:.2f} ms of processor time each"
