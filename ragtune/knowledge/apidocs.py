"""Writes a readable page for each API object: signature, purpose, parameters, returns, raises.

The layout is fixed, because the index, the question writer and the model all depend on it: first a line with the
signature, then prose, then lists with a label.
"""

import re
from collections.abc import Callable

import griffe

from ragtune.knowledge.docstrings import Item, Page, prose, read_docstring, readable_type
from ragtune.knowledge.restructured import inline_markdown

Resolve = Callable[[griffe.Object | griffe.Alias], griffe.Object | None]
# Decorators that say how stable an object is, as Dagster and Hugging Face use them.
_STATUS = ("deprecated", "beta", "preview", "superseded", "experimental")
# The lengths were chosen by hand and not measured: a longer default or value is an expression that says little, a
# module with fewer words of prose has only a title, and a longer signature fills a passage by itself.
_LONGEST_DEFAULT = 60
_SHORTEST_MODULE_WORDS = 12
_LONGEST_SIGNATURE = 240


def describe(path: str, entity: griffe.Object, resolve: Resolve, *, exported: bool = False) -> str:
    """Return the object's page in Markdown, or "" if there is nothing to say about it.

    `path` is the public dotted path, and `resolve` returns the target of an alias. A function without a docstring
    gets a page with its signature if its module exports it by name (`exported`) and it has types.
    """
    page = read_docstring(entity)
    if isinstance(entity, griffe.Class):
        return _class_page(path, entity, page, resolve)
    if isinstance(entity, griffe.Function):
        return _function_page(path, entity, page, exported=exported)
    if not (page.prose or page.examples):
        return ""
    if isinstance(entity, griffe.Module):
        if len(" ".join(page.prose).split()) < _SHORTEST_MODULE_WORDS:
            return ""
        return _assemble(f"`{path}`  (module)", page, [])
    kind = "property" if "property" in entity.labels else "attribute"
    attribute = entity if isinstance(entity, griffe.Attribute) else None
    typed = re.match(r"^`?([A-Z]?\w+(?:\[[^\n]*?\])?)`?:\s+(?=\S)", page.prose[0]) if page.prose else None
    if typed and kind == "property" and typed[1] not in ("Note", "Warning", "Deprecated", "Example"):
        page.prose[0] = page.prose[0][typed.end() :]
    if attribute is not None and attribute.annotation is not None and not page.returns:
        page.returns = [Item("", readable_type(attribute.annotation))] if kind == "property" else []
    value = f" = {attribute.value}" if attribute is not None and kind == "attribute" and attribute.value else ""
    value = value if len(value) <= _LONGEST_DEFAULT and "\n" not in value else ""
    return _assemble(f"`{path}{value}`  ({kind})", page, [])


def _function_page(path: str, function: griffe.Function, page: Page, *, exported: bool) -> str:
    in_class = isinstance(function.parent, griffe.Class)
    parameters = _public_parameters(function.parameters, drop_first=in_class and "staticmethod" not in function.labels)
    items = _merge(parameters, page.parameters)
    typed = exported and not in_class and (function.returns is not None or any(item.type for item in items))
    if not (page.prose or typed or any(item.text for item in items)):
        return ""
    if function.returns is not None and not page.yields:
        annotation = readable_type(function.returns)
        if not page.returns and annotation not in ("None", "Self"):
            page.returns = [Item("", annotation)]
        elif len(page.returns) == 1 and not page.returns[0].type and annotation != "None":
            page.returns[0].type = annotation
    kind = next((label for label in ("classmethod", "staticmethod") if label in function.labels), "")
    names = {"classmethod": "class method", "staticmethod": "static method"}
    kind = names.get(kind, "method" if in_class else "function")
    if "async" in function.labels:
        kind = f"async {kind}"
    return _assemble(f"`{path}({_signature(parameters)})`  ({kind})", page, _parameter_lines(items), _status(function))


def _class_page(path: str, owner: griffe.Class, page: Page, resolve: Resolve) -> str:
    parameters, fields = _constructor(owner, page, resolve)
    items = _merge(parameters, page.parameters)
    bases = [name for name in (readable_type(base) for base in owner.bases) if name not in ("object", "ABC", "Generic")]
    bases = [re.sub(r"^Generic\[.*\]$|\(.*\)$", "", base) for base in bases]
    enum = any(base.split(".")[-1] in ("Enum", "IntEnum", "StrEnum", "Flag") for base in bases)
    tail = []
    by_name = {item.name: item for item in items}
    for name, attribute in list(page.attributes.items()):
        if name in by_name:
            by_name[name].text = by_name[name].text or attribute.text
            del page.attributes[name]
    attributes = {**fields, **page.attributes} if not items else page.attributes
    if attributes and not enum:
        lines = [_line(item) for item in attributes.values() if item.text or item.type]
        tail += ["Attributes:", *lines] if lines else []
    if enum:
        tail += _enum_lines(owner)
    methods = [
        name
        for name, member in owner.members.items()
        if not name.startswith("_") and isinstance(member, griffe.Function) and "property" not in member.labels
    ]
    if methods:
        tail += [f"Methods: {', '.join(f'`{name}`' for name in methods[:20])}"]
    if any(bases):
        tail += [f"Bases: {', '.join(f'`{base}`' for base in bases if base)}"]
    page.returns = []
    if not (page.prose or any(item.text for item in items) or page.examples):
        return ""
    is_exception = path.endswith(("Error", "Exception", "Warning"))
    kind = "enum" if enum else "exception" if is_exception else "class"
    signature = f"`{path}({_signature(parameters)})`" if parameters and not enum else f"`{path}`"
    return _assemble(f"{signature}  ({kind})", page, _parameter_lines(items), _status(owner), tail)


