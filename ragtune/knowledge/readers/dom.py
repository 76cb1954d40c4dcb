"""Turns an HTML tree into blocks; Markdown, reStructuredText and Word files come here as HTML, too.

The walk is driven by events instead of recursion, so that a page nested ten thousand levels deep is no problem.
Everything visible is kept, except for what `_FURNITURE` and `_FIELDS` list; what is left out is reported.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lxml import etree, html

from ragtune.knowledge.blocks import Block
from ragtune.records import LeftOut

_FURNITURE = {"nav": "navigation", "footer": "page footer", "button": "button"}
_FIELDS = {"input", "select", "textarea", "datalist", "option", "optgroup"}
_SILENT = {"script", "style", "template", "noscript", "svg", "head", "canvas", "object", "embed", "iframe", "audio"}
_SILENT |= {"video", "map", "annotation", "annotation-xml", "link", "meta", "colgroup", "rp"}
_ROLES = {"navigation": "navigation", "search": "search box", "contentinfo": "page footer", "banner": "page header"}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CODE = {"code", "kbd", "samp", "tt"}
_STRUCK = {"del", "s", "strike"}
_INLINE = {"a", "abbr", "b", "bdi", "bdo", "big", "cite", "data", "dfn", "em", "font", "i", "ins", "label", "mark"}
_INLINE |= {
    "input",
    "meter",
    "output",
    "progress",
    "q",
    "ruby",
    "rt",
    "small",
    "span",
    "strong",
    "time",
    "u",
    "var",
    "wbr",
}
_INLINE |= {"math", "mi", "mn", "mo", "mrow", "msup", "msub", "mfrac", "semantics", "nobr", "acronym", "blink"}
_BACK_ARROWS = frozenset("↑↩⤴︎↵^ ")
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden")
_PERMALINK = re.compile(r"\b(?:headerlink|anchor|hash-link|permalink)\b")
_WRAPPER = re.compile(rb"</?(?:div|section|span|font|center|b|i|em|strong|small|big)\b[^<>]*>", re.IGNORECASE)
_LITERAL = re.compile(r"\bliteral\b")
_LABEL = re.compile(r"\badmonition-title\b")
_POWER = re.compile(r"[+−–-]?\d[\d.,]*|[a-z]|[+−–-]?\d*[a-z]")
# The class of a documented object's signature in Sphinx's pages. The signature is read as a heading of this level.
_SIGNATURE, _SIGNATURE_LEVEL = re.compile(r"\bsig\b"), 6
_MOST_COLUMNS = 1_000  # what `colspan` and `rowspan` may ask for; browsers stop at the same number
# Both bound what a small page can grow to; chosen by hand, ten times what the largest tables of manuals need.
_MOST_REPEATED = 300_000  # characters that the merged cells of one table repeat
_MOST_PADDED = 1_000_000  # cells of a table whose short rows are filled up
_DEEPEST_MARKS = 20  # lists and quotations nested deeper get no further marks or indentation; chosen by hand


@dataclass(slots=True)
class _Container:
    """Blocks in the making: of the page, a list item or a quotation."""

    tag: str
    blocks: list[Block] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    number: int = 0


class DomReader:
    """Walks one HTML tree; afterwards `blocks` and `left_out` hold the result."""

    def __init__(self, page: int = 0) -> None:
        self.left_out: list[LeftOut] = []
        self._page = page
        self._open: list[_Container] = [_Container("page")]
        self._inline: list[str] = []
        self._heading = 0
        self._is_label = False
        self._label = ""

    @property
    def blocks(self) -> list[Block]:
        """The blocks of the page, in reading order."""
        return self._open[0].blocks

    def read(self, root: Any) -> list[Block]:
        """Return the blocks of an element and of all below it, without the text that follows the element."""
        walk = etree.iterwalk(root, events=("start", "end", "comment", "pi"))
        for event, node in walk:
            if event == "start":
                if not self._start(node):
                    walk.skip_subtree()
                elif node.text:
                    self._text(node.text)
            elif event == "end":
                self._end(node)
            elif event == "comment":
                self._leave_out("comment", node.text or "")
            if event != "start" and node is not root and node.tail:
                self._text(node.tail)
        self._flush()
        return self.blocks

    def _start(self, node: Any) -> bool:
        """Open an element; return whether to walk into its content."""
        tag = node.tag
        if tag == "input" and node.get("type") == "checkbox":
            self._inline.append("[ ] " if node.get("checked") is None else "[x] ")
            return False
        if reason := self._reason_to_leave_out(node):
            self._leave_out(reason, text_of(node))
            return False
        if tag in _SILENT:
            return False
        if tag in _HEADINGS:
            self._flush()
            self._heading = _HEADINGS[tag]
        elif tag == "dt" and _SIGNATURE.search(node.get("class") or ""):
            self._flush()
            self._heading = _SIGNATURE_LEVEL
        elif tag == "br":
            self._inline.append("\n")
        elif tag == "img":
            # The picture itself may be megabytes of `data:`.
            source = "" if (node.get("src") or "").startswith("data:") else node.get("src") or ""
            self._leave_out("image", f"{node.get('alt') or ''} {node.get('title') or ''}")
            self._leave_out("link target", source)
        elif tag in _CODE or (tag == "span" and _LITERAL.search(node.get("class") or "")):
            self._inline.append(code_span(text_of(node)))
            return False
        elif tag in ("sup", "sub"):
            self._inline.append(self._raised_text(node, tag))
            return False
        elif tag in _STRUCK:
            self._inline.append("~~")
        elif tag == "a":
            return self._link(node)
        elif tag == "pre":
            self._flush()
            self._add("code", code_block(text_of(node, breaks=True), _language_of(node)))
            return False
        elif tag == "table" and not _is_layout(node):
            self._flush()
            self._table(node)
            return False
        elif tag in ("ul", "ol", "menu", "dir"):
            self._flush()
            self._open.append(_Container("ol" if tag == "ol" else "ul", number=_whole(node.get("start"), 1)))
        elif tag == "li":
            self._flush()
            self._open.append(_Container("li", number=_whole(node.get("value"), -1)))
        elif tag == "blockquote":
            self._flush()
            self._open.append(_Container("quote"))
        elif node.get("role") == "doc-footnote" and tag in ("aside", "div"):
            self._flush()
            self._open.append(_Container("note"))
        elif (tag == "p" and _LABEL.search(node.get("class") or "")) or (tag == "dt" and _is_field(node)):
            self._flush()
            self._is_label = True
        elif tag not in _INLINE:
            self._flush()
        return True

    def _end(self, node: Any) -> None:
        tag = node.tag
        if tag in _HEADINGS or tag == "dt":
            self._flush()
            self._heading = 0
        elif tag in _STRUCK:
            self._inline.append("~~")
        elif tag == "li" and self._open[-1].tag == "li":
            self._flush()
            self._close_item(node.get("id") or "")
        elif tag in ("ul", "ol", "menu", "dir") and self._open[-1].tag in ("ul", "ol"):
            self._flush()
            finished = self._open.pop()
            self._add("list", "\n".join(finished.items))
        elif tag == "blockquote" and self._open[-1].tag == "quote":
            self._flush()
            quoted = self._open.pop().blocks
            if len(self._open) > _DEEPEST_MARKS:
                self._open[-1].blocks.extend(quoted)
                return
            inner = "\n\n".join(block.shown for block in quoted)
            self._add("quote", "\n".join(f"> {line}".rstrip() for line in inner.split("\n")) if inner.strip() else "")
        elif node.get("role") == "doc-footnote" and self._open[-1].tag == "note":
            self._flush()
            self._note("\n\n".join(block.shown for block in self._open.pop().blocks))
        elif tag not in _INLINE and tag not in _CODE and tag not in ("sup", "sub", "br", "img"):
            self._flush()

    def _reason_to_leave_out(self, node: Any) -> str:
        tag = node.tag
        if tag in _FIELDS:
            return "form field"
        role = _ROLES.get(node.get("role") or "")
        if tag in _FURNITURE or role:
            return role or _FURNITURE[tag]
        if tag == "header" and not _inside(node, ("main", "article", "section")):
            return "" if next(node.iter("h1"), None) is not None else "page header"
        if tag == "aside" and not _inside(node, ("main", "article", "section")):
            return "side column"
        if node.get("hidden") is not None or node.get("aria-hidden") == "true":
            return "hidden"
        if _HIDDEN_STYLE.search(node.get("style") or ""):
            return "hidden"
        return ""

    def _leave_out(self, reason: str, text: str) -> None:
        text = " ".join(text.split())
        if text:
            self.left_out.append(LeftOut(reason=reason, text=text))

    def _link(self, node: Any) -> bool:
        """Keep a link's words and leave its target out; drop permalinks and the arrows behind footnotes."""
        target, words = node.get("href") or "", text_of(node).strip()
        if _PERMALINK.search(node.get("class") or "") and len(words) <= 1:
            return False
        if target.startswith("#") and words and not set(words) - _BACK_ARROWS:
            return False
        if node.get("role") == "doc-noteref" and words.strip("[]"):
            self._inline.append(f"[^{words.strip('[]')}]")
            return False
        if target and target.strip() != words:
            self._leave_out("link target", target)
        self._leave_out("link title", node.get("title") or "")
        return True

    def _raised_text(self, node: Any, tag: str) -> str:
        """Return superscript as `^6`, ordinals and subscript as plain text, a footnote's mark as `[^1]`."""
        words = " ".join(text_of(node).split())
        link = next(node.iter("a"), None)
        if link is not None and (link.get("href") or "").startswith("#"):
            return f"[^{words.strip('[]')}]" if words.strip("[]") else ""
        if tag == "sup" and _POWER.fullmatch(words):
            return f"^{words}"
        return words

    def _close_item(self, name: str) -> None:
        item = self._open.pop()
        note = re.fullmatch(r"(?:foot|end)?-?(?:foot|end)?note-?(\w+)|fn-?(\w+)", name)
        texts = [block.shown for block in item.blocks]
        outer = self._open[-1]
        if note and texts:
            self._note("\n\n".join(texts))
            return
        if outer.tag not in ("ul", "ol"):
            # An item without a list around it: its blocks stand for themselves.
            outer.blocks.extend(item.blocks)
            return
        if item.number >= 0 and outer.tag == "ol":
            outer.number = item.number
        mark = f"{outer.number}. " if outer.tag == "ol" else "- "
        outer.number += 1
        if texts and len(self._open) > _DEEPEST_MARKS:
            outer.items.append(mark + _tight(item.blocks))
        elif texts:
            indent = " " * len(mark)
            lines = _tight(item.blocks).split("\n")
            outer.items.append("\n".join([mark + lines[0], *(indent + line if line else "" for line in lines[1:])]))

    def _note(self, text: str) -> None:
        """Add a footnote under the name that its text begins with, else under the next number."""
        page = self._open[0]
        named = re.match(r"\[\^?([\w*#]+)\]\s*", text)
        name = named[1] if named else str(1 + sum(block.kind == "note" for block in page.blocks))
        page.blocks.append(Block("note", f"[^{name}]: {text[named.end() if named else 0 :]}", page=self._page))

    def _table(self, table: Any) -> None:
        caption = next(table.iterchildren("caption"), None)
        if caption is not None:
            self._add("paragraph", " ".join(text_of(caption).split()))
        for part in (table, *table.iter("thead", "tbody", "tfoot", "tr")):
            # Words between the cells are moved in front of the table, as browsers do it.
            loose = [part.text, *(child.tail for child in part)]
            self._add("paragraph", " ".join(" ".join(words or "" for words in loose).split()))
        rows, head = _grid(table, self._cell)
        self._add("table", table_text(rows, head))

    def _cell(self, cell: Any) -> str:
        inner = DomReader(self._page)
        blocks = inner.read(cell)
        self.left_out += inner.left_out
        texts = [block.text.replace("```", "").strip() if block.kind == "code" else block.text for block in blocks]
        return " ".join(" ".join(texts).split())

    def _text(self, text: str) -> None:
        self._inline.append(re.sub(r"[ \t\r\n\f]+", " ", text))

    def _flush(self) -> None:
        """End the paragraph or heading that is being written."""
        lines = [" ".join(line.split(" ")).strip() for line in re.sub(r" +", " ", "".join(self._inline)).split("\n")]
        self._inline = []
        text = "\n".join(line for line in lines if line)
        is_label, self._is_label = self._is_label, False
        if not text.replace("~", ""):
            return
        if is_label:
            self._label = text.rstrip(":") + ": "
        elif self._heading and len(self._open) == 1:
            self._add("heading", " ".join(text.split()), self._heading)
        else:
            self._add("paragraph", text)

    def _add(self, kind: Any, text: str, level: int = 0) -> None:
        if not text.strip():
            return
        label, self._label = self._label, ""
        if label and kind == "paragraph":
            text = label + text
        elif label:
            self._open[-1].blocks.append(Block("paragraph", label.strip(), page=self._page))
        self._open[-1].blocks.append(Block(kind, text, level, self._page))


