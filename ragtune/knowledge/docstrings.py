"""Parses docstrings in Google, numpy, Sphinx and Hugging Face style into one record.

griffe parses the styles. This module adds what real packages mix in: Sphinx roles, examples outside any section,
attribute lists in Markdown, sections with two colons.
"""

import ast
import inspect
import re
from dataclasses import dataclass, field
from typing import Any

import griffe

from ragtune.knowledge.cleaning import clean_markdown
from ragtune.knowledge.restructured import inline_markdown, resolve_roles, to_markdown, unwrap

_KIND = griffe.DocstringSectionKind
# Longer types are signatures of callbacks or whole unions, which tell a reader little. Chosen by hand, not measured.
_LONGEST_TYPE = 160
# Some packages write the titles of numpy sections with a colon, which griffe does not know.
_UNDERLINED = re.compile(
    r"^([ \t]*)(Parameters|Returns|Raises|Examples|Notes|Yields|Attributes|See Also):{0,2}[ \t]*\n[ \t]*-{3,}[ \t]*$",
    re.MULTILINE,
)


@dataclass(slots=True)
class Item:
    """A documented name: parameter, attribute, return value or exception."""

    name: str
    type: str = ""
    default: str = ""
    text: str = ""


@dataclass(slots=True)
class Page:
    """What a docstring says, by section; `after` is the prose that follows the parameters."""

    prose: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    parameters: dict[str, Item] = field(default_factory=dict)
    attributes: dict[str, Item] = field(default_factory=dict)
    returns: list[Item] = field(default_factory=list)
    yields: list[Item] = field(default_factory=list)
    raises: list[Item] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


def read_docstring(entity: griffe.Object) -> Page:
    """Return what the object's docstring says, by section; an empty page if it has none."""
    page = Page()
    if entity.docstring is None or not entity.docstring.value.strip():
        return page
    text = _UNDERLINED.sub(r"\1\2\n\1-------", resolve_roles(entity.docstring.value))
    text = re.sub(r"^(Args|Returns|Raises|Examples?|Notes?)::\s*$", r"\1:", text, flags=re.MULTILINE)
    text = re.sub(r"^\*\*Examples?:?\*\*:?[ \t]*$", "Examples:", text, flags=re.MULTILINE)
    text = re.sub(r"^Examples?:[ \t]*\n\s*\n(?=```|\.\. code)", "", text, flags=re.MULTILINE)
    # The parser misses a section in the first line, so the text begins with an empty line.
    for section in _sections(griffe.Docstring(f"\n{text}", parent=entity)):
        _read_section(page, section)
    return page


def _sections(docstring: griffe.Docstring) -> list[griffe.DocstringSection]:
    google: dict[str, Any] = {"returns_multiple_items": False, "returns_named_value": False}
    styles: Any = {griffe.Parser.google: google}
    try:
        return docstring.parse("auto", method="heuristics", default="google", per_style_options=styles)
    except IndexError:
        # griffe fails on a section without content. The text itself is still worth reading.
        return [griffe.DocstringSectionText(docstring.value)]


def _read_section(page: Page, section: griffe.DocstringSection) -> None:
    value = section.value
    kind = section.kind
    if kind is _KIND.text:
        value = _read_loose_sections(page, value)
        # Text that follows the parameters or returns stays after them.
        text = prose(value)
        if page.parameters or page.returns:
            examples = re.match(r"(?:```.*?^```$\s*)+", text, re.DOTALL | re.MULTILINE)
            page.examples += [examples[0].strip()] if examples else []
            page.after.append(text[examples.end() :] if examples else text)
        else:
            page.prose.append(text)
    elif kind in (_KIND.parameters, _KIND.other_parameters):
        for item in value:
            page.parameters[item.name.lstrip("*")] = _item(item)
    elif kind is _KIND.attributes:
        for item in value:
            page.attributes[item.name] = _item(item)
    elif kind is _KIND.returns:
        items = [_item(item) for item in value]
        page.returns += [item for item in items if "None" not in (item.type, item.text.rstrip("."))]
    elif kind is _KIND.yields:
        page.yields += [_item(item) for item in value]
    elif kind in (_KIND.raises, _KIND.warns):
        page.raises += [_item(item) for item in value]
    elif kind is _KIND.examples:
        page.examples += [_example(*example) for example in value]
    elif kind is _KIND.deprecated:
        page.prose.append(f"Deprecated: {prose(value.description)}")
    elif kind is _KIND.admonition:
        _read_admonition(page, section.title or value.annotation, value.description)