def _constructor(owner: griffe.Class, page: Page, resolve: Resolve) -> tuple[list[griffe.Parameter], dict[str, Item]]:
    """Return (the parameters of the class's constructor, its annotated fields by name)."""
    parameters: list[griffe.Parameter] = []
    init = owner.members.get("__init__") or owner.members.get("__new__")
    entity = resolve(init) if init is not None else None
    if isinstance(entity, griffe.Function):
        parameters = _public_parameters(entity.parameters, drop_first=True)
        extra = read_docstring(entity)
        page.parameters = page.parameters or extra.parameters
        page.raises = page.raises or extra.raises
    elif "dataclass" not in owner.labels:
        entity = _inherited_init(owner, resolve)
        parameters = _public_parameters(entity.parameters, drop_first=True) if entity else []
    else:
        parameters = _public_parameters(owner.parameters, drop_first=False)
    fields = {}
    for name, member in owner.members.items():
        if name.startswith("_") or not isinstance(member, griffe.Attribute) or "property" in member.labels:
            continue
        if member.annotation is None or "ClassVar" in str(member.annotation):
            continue
        text = prose(member.docstring.value) if member.docstring else _field_text(str(member.value or ""))
        fields[name] = Item(name, readable_type(member.annotation), _default(member.value), text)
        if name in page.parameters and not page.parameters[name].text:
            page.parameters[name].text = text
    return parameters, fields


def _inherited_init(owner: griffe.Class, resolve: Resolve, depth: int = 0) -> griffe.Function | None:
    """Return the constructor of the first base class that has one in the package, or None."""
    for base in owner.bases if depth < 6 else []:
        top, *names = (base.canonical_path if isinstance(base, griffe.Expr) else str(base)).split(".")
        member = _member(owner.modules_collection.members.get(top), names)
        entity = resolve(member) if member is not None else None
        if not isinstance(entity, griffe.Class):
            continue
        init = entity.members.get("__init__")
        function = resolve(init) if init is not None else _inherited_init(entity, resolve, depth + 1)
        if isinstance(function, griffe.Function):
            return function
    return None


def _member(entity: griffe.Object | griffe.Alias | None, names: list[str]) -> griffe.Object | griffe.Alias | None:
    for name in names:
        entity = None if entity is None or isinstance(entity, griffe.Alias) else entity.members.get(name)
    return entity


def _public_parameters(parameters: griffe.Parameters, *, drop_first: bool) -> list[griffe.Parameter]:
    """Return the parameters without `self` or `cls` and without private ones.

    If `drop_first`, a first parameter with an underscore takes the place of `self`.
    """
    public = list(parameters)
    if public and (public[0].name in ("self", "cls", "_cls") or (drop_first and public[0].name.startswith("_"))):
        public = public[1:]
    return [parameter for parameter in public if not parameter.name.startswith("_")]


def _signature(parameters: list[griffe.Parameter]) -> str:
    parts: list[str] = []
    keyword_only = False
    for parameter in parameters:
        kind = parameter.kind
        if kind is griffe.ParameterKind.var_positional:
            keyword_only = True
            parts.append(f"*{parameter.name}")
            continue
        if kind is griffe.ParameterKind.var_keyword:
            parts.append(f"**{parameter.name}")
            continue
        if kind is griffe.ParameterKind.keyword_only and not keyword_only:
            keyword_only = True
            parts.append("*")
        default = _default(parameter.default)
        parts.append(f"{parameter.name}={default}" if default else parameter.name)
    while len(parts) > 3 and len(", ".join(parts)) > _LONGEST_SIGNATURE:
        parts = [*parts[:-2], "..."]
    return ", ".join(parts)


def _merge(parameters: list[griffe.Parameter], documented: dict[str, Item]) -> list[Item]:
    """Return an item per parameter: order and defaults from the signature, types and text from the docstring first.

    Items that the docstring documents and the signature lacks come last.
    """
    items = []
    remaining = dict(documented)
    for parameter in parameters:
        item = remaining.pop(parameter.name, None) or remaining.pop(f"*{parameter.name}", None)
        item = item or remaining.pop(f"**{parameter.name}", None) or Item(parameter.name)
        annotation = readable_type(parameter.annotation) if parameter.annotation is not None else ""
        variadic = parameter.kind in (griffe.ParameterKind.var_positional, griffe.ParameterKind.var_keyword)
        default = "" if variadic else _default(parameter.default) or item.default
        text = item.text or _field_text(str(parameter.default or ""))
        if variadic and not text:
            continue
        items.append(Item(parameter.name, item.type or annotation, default, text))
    return items + list(remaining.values())