def parse_fragment(page: str) -> Any:
    """Return a `main` element that holds the HTML fragment; broken markup is repaired as browsers do it."""
    return parse_page(f"<main>{page}</main>").find("body/main")


def parse_page(page: str) -> Any:
    """Return the `html` element of a page; tags that only wrap are removed if it is nested too deep for libxml2."""
    raw = page.replace("\0", "").encode("utf-8", "replace")
    # huge_tree lifts libxml2's limits on depth (from 256 to 2,048) and on length of text (10 MB).
    parser = html.HTMLParser(huge_tree=True, encoding="utf-8")
    root = html.document_fromstring(raw, parser=parser)
    if any("depth" in error.message for error in parser.error_log):
        return html.document_fromstring(
            _WRAPPER.sub(b"\n", raw), parser=html.HTMLParser(huge_tree=True, encoding="utf-8")
        )
    return root


def text_of(node: Any, breaks: bool = False) -> str:
    """Return the text of an element without comments; with `breaks` a `<br>` is a line end."""
    parts: list[str] = []
    for event, inner in etree.iterwalk(node, events=("start", "end", "comment", "pi")):
        if event == "start":
            if breaks and inner.tag == "br":
                parts.append("\n")
            parts.append(inner.text or "")
        elif inner is not node:
            parts.append(inner.tail or "")
    return "".join(parts)


