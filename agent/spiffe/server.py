"""The SPIFFE Workload API over gRPC: X.509 SVIDs and bundles of one service, streamed.

Owns the calls and the socket. Who may connect is decided by the socket: it belongs to the service's
uid with mode 0600, in a directory that only the service's group passes, and no two services of a
node share a uid. The JWT methods are not there, which gRPC answers with UNIMPLEMENTED. Source: the
SPIFFE Workload API standard.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import structlog

from agent.spiffe import spiffe_workload_pb2 as pb
from agent.spiffe.svid import Svid, SvidFeed
from cluster.protocol.errors import AlreadyExists, Unavailable

log = structlog.get_logger(__name__)

SERVICE: Final = "SpiffeWorkloadAPI"
HEADER: Final = ("workload.spiffe.io", "true")
"""Demanded by the standard: a browser or a proxy that is led here does not send it."""
CONCURRENT_CALLS: Final = 64
GRACE_S: Final = 1.0
_OPTIONS: Final = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 4096))

Context = grpc.aio.ServicerContext[object, object]


class WorkloadApi:
    """Answers from one feed."""

    def __init__(self, feed: SvidFeed) -> None:
        self._feed = feed

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the calls, under the standard's path."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "FetchX509SVID": grpc.unary_stream_rpc_method_handler(
                    self._fetch_svids,
                    request_deserializer=pb.X509SVIDRequest.FromString,
                    response_serializer=pb.X509SVIDResponse.SerializeToString,
                ),
                "FetchX509Bundles": grpc.unary_stream_rpc_method_handler(
                    self._fetch_bundles,
                    request_deserializer=pb.X509BundlesRequest.FromString,
                    response_serializer=pb.X509BundlesResponse.SerializeToString,
                ),
            },
        )

    async def _fetch_svids(
        self, _request: pb.X509SVIDRequest, context: Context
    ) -> AsyncIterator[pb.X509SVIDResponse]:
        async for svid in self._each(context):
            one = pb.X509SVID(
                spiffe_id=str(svid.identity),
                x509_svid=svid.chain,
                x509_svid_key=svid.key,
                bundle=svid.anchors,
            )
            yield pb.X509SVIDResponse(svids=[one])

    async def _fetch_bundles(
        self, _request: pb.X509BundlesRequest, context: Context
    ) -> AsyncIterator[pb.X509BundlesResponse]:
        async for svid in self._each(context):
            yield pb.X509BundlesResponse(bundles={svid.trust_domain_id: svid.anchors})

    async def _each(self, context: Context) -> AsyncIterator[Svid]:
        """Yield the present SVID and each that follows; end the call once there is none."""
        if HEADER not in {(key, value) for key, value in context.invocation_metadata() or ()}:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the metadata workload.spiffe.io: true is missing"
            )
        await self._feed.look()
        count = 0
        while True:
            count, svid = await self._feed.next(count)
            if svid is None:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
            else:
                yield svid


async def serve(
    mount: Path, path: Path, stop: asyncio.Event, on_bound: Callable[[], None] = lambda: None
) -> None:
    """Serve the certificate in `mount` on the unix socket `path` until `stop` is set.

    `on_bound` is called once the socket is there, with mode 0600, and before anybody is answered:
    that is the place to give it to its owner and to drop rights. Raises AlreadyExists if another
    process answers there, Unavailable if nothing can be bound.
    """
    _require_free(path)
    feed = SvidFeed(mount)
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=CONCURRENT_CALLS)
    server.add_generic_rpc_handlers((WorkloadApi(feed).handler(),))
    before = os.umask(0o177)
    try:
        bound = server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        bound = 0
    finally:
        os.umask(before)
    if not bound:
        raise Unavailable(f"cannot listen on {path}; check the directory and the path's length")
    on_bound()
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(feed.run(), name="svid")
        try:
            await server.start()
            log.info("spiffe.started", socket=str(path))
            await stop.wait()
        finally:
            looking.cancel()
            await server.stop(GRACE_S)
            log.info("spiffe.stopped")


def _require_free(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise AlreadyExists(f"another process answers on {path}; stop it first")