def _read_loose_sections(page: Page, text: str) -> str:
    """Move examples and attributes that griffe does not recognise from the text to the page; return the rest."""
    for match in re.finditer(r"^\s*-\s+\*\*(\w+)\*\*\s*(?:\((.*?)\))?\s*(?:--|:)\s*(.*)$", text, re.MULTILINE):
        page.attributes[match[1]] = Item(match[1], readable_type(match[2]), "", prose(match[3]))
    text = re.sub(r"^\s*\*\*Attributes\*\*:?\s*(?:\n\s*-\s+\*\*\w+\*\*.*$)+", "", text, flags=re.MULTILINE)
    for match in re.finditer(r"^Examples?:\s*\n((?:[ \t]+\S.*\n?|[ \t]*\n)+)", text + "\n", re.MULTILINE):
        page.examples.append(prose(inspect.cleandoc("\n" + match[1])))
    return re.sub(r"^Examples?:\s*\n((?:[ \t]+\S.*\n?|[ \t]*\n)+)", "", text + "\n", flags=re.MULTILINE)


def _read_admonition(page: Page, title: str, text: str) -> None:
    body = prose(text)
    if title.lower().rstrip("s") in ("example", "usage", "code example"):
        page.examples.append(body)
    elif body:
        # A list or code block starts its own line, and so does the body after a long title.
        on_own_line = body.startswith(("-", "*", "```", "|", "1.")) or len(title) > 24
        target = page.after if page.parameters or page.returns else page.prose
        target.append(f"{inline_markdown(title)}:\n{body}" if on_own_line else f"{inline_markdown(title)}: {body}")


def _example(kind: griffe.DocstringSectionKind, text: str) -> str:
    if kind is not _KIND.text:
        return f"```pycon\n{text.strip()}\n```"
    return f"```python\n{text.strip()}\n```" if _is_code(text) else prose(text)


def _is_code(text: str) -> bool:
    if not re.search(r"[=(]", text):
        return False
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def _item(item: griffe.DocstringElement) -> Item:
    """Return the item for an element of griffe; its default is read from its type, as Hugging Face writes it there."""
    annotation = str(item.annotation) if item.annotation is not None else ""
    default = re.search(r"\bdefaults? (?:to|is|=)\s*`{0,2}([^`,]+)`{0,2}", annotation)
    name = str(getattr(item, "name", "") or "")
    text = prose(inspect.cleandoc(item.description or ""))
    return Item(name, readable_type(item.annotation), default[1].strip() if default else "", text)


def readable_type(annotation: object) -> str:
    """Return the type without quotes, backticks, `typing.` and Hugging Face's `*optional*`.

    Returns "" if what is left says nothing, is too long or has unbalanced brackets.
    """
    text = inline_markdown(" ".join(str(annotation).split())) if annotation is not None else ""
    text = re.sub(r"\[`~?([^`\]]+)`\]", lambda match: match[1].rsplit(".", 1)[-1], text)
    text = re.sub(r",?\s*\*?\boptional\b\*?|,?\s*\bdefaults?( to|:|=)?\s.*$|,?\s*\*?required\*?$", "", text)
    text = re.sub(r"\b(typing|typing_extensions|t|collections\.abc)\.(?=[A-Z])", "", text)
    text = re.sub(r"[`\"]|(?<!\w)'|'(?!\w)", "", text) if "Literal" not in text else text.replace("`", "")
    text = text.strip(" ,")
    balanced = all(text.count(a) == text.count(b) for a, b in ("[]", "()", "{}"))
    return text if balanced and len(text) <= _LONGEST_TYPE and text.lower() not in ("any", "_empty") else ""


def prose(text: str) -> str:
    """Return the text of a docstring as clean Markdown with one line per paragraph."""
    text = re.sub(r"\[`~?([^`\]]+)`\](?!\()", lambda match: f"`{match[1].split('.')[-1]}`", text)
    text = re.sub(r"\[\[autodoc\]\].*|\{\{.*?\}\}|^\s*#?\s*TODO:.*$", "", text, flags=re.MULTILINE)
    return unwrap(clean_markdown(to_markdown(text))).strip()
