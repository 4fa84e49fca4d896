"""What lies in the storage engine, as its member gives it out: keys, sizes, and who finds a name.

    engine_keys.py SOCKET NEEDLE_FILE ...

Asks the member itself, so nothing of ours stands between. Prints the keys by group, and for each
needle in which keys or values it stands. Exits 0 if none was found but "strongroom/keyring", the
one record under a fixed name: a search that does not find that one proves nothing.
"""

import asyncio
import sys
from collections import Counter, defaultdict
from pathlib import Path

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_channel import CAMPAIGN, DATA, RANGE, REQUEST, EtcdChannel

_TIMEOUT_S = 10.0
_FIXED = b"strongroom/keyring"
_GROUP = 16
_SHOWN_GROUPS = 40
Stored = list[tuple[bytes, bytes]]


async def everything(socket: Path) -> Stored:
    """Return every key of the engine with its value."""
    channel = EtcdChannel(socket)
    try:
        request = pb.RangeRequest(key=b"\0", range_end=b"\0", serializable=True)
        reply = await channel.ask(RANGE, request, timeout_s=_TIMEOUT_S)
    finally:
        await channel.close()
    return [(entry.key, entry.value) for entry in reply.kvs]


def show(stored: Stored) -> None:
    """Print what a reader of the engine can count: groups, records, sizes."""
    groups: dict[bytes, Counter[int]] = defaultdict(Counter)
    for key, value in stored:
        if key.startswith(DATA) and key != DATA + _FIXED:
            groups[key[1 : 1 + _GROUP]][len(value)] += 1
    sys.stdout.write("KEY BEGINS WITH   RECORDS  SIZES (BYTES x RECORDS)\n")
    for prefix, sizes in sorted(groups.items(), key=lambda item: -item[1].total())[:_SHOWN_GROUPS]:
        told = ", ".join(f"{size} x {count}" for size, count in sorted(sizes.items()))
        sys.stdout.write(f"{prefix.hex()[:16]}  {sizes.total():<7}  {told}\n")
    for keyspace, what in ((REQUEST, "request ids"), (CAMPAIGN, "campaigns")):
        count = sum(key.startswith(keyspace) for key, _value in stored)
        sys.stdout.write(f"not sealed: {what}: {count}\n")


def places(stored: Stored, needle: bytes) -> str:
    """Return where a needle stands."""
    in_keys = sum(needle in key for key, _value in stored)
    in_values = sum(needle in value for _key, value in stored)
    return f"in {in_keys} keys, in {in_values} values" if in_keys + in_values else "nowhere"


def main(socket: str, *files: str) -> int:
    """Read, show, and search."""
    stored = asyncio.run(everything(Path(socket)))
    show(stored)
    found = {file: places(stored, Path(file).read_bytes().strip()) for file in files}
    for file, where in found.items():
        sys.stdout.write(f"{Path(file).name:<24} {where}\n")
    fixed = places(stored, _FIXED)
    sys.stdout.write(f"{_FIXED.decode():<24} {fixed}\n")
    good = fixed == "in 1 keys, in 0 values" and set(found.values()) == {"nowhere"}
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
