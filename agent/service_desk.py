"""What local askers are told: a service about its own secrets, root about services and the agent.

Owns who is shown what; sockets and proofs of the asker are `agent.workload_socket`'s. Source:
DESIGN 6.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from agent.config import AgentConfig
from agent.mount_table import MountTable
from agent.workload_socket import ServiceDescription
from cluster.protocol.errors import PermissionDenied, Unavailable
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import FileSpec

MayServe = Callable[[FileSpec], bool]
"""Whether a file may be handed out now; asks the lease."""


class ServiceDesk:
    """Answers for one node, from what is mounted now."""

    def __init__(self, config: AgentConfig, table: MountTable, may_serve: MayServe) -> None:
        self._config = config
        self._table = table
        self._may_serve = may_serve

    def ls(self, service: str) -> Sequence[Mapping[str, object]]:
        """Return a row for each file of the service."""
        return [
            {"name": file.name, "target": file.target, "version": file.version}
            for _, file in self._files(service)
        ]

    def get(self, service: str, name: str) -> SecretBytes:
        """Return one value of the service's, by target, else by the name of a secret or a config.

        Raises PermissionDenied for whatever is not there: what exists elsewhere is nobody's
        business here.
        """
        files = list(self._files(service))
        by_target = [found for found in files if found[1].target == name]
        by_name = [found for found in files if found[1].name == name]
        by_name.sort(key=lambda found: found[1].config)
        for service_id, file in (*by_target, *by_name):
            try:
                return self._table.read(service_id, file)
            except OSError:
                raise Unavailable("the file cannot be read now; ask again") from None
        raise PermissionDenied

    def describe(self, service: str, workload_socket: str) -> ServiceDescription | None:
        """Return what `exec` must know of a service, or None if it is not mounted here."""
        for service_id, found in self._table.mounted.items():
            if found.name == service:
                return ServiceDescription(
                    service=service,
                    uid=found.uid,
                    gid=found.gid,
                    mount_path=str(self._table.path_of(service_id)),
                    workload_socket=workload_socket,
                    mounted=True,
                    hidden=(str(self._config.data_dir), str(self._config.mount_root)),
                    logs=found.logs,
                    service_id=service_id,
                )
        return None

    def _files(self, service: str) -> Iterator[tuple[str, FileSpec]]:
        for service_id, found in self._table.mounted.items():
            if found.name == service:
                yield from ((service_id, file) for file in found.files if self._may_serve(file))
