"""Builds the gateway's error responses: OpenAI's format, with the list of valid names if a name was wrong."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ragtune_serving.schema import ErrorBody, ErrorDetail

RETRY_SECONDS = "5"
"""The header Retry-After of every 503: engines restart and indexes return within seconds. Chosen by hand."""
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "method_not_allowed",
    429: "rate_limit_error",
    503: "service_unavailable",
}


def problem(
    status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error response."""
    return JSONResponse(error_body(status, message, param), status, dict(headers or {}))


def error_body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """Return the body of an error response; a stream that breaks ends with it."""
    kind = _TYPES.get(status, "server_error")
    return ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=str(status))).model_dump()


def explain(errors: Iterable[Mapping[str, Any]], request: type[BaseModel] | None) -> tuple[str, str | None]:
    """Return one message for all of pydantic's errors, and the name of the first wrong field or None.

    For an unknown field the message lists the fields that are valid in its place.
    """
    lines, first_field = [], None
    for error in errors:
        path = [part for part in error["loc"] if part not in ("body", "query")]
        name = ".".join(str(part) for part in path)
        first_field = first_field or name or None
        if error["type"] == "extra_forbidden" and request is not None:
            valid = ", ".join(_model_at(request, path[:-1]).model_fields)
            lines.append(f"There is no field '{name}'. Valid fields: {valid}.")
        elif error["type"] == "json_invalid":
            lines.append("The body is not valid JSON.")
        elif error["type"] == "model_attributes_type" and not path:
            lines.append("The body is not a JSON object with Content-Type: application/json.")
        elif error["type"] == "value_error":  # one of our own checks, whose message is a sentence about the field
            lines.append(f"{f'The field {name!r}' if name else 'The body'} is not valid: {error['ctx']['error']}.")
        elif error["type"] == "missing" and path:
            lines.append(f"The field '{name}' is missing.")
        elif not path:
            lines.append(f"The body is not valid: {error['msg']}.")
        else:
            lines.append(f"The field '{name}' is not valid: {error['msg']}.")
    return "\n".join(dict.fromkeys(lines)), first_field


def _model_at(model: type[BaseModel], path: Iterable[Any]) -> type[BaseModel]:
    """Return the model that holds the fields at a path such as ("messages", 0)."""
    for part in path:
        field = model.model_fields.get(str(part))
        inner = next(_models_in(field.annotation), None) if field else None
        model = inner or model
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
