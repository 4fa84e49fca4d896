"""A node that asks for single secrets by `POST /v1/issue`, with envelope keys of its own."""

import base64

from cluster.pki.node_envelope import ISSUE, NodeKeys, staged
from cluster.protocol import wire
from tests.support.running import Answer, Credential, ManagerProcess, RunningCluster, node_id_of


class IssueCaller:
    """Asks for secrets and opens what comes."""

    def __init__(self, node_id: str) -> None:
        self.keys = NodeKeys.generate(node_id)

    def body(self, service: str, secret: str) -> dict[str, object]:
        """Return the body of a request."""
        offered = [
            [key.suite, base64.b64encode(key.public_key).decode()]
            for key in self.keys.public_keys()
        ]
        return {"service": service, "secret": secret, "envelope_keys": offered}

    def opened(self, content: bytes, suite: str) -> bytes:
        """Return the value in an answer."""
        message = wire.decode_from_manager(content)
        assert isinstance(message, wire.Values)
        (sealed,) = staged(message, suite, ISSUE).values()
        with self.keys.opening() as open_value:
            return open_value(sealed).reveal()


def issue(
    cluster: RunningCluster,
    service: str,
    secret: str,
    credential: Credential,
    managers: list[ManagerProcess] | None = None,
) -> Answer:
    """Ask as the node that a credential names; `value` in the answer's body is the opened one."""
    caller = IssueCaller(node_id_of(credential))
    body = caller.body(service, secret)
    answer = cluster.call("POST", "/v1/issue", body, credential=credential, managers=managers)
    if answer.status != 200:
        return answer
    value = caller.opened(answer.body["value"], answer.headers["strongroom-envelope"])
    return Answer(answer.status, {"value": value}, answer.headers)
