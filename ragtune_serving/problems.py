"""Every error as the gateway returns it: OpenAI's shape, and the valid names where one was wrong."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ragtune_serving.schema import ErrorBody, ErrorDetail

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "method_not_allowed",
    503: "service_unavailable",
}


def problem(
    status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error response."""
    kind = _TYPES.get(status, "server_error")
    body = ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=str(status)))
    return JSONResponse(body.model_dump(), status, dict(headers or {}))


def explain(errors: Iterable[Mapping[str, Any]], request: type[BaseModel] | None) -> tuple[str, str | None]:
    """Return one message for pydantic's errors, and the field of the first one.

    An unknown field is answered with the names that are valid at its place.
    """
    lines, first = [], None
    for error in errors:
        place = [part for part in error["loc"] if part not in ("body", "query")]
        name = ".".join(str(part) for part in place)
        first = first or name or None
        if error["type"] == "extra_forbidden" and request is not None:
            valid = ", ".join(_model_at(request, place[:-1]).model_fields)
            lines.append(f"There is no field '{name}'. Valid fields: {valid}.")
        elif error["type"] == "json_invalid":
            lines.append("The body is not valid JSON.")
        elif error["type"] == "model_attributes_type" and not place:
            lines.append("The body is not a JSON object with Content-Type: application/json.")
        elif not place:
            lines.append(f"The body is not what was expected: {error['msg']}.")
        else:
            lines.append(f"The field '{name}': {error['msg']}.")
    return "\n".join(dict.fromkeys(lines)), first


def _model_at(model: type[BaseModel], place: Iterable[Any]) -> type[BaseModel]:
    """Return the model that holds the fields at a place such as ("messages", 0)."""
    for part in place:
        field = model.model_fields.get(str(part))
        inner = next(_models_in(field.annotation), None) if field else None
        model = inner or model
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