def code_span(text: str) -> str:
    """Return the text as a Markdown code span; the fence is longer than any run of backticks in it."""
    text = " ".join(text.split())
    if not text:
        return ""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def code_block(text: str, language: str = "") -> str:
    """Return the lines as a fenced Markdown code block."""
    text = text.strip("\n").rstrip()
    if not text.strip():
        return ""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table_text(rows: list[list[str]], head: bool = True) -> str:
    """Return a Markdown table; without `head` the first row of cells is empty.

    Rows shorter than the longest are filled up with empty cells, unless the table would grow out of bounds; `|` in a
    cell is escaped.
    """
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return ""
    width = max(map(len, rows))
    filled = width if width * len(rows) <= _MOST_PADDED else 0
    grid = [[cell.replace("|", "\\|") for cell in row] + [""] * (filled - len(row)) for row in rows]
    if not head:
        grid.insert(0, [""] * width)
    grid.insert(1, ["---"] * width)
    return "\n".join(f"| {' | '.join(row)} |" for row in grid)


def _grid(table: Any, read_cell: Any) -> tuple[list[list[str]], bool]:
    """Return the cells of a table with merged ones filled in, and whether the first row names the columns."""
    rows: list[list[str]] = []
    below: dict[int, tuple[int, str]] = {}
    head, repeated = False, 0
    for number, cells in enumerate(_rows(table)):
        if number == 0 and cells:
            head = _inside(cells[0], ("thead",)) or all(cell.tag == "th" for cell in cells)
        if repeated > _MOST_REPEATED:
            below.clear()
        line: list[str] = []
        waiting = iter(cells)
        while True:
            if len(line) in below:
                left, text = below.pop(len(line))
                if left > 1:
                    below[len(line)] = (left - 1, text)
                line.append(text)
                repeated += len(text) + 1
                continue
            cell = next(waiting, None)
            if cell is None:
                break
            text = read_cell(cell)
            wide = repeated <= _MOST_REPEATED
            for _ in range(max(min(_whole(cell.get("colspan"), 1), _MOST_COLUMNS), 1) if wide else 1):
                if (height := min(_whole(cell.get("rowspan"), 1), _MOST_COLUMNS)) > 1:
                    below[len(line)] = (height - 1, text)
                line.append(text)
                repeated += len(text) + 1
                if repeated > _MOST_REPEATED:
                    break
        rows.append(line)
    return rows, head