def _parameter_lines(items: list[Item]) -> list[str]:
    lines = [_line(item) for item in items if item.type or item.default or item.text]
    return ["Parameters:", *lines] if lines else []


def _line(item: Item) -> str:
    facts = ", ".join(part for part in (item.type, f"default {item.default}" if item.default else "") if part)
    name = item.name if re.fullmatch(r"[*\w.\[\]]+", item.name) else ""
    facts = facts or ("" if name else item.name)
    text = re.sub(rf"^`?{re.escape(item.type)}`?:\s+", "", item.text) if item.type else item.text
    line = f"- `{name}`" if name else "-"
    if name and facts:
        line += f" ({facts})"
    elif facts:
        line += f" {facts}"
    if not name and not facts:
        return f"- {_indent(text)}"
    return f"{line}: {_indent(text)}" if text else line


def _indent(text: str) -> str:
    first, *rest = text.strip().split("\n")
    return "\n".join([first, *[f"  {line}" if line.strip() else "" for line in rest]])


def _assemble(head: str, page: Page, parameters: list[str], status: str = "", tail: list[str] | None = None) -> str:
    parts = [head, status, *page.prose]
    blocks = ["\n".join(parameters)] if parameters else []
    for label, items in (("Returns", page.returns), ("Yields", page.yields), ("Raises", page.raises)):
        lines = [_line(item) for item in items if item.text or item.type]
        if lines and lines != ["- None"]:
            blocks.append("\n".join([f"{label}:", *lines]))
    blocks += page.after
    examples = [example for example in page.examples if example.strip()]
    if examples:
        blocks.append("Examples:\n\n" + "\n\n".join(examples))
    for label in tail or []:
        if label.startswith("- ") and blocks:
            blocks[-1] += f"\n{label}"
        else:
            blocks.append(label)
    return "\n\n".join(part.strip("\n") for part in [*parts, *blocks] if part.strip()) + "\n"


def _status(entity: griffe.Object) -> str:
    """Return a sentence for each decorator that says how stable the object is, or ""."""
    lines = []
    for decorator in getattr(entity, "decorators", []):
        value = str(decorator.value)
        name = re.split(r"[(\[]", value)[0].split(".")[-1]
        if name in _STATUS:
            version = re.search(r"breaking_version=['\"]([^'\"]+)", value)
            note = re.search(r"additional_warn_text=f?['\"]([^'\"]+)", value)
            detail = f", goes away in {version[1]}" if version else ""
            lines.append(f"Status: {name}{detail}." + (f" {inline_markdown(note[1])}." if note else ""))
    return "\n".join(lines).replace("..", ".")


def _enum_lines(owner: griffe.Class) -> list[str]:
    lines = []
    for name, member in owner.members.items():
        if isinstance(member, griffe.Attribute) and name.isupper() and not name.startswith("_"):
            text = prose(member.docstring.value) if member.docstring else ""
            lines.append(_line(Item(name, _default(member.value), "", text)))
    return ["Values:", *lines] if lines else []


def _default(value: object) -> str:
    """Return a default value as it stands in the source, "" if there is none, and "..." if it says nothing.

    The default of a dataclass or pydantic field is read from the call of `field`. Sentinels such as `UNSET` and
    long expressions become "...".
    """
    text = " ".join(str(value).split()) if value is not None else ""
    match = re.match(r"(?:\w+\.)?(?:field|Field|PydanticField)\((.*)\)$", text)
    if match:
        inner = re.search(r"\bdefault=([^,()\[\]{}]+|\[\]|\{\})(?=,|$)", match[1]) or re.match(
            r"(None|True|False|-?[\d.e-]+|'[^']*'|\"[^\"]*\")(?=,|$)", match[1]
        )
        text = inner[1] if inner else ""
    if re.fullmatch(r"_\w+|\.\.\.|\w*(UNSET|NOT_SET|NOTSET|MISSING|EMPTY)\w*|object\(\)", text, re.IGNORECASE):
        return "..." if text else ""
    return text if len(text) <= _LONGEST_DEFAULT else "..."


def _field_text(value: str) -> str:
    """Return the description in the call of a dataclass or pydantic field, or ""."""
    match = re.search(r"(?:['\"]help['\"]:|\bdescription=)\s*\(?\s*((?:(?:f|r)?(?:'[^']*'|\"[^\"]*\")\s*)+)", value)
    if not match:
        return ""
    pieces = re.findall(r"'([^']*)'|\"([^\"]*)\"", match[1])
    return prose("".join(a or b for a, b in pieces).replace("\\n", " "))
