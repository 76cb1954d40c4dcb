"""Markdown by the CommonMark rules, with tables, footnotes, strikethrough and YAML front matter."""

import html
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.dom import DomReader, parse_fragment
from ragtune.knowledge.readers.encoding import decode
from ragtune.knowledge.readers.reading import Reading
from ragtune.records import LeftOut

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FACTS = ("title", "language", "lang", "topic", "category", "tags")
# What is never closed goes to the end: looking for each end again would take the square of the time.
_TAG = re.compile(r"</?([A-Za-z][\w-]*)[^>]*(?:>|\Z)|<!--.*?(?:-->|\Z)|<[!?].*?(?:>|\Z)", re.DOTALL)
_DEEPEST = 100
"""Levels of lists and quotations; markdown-it drops what is deeper. Chosen by hand: Python recurses ten times that."""
# Elements whose content is no text of the page. In a Markdown text `<select>` without an end is a word about HTML.
_SWALLOWING = frozenset(
    """
    audio button canvas datalist embed footer head header iframe map nav noscript object optgroup option script select
    style svg template textarea title video
    """.split()  # noqa: SIM905 - as above
)
_RAW = frozenset({"script", "style", "textarea"})  # a block of these ends at its own closing tag
_WRAPPERS = frozenset({"html", "head", "body", "main"})
# The tags that HTML defines; `<name>` in a Markdown text is a placeholder that the reader is meant to see.
_HTML_TAGS = frozenset(
    """
    a abbr acronym address article aside audio b base bdi bdo big blockquote body br button canvas caption center cite
    code col colgroup data datalist dd del details dfn dialog dir div dl dt em embed fieldset figcaption figure font
    footer form h1 h2 h3 h4 h5 h6 head header hgroup hr html i iframe img input ins kbd label legend li link main map
    mark math menu meta meter nav nobr noscript object ol optgroup option output p param picture pre progress q rp rt
    ruby s samp script section select small source span strike strong style sub summary sup svg table tbody td
    template textarea tfoot th thead time title tr track tt u ul var video wbr
    """.split()  # noqa: SIM905 - a list of 110 quoted names would take 110 lines
)
# Elements that are nothing without their end, and so `<b and c>` in `a<b and c>d` or `<a>` in `vector<a>` is none.
_PAIRED = frozenset(
    """
    a abbr b bdi bdo big cite code data del dfn em font i ins kbd mark q s samp small span strike strong sub sup time
    tt u var
    """.split()  # noqa: SIM905 - as above
)
_BARE_WORDS = re.compile(r"<\w+\s+[^=]*>")
_BAR = re.compile(r"(?<!\\)\|")
_ADDRESS = re.compile(r"[/.#:@?]|^$")
_HEADING_ATTRIBUTES = re.compile(r"\s*\{:?\s*[#.][^{}]*\}\s*$")


def read_markdown(raw: bytes) -> Reading:
    """Return a Markdown file; the front matter's values are taken as they are written."""
    text = decode(raw)
    facts, text, left_out = _front_matter(text)
    blocks, dropped = markdown_blocks(text)
    return Reading(
        blocks=tuple(blocks),
        title=facts.get("title", ""),
        language=facts.get("language") or facts.get("lang") or "",
        topic=facts.get("topic") or facts.get("category") or facts.get("tags") or "",
        left_out=(*left_out, *dropped),
    )


def markdown_blocks(text: str) -> tuple[list[Block], list[LeftOut]]:
    """Return the blocks of a Markdown text, and what is in it and not in them."""
    parser = _parser()
    closed_tags = {name.lower() for name in re.findall(r"</([A-Za-z][\w-]*)", text)}
    environment: dict[str, Any] = {"closed_tags": closed_tags}
    tokens = parser.parse(text, environment)
    if any(token.level >= _DEEPEST - 1 for token in tokens):
        # Nobody nests so deep on purpose, and the parser would leave words out.
        plain = re.split(r"\n(?:[ \t]*\n)+", text)
        return [Block("paragraph", part.strip("\n")) for part in plain if part.strip()], []
    for token in tokens:
        if token.type == "ordered_list_open" and token.markup == ")":
            token.attrJoin("class", "list-mark-bracket")
    page = parser.renderer.render(tokens, parser.options, environment)
    unused = [name[1:] for name, place in environment.get("footnotes", {}).get("refs", {}).items() if place < 0]
    if unused:
        # The plugin drops notes that nothing refers to; refer to them from a paragraph of their own.
        environment = {"closed_tags": closed_tags}
        page = parser.render(f"{text}\n\n{' '.join(f'[^{name}]' for name in unused)}\n", environment)
    if not page.strip():
        return [], []
    reader = DomReader()
    blocks = [_without_attributes(block, reader) for block in reader.read(parse_fragment(page))]
    if unused:
        mark = next(place for place in range(len(blocks) - 1, -1, -1) if blocks[place].kind == "paragraph")
        del blocks[mark]
    used = {one.text for one in reader.left_out}
    # Of two definitions of one label the first counts, and a link has shown it already.
    again = environment.get("duplicate_refs", [])
    for reference in (*environment.get("references", {}).values(), *again):
        words = [str(reference.get(name) or "") for name in ("href", "title")]
        if hidden := " ".join(part for part in words if part and (reference in again or part not in used)):
            reader.left_out.append(LeftOut(reason="link target", text=hidden))
    reader.left_out += _unseen_words(tokens, text, blocks)
    return blocks, reader.left_out