def _rows(part: Any) -> Iterator[list[Any]]:
    """Yield the cells of each row; cells that stand outside a row form one, as in browsers."""
    loose: list[Any] = []
    for child in part:
        if child.tag in ("td", "th"):
            loose.append(child)
            continue
        if loose and child.tag in ("tr", "thead", "tbody", "tfoot"):
            yield loose
            loose = []
        if child.tag == "tr":
            yield [cell for cell in child if cell.tag in ("td", "th")]
        elif child.tag in ("thead", "tbody", "tfoot"):
            yield from _rows(child)
    if loose:
        yield loose


def _is_layout(table: Any) -> bool:
    """Return whether a table only arranges a page: it holds tables or headings, or says so."""
    if table.get("role") in ("presentation", "none"):
        return True
    return any(inner is not table for inner in table.iter("table", *_HEADINGS))


def _tight(blocks: list[Block]) -> str:
    """Join the blocks of a list item: a list follows its paragraph directly, other blocks after a blank line."""
    text = ""
    for block in blocks:
        text += block.shown if not text else ("\n" if block.kind == "list" else "\n\n") + block.shown
    return text


def _is_field(term: Any) -> bool:
    """Return whether a `<dt>` names a field, such as a parameter, whose value follows."""
    return term.getparent() is not None and "field-list" in (term.getparent().get("class") or "")


def _inside(node: Any, tags: tuple[str, ...]) -> bool:
    return next(node.iterancestors(*tags), None) is not None


def _language_of(pre: Any) -> str:
    if "literal-block" in (pre.get("class") or "") and pre.get("lang"):
        return str(pre.get("lang"))  # docutils
    for node in (pre, *pre.iterchildren("code"), *([pre.getparent()] if pre.getparent() is not None else [])):
        match = re.search(r"\b(?:language|lang|highlight|brush:)-?\s*([\w+#-]+)", node.get("class") or "")
        if match and match[1] not in ("default", "none", "text"):
            return match[1]
    return ""


def _whole(text: str | None, default: int) -> int:
    try:
        return int(text or default)
    except ValueError:
        return default
