"""reStructuredText by docutils; Sphinx's roles and directives are read without Sphinx."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.dom import LIST_MARKS, DomReader, parse_page
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.reading import Reading
from ragtune.records import LeftOut

_WRAPPER = re.compile(r"(?i)</?(?:html|head|body)\b[^<>]*>")
_FIELDS = re.compile(r"\s*((?::[\w-]+:.*\n)+)")
_EXPLICIT_TITLE = re.compile(r"(.+?)\s*<([^<>]+)>$", re.DOTALL)
_NOT_TEXT = frozenset(
    {
        "toctree",
        "index",
        "tabularcolumns",
        "highlight",
        "currentmodule",
        "module",
        "meta",
        "contents",
        "sectnum",
        "role",
        "default-domain",
    }
)
"""Directives that steer a build and say nothing to a reader."""
_ELSEWHERE = frozenset(
    {"include", "literalinclude", "autosummary", "click", "typer", "argparse", "program-output", "plot"}
)
"""Directives whose text stands in another file or is generated."""
_CODE_BLOCKS = frozenset({"code", "code-block", "sourcecode", "prompt", "testcode", "doctest", "ipython", "highlight"})
_PLAIN_ROLES = frozenset(
    {"ref", "doc", "term", "numref", "guilabel", "menuselection", "abbr", "dfn", "rfc", "pep", "any", "download", "sub"}
)
_OBJECTS = frozenset(
    """
    attribute autoattribute autoclass autodata autoexception autofunction automethod automodule class cmdoption confval
    data describe envvar exception function macro member method object option program property type
    """.split()  # noqa: SIM905 - a list of quoted names would take as many lines
)
"""Directives whose argument is code."""
_ERROR = 3  # docutils' level of what it could not read
_VERSIONS = {
    "versionadded": "New in version",
    "versionchanged": "Changed in version",
    "deprecated": "Deprecated since version",
    "versionremoved": "Removed in version",
}


# The border and the head of a simple table. Tables that are indented stay: they may be code.
_BLANK_HEAD = re.compile(r"(?m)^(=+(?: +=+)+) *\n( .*\S.*)$")
# The part of a role that is not shown: :ref:`title <target>`, :class:`~shop.carts.Cart`.
_ROLE_TARGETS = re.compile(r":[\w:+.-]+:`(?:[^`<]*<([^<>`]+)>|~([^`]+)\.[^`.]+)`")


# Marks that open emphasis, code or a substitution, or close it; and references such as `name_`.
_OPENING = re.compile(r"(?<![\w*`|\\])[*`|]+(?=[^\s*`|])")
_CLOSING = re.compile(r"(?<=[^\s*`|])[*`|]+(?!\w)")
_REFERENCE = re.compile(r"(?<=\w)_{1,2}(?!\w)")
_MARK = re.compile(r"[*`|](?=\S)|(?<=\S)[*`|]|(?<=\w)_(?!\w)")
_BLANK_LINES = re.compile(r"(\n(?:[ \t]*\n)+)")
# docutils looks for the end of every mark up to the end of the paragraph, which takes the square of the time.
# Chosen by hand: 100 million characters looked through take some five seconds. A paragraph of prose costs a hundredth.
_MOST_LOOKED_THROUGH = 100_000_000

# The options of a directive, directly below it, and those whose values are shown or are listed with a picture.
_OPTIONS = re.compile(r"(?m)^([ \t]*)\.\. +(?:\|[^|\n]+\| +)?[\w:-]+::.*\n((?:\1[ \t]+:[\w-]+:(?:[ \t].*)?\n)+)")
_OPTION = re.compile(r":([\w-]+):[ \t]+(\S.*)")
_SHOWN_OPTIONS = frozenset({"alt", "caption", "header", "subtitle"})

_CONDITION = re.compile(r"(?m)^\s*\.\. (?:only|ifconfig):: +(.+?)\s*$")
_CLASS = re.compile(r"(?m)^\s*\.\. (?:class|container|cssclass|raw|rst-class):: +(.+?)\s*$")


def read_restructured_text(raw: bytes) -> Reading:
    """Return a reStructuredText file; a field `:title:` at the top names it."""
    text = decode(raw)
    fields = _FIELDS.match(text)
    title = re.search(r"^:title:\s*(.+)$", fields[1], re.MULTILINE) if fields else None
    left_out = []
    if fields and title:
        left_out = [LeftOut(reason="front matter", text=" ".join(fields[1].split()))]
        text = text[fields.end() :]
    blocks, dropped = restructured_blocks(text)
    return Reading(blocks=tuple(blocks), title=title[1] if title else "", left_out=(*left_out, *dropped))


def restructured_blocks(text: str) -> tuple[list[Block], list[LeftOut]]:
    """Return the blocks of a reStructuredText, and what is in it and not in them."""
    from docutils import nodes
    from docutils.core import publish_doctree, publish_from_doctree

    _tolerate_sphinx()
    bounded = "".join(map(_without_endless_marks, _BLANK_LINES.split(_BLANK_HEAD.sub(_with_empty_cell, text))))
    settings = {
        "report_level": 1,
        "warning_stream": False,
        "halt_level": 6,
        "file_insertion_enabled": False,
        "raw_enabled": True,
        "doctitle_xform": False,
        "docinfo_xform": False,
        "sectsubtitle_xform": False,
        "initial_header_level": 1,
        "syntax_highlight": "none",
        "math_output": "LaTeX",
        "smart_quotes": False,
        "section_self_link": False,
        "strip_comments": False,
        "embed_stylesheet": False,
        # docutils refuses a whole file for one line of more than 10,000 characters, which an unwrapped paragraph has.
        # The limit also stops substitutions that grow without end.
        "line_length_limit": max(10_000, *map(len, bounded.split("\n"))) + 1,
        "stylesheet_path": "",
        "_disable_config": True,
    }
    tree = publish_doctree(bounded, settings_overrides=settings)
    for section in [*tree.findall(nodes.section)]:
        if "system-messages" in section["classes"]:
            section.parent.remove(section)
    for message in [*tree.findall(nodes.system_message)]:
        # What docutils could not read stays as it stands in the file; a mere warning is about text that was read.
        source = [node for node in message.children if isinstance(node, nodes.literal_block)]
        message.parent.replace(message, source if message["level"] >= _ERROR else [])
    reader = DomReader()
    for passthrough in [*tree.findall(nodes.raw)]:
        form = passthrough.get("format", "")
        if "html" not in form.split():
            reader.left_out.append(LeftOut(reason=f"raw {form}", text=" ".join(passthrough.astext().split())))
        # `</body>` in raw HTML would end the page.
        kept = nodes.raw("", _WRAPPER.sub("", passthrough.astext()), format=form)
        passthrough.parent.replace(passthrough, kept)
    for numbered in tree.findall(nodes.enumerated_list):
        marks = f"{numbered.get('prefix', '')}{{}}{numbered.get('suffix', '')}"
        numbered["classes"] += [name for name, shown in LIST_MARKS.items() if shown == marks]
    tree.transform_messages = tree.parse_messages = []
    page = publish_from_doctree(tree, writer="html5", settings_overrides=settings).decode()
    blocks = reader.read(parse_page(page).find("body"))
    return blocks, [*reader.left_out, *_hidden_targets(tree, text)]


def _without_endless_marks(paragraph: str) -> str:
    """Return a paragraph; its marks are escaped if docutils would look for the ends of them for minutes.

    The words stay, and so do the marks, as text. Indented paragraphs stay: they may be code.
    """
    if len(paragraph) ** 2 < _MOST_LOOKED_THROUGH or paragraph[0].isspace():
        return paragraph
    unclosed = len(_OPENING.findall(paragraph)) - len(_CLOSING.findall(paragraph))
    marks = max(unclosed, 0) + len(_REFERENCE.findall(paragraph))
    return _MARK.sub(r"\\\g<0>", paragraph) if marks * len(paragraph) > _MOST_LOOKED_THROUGH else paragraph


def _with_empty_cell(table: re.Match[str]) -> str:
    """Return the top of a simple table with a mark for the empty first cell, without which docutils drops the head."""
    border, head = table[1], table[2]
    is_blank = not head[: border.index(" ")].strip()
    return f"{border}\n\\{head[1:]}" if is_blank else table[0]


def _hidden_targets(tree: Any, text: str) -> Iterator[LeftOut]:
    """Yield what only links refer to, such as `.. _name: address`, and the conditions of `.. only:: html`."""
    from docutils import nodes

    for node in tree.findall(nodes.target):
        if node.rawsource.startswith(".."):
            yield LeftOut(reason="link target", text=" ".join(node.rawsource.removeprefix("..").split()))
    for node in tree.findall(nodes.substitution_definition):
        yield LeftOut(reason="substitution", text=" ".join(node.rawsource.removeprefix("..").split()))
    for titled, shortened in _ROLE_TARGETS.findall(text):
        yield LeftOut(reason="link target", text=titled or shortened)
    for _, options in _OPTIONS.findall(text):
        for name, value in _OPTION.findall(options):
            if name not in _SHOWN_OPTIONS:
                yield LeftOut(reason="option", text=f"{name}: {value.strip()}")
    for name in _CLASS.findall(text):
        yield LeftOut(reason="option", text=name)
    for condition in _CONDITION.findall(text):
        yield LeftOut(reason="condition", text=condition)


@cache
def _tolerate_sphinx() -> None:
    """Make docutils read unknown roles as text and unknown directives as their content.

    The two look-ups are replaced for the whole process: docutils has no setting for it.
    """
    from docutils.parsers.rst import directives, roles

    docutils_role, docutils_directive = roles.role, directives.directive

    def role(name: str, language: Any, line: int, reporter: Any) -> Any:
        reader, messages = docutils_role(name, language, line, reporter)
        return (reader, messages) if reader and name not in _PLAIN_ROLES else (_read_role, [])

    def directive(name: str, language: Any, document: Any) -> Any:
        reader, messages = docutils_directive(name, language, document)
        if reader is not None and name not in _NOT_TEXT | _ELSEWHERE | _CODE_BLOCKS:
            return _with_any_option(reader), messages
        return _sphinx_directive(), []

    roles.role, directives.directive = role, directive


def _read_role(name: str, raw: str, text: str, *_: Any, **__: Any) -> Any:
    """Return the words that Sphinx would show for a role: the explicit title, else the target."""
    from docutils import nodes, utils

    words = utils.unescape(text)
    titled = _EXPLICIT_TITLE.fullmatch(words)
    if titled:
        words = titled[1]
    elif words.startswith("~"):
        words = words[1:].rpartition(".")[2]
    words = words.lstrip("!")
    kind = name.rpartition(":")[2]
    if kind in ("pep", "rfc"):
        words = f"{kind.upper()} {words}"
    if kind in _PLAIN_ROLES or titled:
        return [nodes.inline(raw, words)], []
    return [nodes.literal(raw, words)], []


class _AnyOption(dict[str, Any]):
    """An option specification that accepts every option."""

    def __bool__(self) -> bool:
        return True

    def __missing__(self, _: str) -> Any:
        return str


@cache
def _with_any_option(reader: Any) -> Any:
    """Return a directive of docutils that does not refuse the options that Sphinx gives it, such as `:label:`."""
    if not getattr(reader, "option_spec", None):
        return reader
    return type(reader.__name__, (reader,), {"option_spec": _AnyOption(reader.option_spec)})


@cache
def _sphinx_directive() -> Any:
    from docutils import nodes
    from docutils.parsers.rst import Directive

    class SphinxDirective(Directive):
        """A directive of Sphinx or an extension: its argument as a line, its content as text."""

        has_content = True
        optional_arguments = 1
        final_argument_whitespace = True

        option_spec = _AnyOption()

        def run(self) -> list[Any]:
            name, argument = self.name.rpartition(":")[2], " ".join((self.arguments or [""])[0].split())
            if name in _NOT_TEXT or name in _ELSEWHERE:
                return [nodes.comment("", f"{self.name} {self.block_text}")]
            if name in _CODE_BLOCKS:
                return [*self.paragraph(self.options.get("caption", "")), self.code(argument)]
            body = nodes.container()
            if name in _VERSIONS:
                version, _, rest = argument.partition(" ")
                body += self.paragraph(f"{_VERSIONS[name]} {version}{': ' + rest if rest else ''}")
            elif argument and (name in _OBJECTS or "(" in argument or ":" in self.name):
                body += nodes.paragraph("", "", nodes.literal("", argument))
            elif name != "only":
                body += self.paragraph(argument)
            self.state.nested_parse(self.content, self.content_offset, body, match_titles=False)
            return [body]

        def paragraph(self, text: str) -> list[Any]:
            """Return the text as a paragraph with its roles read; nothing for an empty text."""
            parts, messages = self.state.inline_text(text, self.lineno)
            return [nodes.paragraph(text, "", *parts), *messages] if text else []

        def code(self, language: str) -> Any:
            text = "\n".join(self.content)
            return nodes.literal_block(text, text, classes=["code", f"language-{language}"] if language else [])

    return SphinxDirective