def _unseen_words(tokens: "Sequence[Token]", text: str, blocks: Sequence[Block]) -> Iterator[LeftOut]:
    """Yield what no reader of the page sees: the words behind a fence, and cells beyond the last column."""
    code = "\n".join(block.text for block in blocks if block.kind == "code")
    lines, columns = text.split("\n"), 0
    for token in tokens:
        if token.type == "fence" and token.info.strip() and f"```{token.info.strip()}\n" not in code:
            yield LeftOut(reason="language of code", text=token.info.strip())
        elif token.type == "inline":
            for link, words in pairwise(token.children or ()):
                is_written_twice = link.type == "link_open" and link.markup != "autolink"
                if is_written_twice and words.content == link.attrs.get("href"):
                    yield LeftOut(reason="link target", text=words.content)
        elif token.type == "table_open":
            columns = 0
        elif token.type == "th_open":
            columns += 1
        elif token.type == "tr_open" and columns and token.map:
            row = lines[token.map[0]].strip().removeprefix("|").removesuffix("|")
            if extra := [cell.strip() for cell in _BAR.split(row)[columns:] if cell.strip()]:
                yield LeftOut(reason="cell beyond the last column", text=" | ".join(extra))


def _without_attributes(block: Block, reader: DomReader) -> Block:
    """Return a heading without `{#name .class}` at its end."""
    match = _HEADING_ATTRIBUTES.search(block.text) if block.kind == "heading" else None
    if match is None or not block.text[: match.start()]:
        return block
    reader.left_out.append(LeftOut(reason="heading attributes", text=match[0].strip()))
    return Block("heading", block.text[: match.start()], block.level, block.page)


def _front_matter(text: str) -> tuple[dict[str, str], str, list[LeftOut]]:
    """Return the facts of the YAML block at the top, the text below it, and the block as left out.

    A block that is no YAML mapping is text: a rule at the top of a page.
    """
    import yaml

    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}, text, []
    try:
        # BaseLoader reads every scalar as a string: 1.10 stays 1.10, and No stays No.
        facts: Any = yaml.load(match[1], Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return {}, text, []
    if not isinstance(facts, dict):
        return {}, text, []
    strings = {name: _first(facts[name]) for name in _FACTS if facts.get(name)}
    return strings, text[match.end() :], [LeftOut(reason="front matter", text=" ".join(match[1].split()))]


def _first(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""


@cache
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt
    from mdit_py_plugins.footnote import footnote_plugin

    parser = MarkdownIt("commonmark", {"html": True, "maxNesting": _DEEPEST})
    parser.enable(["table", "strikethrough"]).use(footnote_plugin)
    rules = parser.renderer.rules  # type: ignore[attr-defined]
    rules["html_inline"] = rules["html_block"] = _html
    for name in ("em_open", "em_close", "strong_open", "strong_close"):
        rules[name] = _emphasis
    rules["link_open"], rules["link_close"] = _link_open, _link_close
    return parser


def _link_open(tokens: Any, place: int, *_: Any) -> str:
    """Render a link, or its source if the target cannot be one: `list[0](1)` is no link."""
    target, title = (str(tokens[place].attrs.get(name, "")) for name in ("href", "title"))
    return f'<a href="{html.escape(target)}" title="{html.escape(title)}">' if _ADDRESS.search(target) else "["


def _link_close(tokens: Any, place: int, *_: Any) -> str:
    opening = next(tokens[at] for at in range(place - 1, -1, -1) if tokens[at].type == "link_open")
    target = str(opening.attrs.get("href", ""))
    return "</a>" if _ADDRESS.search(target) else f"]({html.escape(target)})"


def _html(tokens: Any, place: int, _: Any, environment: dict[str, Any]) -> str:
    """Render raw HTML; tags that HTML does not define become text, and so do those that hide all that follows."""
    content = str(tokens[place].content)

    def is_closed(name: str) -> bool:
        if tokens[place].type == "html_inline":
            return any(f"</{name}" in str(token.content).lower() for token in tokens[place + 1 :])
        if name in _RAW:
            return f"</{name}" in content.lower()
        return name in environment["closed_tags"]

    def is_comparison(tag: str, name: str) -> bool:
        """Return whether what looks like a tag without an end follows a word directly, or has words and no values."""
        before = tokens[place - 1].content[-1:] if place else ""
        is_glued = before.isalnum() or _BARE_WORDS.fullmatch(tag) is not None
        return tokens[place].type == "html_inline" and name in _PAIRED and is_glued and not is_closed(name)

    def rendered(tag: re.Match[str]) -> str:
        name = (tag[1] or "").lower()
        if name in _WRAPPERS:
            return ""
        is_opening = not tag[0].startswith("</") and not tag[0].endswith("/>")
        is_word = name not in _HTML_TAGS or (name in _SWALLOWING and is_opening and not is_closed(name))
        is_word = is_word or (is_opening and is_comparison(tag[0], name))
        return html.escape(tag[0]) if name and is_word else tag[0]

    return _TAG.sub(rendered, content)


def _emphasis(tokens: Any, place: int, *_: Any) -> str:
    """Render emphasis as nothing, but keep the marks inside a word: `2*3*4` is a product."""
    token = tokens[place]
    outside = tokens[place - 1] if token.nesting > 0 and place else None
    if token.nesting < 0:
        outside = tokens[place + 1] if place + 1 < len(tokens) else None
        inside_word = outside is not None and outside.type == "text" and outside.content[:1].isalnum()
    else:
        inside_word = outside is not None and outside.type == "text" and outside.content[-1:].isalnum()
    return str(token.markup) if inside_word else ""
