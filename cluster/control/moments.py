"""How moments look in answers. Pure."""

from datetime import UTC, datetime


def moment(unix_s: float | None) -> str | None:
    """Return a moment as ISO 8601 in UTC, to the millisecond; None stays None."""
    if unix_s is None:
        return None
    text = datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
