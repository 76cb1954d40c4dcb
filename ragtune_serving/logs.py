"""The log of the gateway: lines for people, or JSON with a line for every request.

Neither holds a question, an answer or a key, unless `gateway.log_content` is switched on.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ragtune_serving.request_context import RequestContext, current_request

_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_QUIET = ("/health/", "/metrics")
"""Beginnings of paths that are asked all the time; only what is unusual there gets a line, so not "starting"."""
_requests = logging.getLogger("ragtune_serving.requests")


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON, with the id of the request that it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := current_request().id:
            line["request_id"] = request_id
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_to(file: Path, form: Literal["text", "json"] = "text") -> None:
    """Write all warnings and our own log to a file, and our own log to stderr too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    own = logging.getLogger("ragtune_serving")
    own.setLevel(logging.INFO)
    console = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler = logging.FileHandler(file)
        handler.setFormatter(JsonFormatter())
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        console.setFormatter(JsonFormatter())
    else:
        logging.basicConfig(filename=file, level=logging.WARNING, format=_LINE)
        console.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        _requests.setLevel(logging.WARNING)
    own.addHandler(console)


def log_request(request: RequestContext, seconds: float) -> None:
    """Log the end of a request."""
    if request.path.startswith(_QUIET) and request.status in (200, 503):
        return
    fields = {
        "request_id": request.id,
        "method": request.method,
        "path": request.path,
        "status": request.status,
        "milliseconds": round(seconds * 1000, 1),
        **request.fields,
    }
    _requests.info("%s %s %d", request.method, request.path, request.status, extra={"fields": fields})
