"""The form in which times are stored: UTC, ISO 8601, milliseconds."""

from datetime import UTC, datetime


def now() -> str:
    """Return the current time in UTC, as ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
