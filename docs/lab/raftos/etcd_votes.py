"""A member of etcd and two candidates played here: `votes` for etcd, over its peers' HTTP.

Peers send each other Raft's messages as POST /raft. The member is told of two peers that are
listeners of this process, so that its replies come here. Source: etcd 3.4, raftpb/raft.proto.
"""

import asyncio
import http.client
import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from docs.lab.layout import HOST
from docs.lab.raftos.checks import LIMIT_S, Observed
from docs.lab.raftos.etcd_cluster import Member, command_line, free_ports
from docs.lab.raftos.votes import TERM, observed

_VOTE, _VOTE_REPLY = 5, 6
_FIELDS = {"type": 1, "to": 2, "from": 3, "term": 4, "logTerm": 5, "index": 6, "reject": 10}
_PERIOD_S = 0.1
_REPLY_TIMEOUT_S = 2.0
_UINT64 = descriptor_pb2.FieldDescriptorProto.TYPE_UINT64


def _message_type() -> Any:  # noqa: ANN401  # a class made at run time
    """Return the class of Raft's messages, with the fields that a vote takes."""
    file = descriptor_pb2.FileDescriptorProto(name="raft_vote.proto", package="exhibit")
    message = file.message_type.add(name="Message")
    for name, number in _FIELDS.items():
        optional = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
        message.field.add(name=name, number=number, type=_UINT64, label=optional)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("exhibit.Message"))


Message = _message_type()


class _Peer(BaseHTTPRequestHandler):
    """Takes Raft's messages, and has nothing else to give."""

    replies: ClassVar["asyncio.Queue[Any]"]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def do_POST(self) -> None:
        message = Message.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        if message.type == _VOTE_REPLY:
            with suppress(RuntimeError):  # the exhibit has ended
                self.loop.call_soon_threadsafe(self.replies.put_nowait, message)
        self._answer(204)

    def do_GET(self) -> None:
        self._answer(404)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: etcd asks for streams all the time."""


class _Voter:
    """The member's side that its peers talk to."""

    def __init__(self, port: int, version: str) -> None:
        self._port = port
        self._version = version
        self.cluster_id = ""
        self.ids: dict[str, int] = {}

    async def learn(self) -> None:
        """Learn the ids of the cluster and its members, once the member serves its peers."""
        while True:
            with suppress(OSError, ValueError):
                headers, body = await asyncio.to_thread(self._call, "GET", "/members", b"")
                self.cluster_id = headers["X-Etcd-Cluster-ID"] or ""
                self.ids = {one["name"]: one["id"] for one in json.loads(body)}
                return
            await asyncio.sleep(_PERIOD_S)

    async def has_vote(self, candidate: str) -> bool:
        """Have a candidate ask for a vote in `TERM`; return whether it is granted."""
        asked = Message(type=_VOTE, to=self.ids["n1"], term=TERM, logTerm=TERM - 1, index=1_000)
        setattr(asked, "from", self.ids[candidate])
        while True:
            with suppress(OSError, TimeoutError):
                await asyncio.to_thread(self._call, "POST", "/raft", asked.SerializeToString())
                async with asyncio.timeout(_REPLY_TIMEOUT_S):
                    while (reply := await _Peer.replies.get()).to != self.ids[candidate]:
                        pass
                return reply.term == TERM and not reply.reject
            await asyncio.sleep(_PERIOD_S)

    def _call(self, method: str, path: str, body: bytes) -> tuple[http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=_REPLY_TIMEOUT_S)
        headers = {
            "Content-Type": "application/protobuf",
            "X-Etcd-Cluster-ID": self.cluster_id,
            "X-Server-From": f"{self.ids.get('n2', 0):x}",
            "X-Server-Version": self._version,
            "X-Min-Cluster-Version": "3.0.0",
        }
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.headers, reply.read()
        finally:
            connection.close()


async def etcd_votes(program: Path, version: str, directory: Path) -> Observed:
    """Return to whom a member of etcd gives its vote."""
    _Peer.replies = asyncio.Queue()
    _Peer.loop = asyncio.get_running_loop()
    peers = [ThreadingHTTPServer((HOST, 0), _Peer) for _ in range(2)]
    for peer in peers:
        threading.Thread(target=peer.serve_forever, daemon=True).start()
    (port,) = free_ports(1)
    urls = [f"{HOST}:{port}", *(f"{HOST}:{peer.server_port}" for peer in peers)]
    initial = ",".join(f"n{number}=http://{url}" for number, url in enumerate(urls, 1))
    member = Member("n1", command_line(program, "n1", port, urls[0], initial), directory)
    voter = _Voter(port, version)
    try:
        async with asyncio.timeout(LIMIT_S):
            await member.start()
            await voter.learn()
            before = [await voter.has_vote(one) for one in ("n2", "n3")]
            await member.kill()
            await member.start()
            after = [await voter.has_vote("n3")]
    finally:
        await member.kill()
        for peer in peers:
            await asyncio.to_thread(peer.shutdown)
            peer.server_close()
    return observed(before, after)
