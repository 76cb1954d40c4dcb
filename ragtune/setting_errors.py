"""Says in plain words what is wrong with settings that cannot be read or are not valid."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings.exceptions import SettingsError as UnparsedVariable

from ragtune.errors import SettingsError
from ragtune.setting_names import nearest

_IN_PLAIN_WORDS = {
    "tuple_type": 'a list is expected, such as ["one", "two"], also if it has only one entry',
    "dict_type": "names with values are expected, such as {name: value}",
    "path_type": "a path is expected, written as text",
    "model_type": "a section is expected: its settings, one `name: value` on each line below it",
}
"""Messages of pydantic that name types of Python."""


def unreadable(file: Path, error: Exception) -> SettingsError:
    """Return what is wrong with settings that cannot even be parsed."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}"
        return SettingsError(f"{file} is no YAML: {error.problem} in {where}.", "lines such as `device: cpu`")
    if isinstance(error, UnicodeDecodeError):
        return SettingsError(f"{file} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}.", "UTF-8")
    if isinstance(error, UnparsedVariable):
        example = """JSON for a setting with several values, such as RAGTUNE_SOURCES='["folder:documents"]'"""
        return SettingsError(f"An environment variable cannot be read: {error}.", example)
    return SettingsError(f"{file} holds no settings: {error}.", "`name: value` on each line, such as `device: cpu`")


def explanation(error: ValidationError, settings: type[BaseModel]) -> str:
    """Return a line for each value that is not valid: its setting, the value, and what is valid."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        message = _IN_PLAIN_WORDS.get(problem["type"], problem["msg"])
        line = f"Setting '{where}' has {problem['input']!r}: {message}."
        if problem["type"] == "value_error":  # settings that do not fit each other, in a sentence of our own
            line = f"{where}: {problem['ctx']['error']}.".removeprefix(": ")
        if problem["type"] == "extra_forbidden":
            names = _names(settings, problem["loc"][:-1])
            meant = nearest(str(problem["loc"][-1]), names)
            hint = f" Did you mean '{meant}'?" if meant else ""
            line = f"There is no setting '{where}'.{hint} Valid names: {', '.join(names)}."
        lines.append(line)
    return "\n".join(lines)


def _names(settings: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the names that are valid at a place, such as those of a section."""
    model = settings
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return sorted(model.model_fields)
