"""Contexts on disk: who the operator is towards which cluster, and what he has seen of it.

    contexts/NAME.json   the credential: key, chain, bundle, addresses; rewritten only by renewal
    pending/NAME.pem     a key made before its certificate was asked for: asking again uses it again
    seen/NAME.json       newest revision and all managers' addresses; losing it loses no access
    current              the name that `context use` chose

Directories have mode 0700, files 0600; a file is either the old or the new, whole.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from cluster.cli.answers import Answer, parse, text, texts
from cluster.cli.credentials import flush_directory
from cluster.cli.settings import Settings
from cluster.protocol.errors import InvalidRequest, MalformedMessage, NotFound, PermissionDenied
from cluster.protocol.ids import check_name
from cluster.protocol.secret_bytes import SecretBytes

FORMAT: Final = 1
_OPEN_TO_OTHERS = 0o077


class Context(NamedTuple):
    """An operator's way into one cluster."""

    name: str
    operator: str
    role: str
    trust_domain: str
    endpoints: tuple[str, ...]
    """host:port of every manager's API."""
    chain_pem: str
    control: tuple[str, ...]
    """The control authorities to believe, DER in base64."""
    renew_at: float
    """Unix seconds."""
    not_after: float
    key_pem: SecretBytes

    def public(self) -> Answer:
        """Return everything but the key."""
        return {
            "format": FORMAT,
            "name": self.name,
            "operator": self.operator,
            "role": self.role,
            "trust_domain": self.trust_domain,
            "endpoints": list(self.endpoints),
            "chain": self.chain_pem,
            "control": list(self.control),
            "renew_at": self.renew_at,
            "not_after": self.not_after,
        }


class Seen(NamedTuple):
    """What was seen of a cluster last."""

    revision: str = ""
    endpoints: tuple[str, ...] = ()


class ContextFiles:
    """The directory that holds them."""

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.directory
        self._named_by_environment = settings.context

    def chosen(self, flag: str | None) -> Context:
        """Return the context in use: by flag, by environment, by `context use`, or the only one."""
        return self.load(flag or self._named_by_environment or self.current())

    def current(self) -> str:
        """Return the name that is used when none is given; raise NotFound when there is none."""
        try:
            return (self._directory / "current").read_text().strip()
        except FileNotFoundError:
            names = self.names()
            if len(names) == 1:
                return names[0]
            raise NotFound(
                "several contexts exist; choose one with `strongroom context use NAME`"
                if names
                else "no context yet; run `strongroom init` or `strongroom operator enrol`"
            ) from None

    def use(self, name: str) -> None:
        """Make a context the one in use."""
        self.load(name)
        _replace(self._prepared("") / "current", f"{name}\n".encode())

    def names(self) -> list[str]:
        """Return all names in order."""
        return sorted(path.stem for path in (self._directory / "contexts").glob("*.json"))

    def exists(self, name: str) -> bool:
        """Return whether there is a context of this name."""
        return self._path(name).exists()

    def load(self, name: str) -> Context:
        """Return a context; raise NotFound, and PermissionDenied if others can read its key."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read()
        except FileNotFoundError:
            raise NotFound(
                f"there is no context {name}; `strongroom context ls` lists them"
            ) from None
        if mode & _OPEN_TO_OTHERS:
            raise PermissionDenied(
                f"{path} holds a private key and is open to others; "
                "run `chmod 600` on it, and enrol again if someone may have read it"
            )
        return _decode(content)

    def save(self, context: Context) -> None:
        """Write a context, and drop the pending key that became part of it; durable on return."""
        content = {**context.public(), "key": context.key_pem.reveal().decode("ascii")}
        self._prepared("contexts")
        _replace(self._path(context.name), json.dumps(content).encode())
        self._pending_path(context.name).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a context with its key."""
        self.load(name)
        was_current = (self._directory / "current").exists() and self.current() == name
        for path in (self._path(name), self._pending_path(name), self._seen_path(name)):
            path.unlink(missing_ok=True)
        if was_current:
            (self._directory / "current").unlink()

    def seen(self, name: str) -> Seen:
        """Return what was seen last; nothing when that is not known."""
        try:
            content = parse(self._seen_path(name).read_bytes())
            return Seen(text(content, "revision"), texts(content, "endpoints"))
        except (FileNotFoundError, MalformedMessage):
            return Seen()

    def remember(self, name: str, seen: Seen) -> None:
        """Write what was seen."""
        content = {"revision": seen.revision, "endpoints": list(seen.endpoints)}
        self._prepared("seen")
        _replace(self._seen_path(name), json.dumps(content).encode(), durable=False)

    def pending_key(self, name: str) -> SecretBytes:
        """Return the key that a certificate is being asked for, made and stored now if need be.

        A reply that got lost is given again to the same key only.
        """
        path = self._pending_path(name)
        self._prepared("pending")
        try:
            return SecretBytes(path.read_bytes())
        except FileNotFoundError:
            from cluster.pki.csr import key_to_pem, new_key

            key_pem = SecretBytes(key_to_pem(new_key()))
            _replace(path, key_pem.reveal())
            return key_pem

    @contextmanager
    def renewing(self, name: str) -> Iterator[bool]:
        """Hold the right to renew a context; False when another process holds it."""
        import fcntl

        path = self._prepared("pending") / f"{check_name(name)}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _path(self, name: str) -> Path:
        return self._directory / "contexts" / f"{check_name(name)}.json"

    def _pending_path(self, name: str) -> Path:
        return self._directory / "pending" / f"{check_name(name)}.pem"

    def _seen_path(self, name: str) -> Path:
        return self._directory / "seen" / f"{check_name(name)}.json"

    def _prepared(self, part: str) -> Path:
        directory = self._directory / part
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        return directory


def merged(listed: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return addresses without repeats, the newest list first."""
    return tuple(dict.fromkeys((*listed, *known)))


def _decode(content: bytes) -> Context:
    try:
        fields = parse(content)
        if fields.get("format") != FORMAT:
            raise InvalidRequest("the context was written by a newer version of this command")
        return Context(
            name=text(fields, "name"),
            operator=text(fields, "operator"),
            role=text(fields, "role"),
            trust_domain=text(fields, "trust_domain"),
            endpoints=texts(fields, "endpoints"),
            chain_pem=text(fields, "chain"),
            control=texts(fields, "control"),
            renew_at=_seconds(fields, "renew_at"),
            not_after=_seconds(fields, "not_after"),
            key_pem=SecretBytes(text(fields, "key").encode("ascii")),
        )
    except (MalformedMessage, UnicodeEncodeError):
        raise InvalidRequest("the context file is damaged; enrol again") from None


def _seconds(fields: Answer, key: str) -> float:
    value = fields.get(key)
    if not isinstance(value, int | float):
        raise MalformedMessage
    return float(value)


def _replace(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Put a file of mode 0600 in place of another; the process's id keeps two writers apart."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(descriptor)
    temporary.replace(path)
    if durable:
        flush_directory(path.parent)
