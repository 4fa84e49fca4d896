"""Configs as an operator handles them: create, label, list, inspect, read back, remove.

A config travels as a secret does: sealed in the store, on record before it leaves, on the tmpfs of
the nodes whose tasks refer to it. Unlike a secret it is answered to operators, so it is a kind of
its own: nothing here looks at the records of secrets. Its content never changes, as in Swarm. Each
reading of a content is on record before it is answered. Source: DESIGN 1 and 5.
"""

from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence

import msgspec

from cluster.control.labels import carries, changed_labels, check_labels
from cluster.control.moments import moment
from cluster.control.pages import WHOLE, Page, Paging, page_of
from cluster.control.policy import Action, Principal, Resource, authorize, in_reach
from cluster.control.requests import JSON, Answer, Decision, RequestContext, Requests
from cluster.control.secrets import check_name_free, check_size, users_of, value_record
from cluster.control.versions import first_version
from cluster.protocol.errors import (
    ConfigInUse,
    ConfigNotFound,
    InvalidRequest,
    PermissionDenied,
    VersionNotFound,
)
from cluster.protocol.ids import SecretId, check_name, format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import ConfigRecord, Kind, NameRecord, name_id
from cluster.store.steps import Create, Remove, Replace, Require, Step, Write
from cluster.store.view import Stored, View
from cluster.system import Entropy


class Configs:
    """What operators may do with configs."""

    def __init__(self, requests: Requests, entropy: Entropy) -> None:
        self._requests = requests
        self._entropy = entropy

    async def create(
        self, context: RequestContext, name: str, labels: Mapping[str, str], content: SecretBytes
    ) -> Answer:
        """Store a new config. Raises AlreadyExists: another content takes another name."""
        check_name(name)
        check_size(content)
        wanted = check_labels(labels)

        def decide(view: View) -> Decision:
            check_name_free(view, Kind.CONFIG, name)
            config_id = SecretId(format_id(self._entropy.token(16)))
            now_s = self._now_s()
            by, request_id = context.principal.name, context.request_id
            version = first_version(len(content), now_s, by, request_id=request_id)
            record = ConfigRecord(
                id=config_id,
                name=name,
                labels=wanted,
                versions=(version,),
                created_at=now_s,
                updated_at=now_s,
            )
            steps: list[Step] = [
                Create(record),
                Create(NameRecord(id=name_id(Kind.CONFIG, name), owner=config_id)),
                Create(value_record(config_id, version.number, content)),
            ]
            return Decision(steps, {"id": config_id, "name": name}, status=201)

        resource = Resource(Kind.CONFIG.value, name, wanted)
        return await self._requests.run_once(context, Action.CONFIG_CREATE, resource, decide)

    async def set_labels(
        self, context: RequestContext, name: str, add: Mapping[str, str], remove: Collection[str]
    ) -> Answer:
        """Change a config's labels; a deployer's config keeps the labels of his scope."""

        def resources(view: View) -> list[Resource]:
            before = config_resource(view, name)
            after = changed_labels(before.labels, add, remove)
            return [before, Resource(Kind.CONFIG.value, name, after)]

        def decide(view: View) -> Decision:
            stored = get_config(view, name)
            labels = changed_labels(stored.record.labels, add, remove)
            after = msgspec.structs.replace(stored.record, labels=labels, updated_at=self._now_s())
            return Decision([Replace(stored, after)], {"name": name, "labels": labels})

        return await self._requests.run_once(context, Action.CONFIG_LABEL, resources, decide)

    async def remove(self, context: RequestContext, name: str) -> Answer:
        """Remove a config. Raises ConfigInUse, which names what holds it, previous specs too."""

        def decide(view: View) -> Decision:
            stored = get_config(view, name)
            config_id = SecretId(stored.record.id)
            users = users_of(view, config_id)
            if users:
                raise ConfigInUse(
                    f"config {name!r} is in use by {', '.join(users)}; update or remove these first"
                )
            value = view.secret_values.version(config_id, stored.record.primary.number)
            claim = view.names.get(name_id(Kind.CONFIG, name))
            steps: list[Step] = [Remove(stored)]
            steps += [Remove(one) for one in (value, claim) if one is not None]
            return Decision(steps, {"id": config_id, "name": name})

        return await self._requests.run_once(
            context, Action.CONFIG_REMOVE, lambda view: [config_resource(view, name)], decide
        )

    async def read(self, principal: Principal, name: str) -> dict[str, JSON]:
        """Return a config with its content in base64, once the reading is on record.

        Raises ConfigNotFound, also for every secret; PermissionDenied, and what the store raises.
        """
        found: list[Stored[ConfigRecord]] = []

        def write(view: View) -> Write:
            resource = config_resource(view, name)
            now = self._requests.clock.now()
            entry = authorize(principal, Action.CONFIG_READ, resource, now)
            found[:] = [get_config(view, name)]
            return Write((Require(found[0]),), (entry,))

        try:
            await self._requests.store.update(write)
        except PermissionDenied:
            resource = config_resource(self._requests.store.view, name)
            self._requests.note_refusal(principal, Action.CONFIG_READ, resource)
            raise
        (stored,) = found
        shown = config_shown(self._requests.store.view, stored)
        content = self._content(stored.record)
        return {**shown, "data": b64encode(content.reveal()).decode()}

    def list(
        self,
        principal: Principal,
        paging: Paging = WHOLE,
        *,
        labels: Sequence[str] = (),
        prefix: str = "",
    ) -> Page:
        """Return the metadata of the configs in the caller's reach, by name; the rest as
        `Secrets.list`."""
        self._requests.check(principal, Action.CONFIG_LIST, Resource(Kind.CONFIG.value))
        view = self._requests.store.view
        return page_of(
            view.configs,
            paging,
            prefix,
            lambda one: in_reach(principal, one.labels) and carries(one.labels, labels),
            lambda stored: config_shown(view, stored),
        )

    def inspect(self, principal: Principal, name: str) -> dict[str, JSON]:
        """Return one config's metadata. Raises ConfigNotFound."""
        view = self._requests.store.view
        self._requests.check(principal, Action.CONFIG_INSPECT, config_resource(view, name))
        return config_shown(view, get_config(view, name))

    def _content(self, config: ConfigRecord) -> SecretBytes:
        try:
            return self._requests.store.open_value(SecretId(config.id), config.primary.number)
        except VersionNotFound:
            # It was removed since; its value went in the same transaction.
            raise _missing(config.name) from None

    def _now_s(self) -> float:
        return self._requests.clock.now().timestamp()


def get_config(view: View, name: str) -> Stored[ConfigRecord]:
    """Return the config of exactly this name, or raise ConfigNotFound."""
    stored = view.config_by_name(name)
    if stored is None or stored.record.name != name:
        raise _missing(name)
    return stored


def config_resource(view: View, name: str) -> Resource:
    """Return what a policy judges; a config that is not there has no labels."""
    stored = view.config_by_name(check_name(name))
    found = stored is not None and stored.record.name == name
    labels = stored.record.labels if stored is not None and found else {}
    return Resource(Kind.CONFIG.value, name, labels)


def config_shown(view: View, stored: Stored[ConfigRecord]) -> dict[str, JSON]:
    """Return what an operator sees of a config; `index` rises with every write of its record."""
    config = stored.record
    services = view.services_referring_to(SecretId(config.id))
    return {
        "id": config.id,
        "name": config.name,
        "labels": config.labels,
        "index": stored.mod_revision,
        "size": config.primary.size,
        "created_at": moment(config.created_at),
        "created_by": config.primary.created_by,
        "updated_at": moment(config.updated_at),
        "used_by": sorted(service.record.name for service in services),
    }


def refuse_templating(driver: str | None) -> None:
    """Raise InvalidRequest if a template driver is asked for: contents go out as they are."""
    if driver:
        raise InvalidRequest(
            "templates are not supported: render the content before you store it, and leave the "
            "template driver out"
        )


def _missing(name: str) -> ConfigNotFound:
    return ConfigNotFound(f"there is no config {name!r}; see `strongroom config ls`")
