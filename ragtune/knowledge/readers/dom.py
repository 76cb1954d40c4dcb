"""Turns an HTML tree into blocks; Markdown, reStructuredText and Word files come here as HTML, too.

The walk is driven by events instead of recursion, so that a page nested ten thousand levels deep is no problem.
Everything visible is kept, except for what `_FURNITURE` and `_FIELDS` list; what is left out is reported.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from lxml import etree, html

from ragtune.knowledge.blocks import Block
from ragtune.knowledge.readers.elements import HEADINGS, INLINE, is_inside, text_of, whole_number, words_of
from ragtune.knowledge.readers.html_tables import counts_lines, grid, is_layout, listing
from ragtune.knowledge.readers.marks import code_block, code_span, superscript, table_text, written_number
from ragtune.knowledge.readers.mathml import mathml_text
from ragtune.records import LeftOut

_FURNITURE = {"nav": "navigation", "button": "button"}
_FIELDS = {"select", "textarea", "datalist", "option", "optgroup", "input"}
# What a page shows in place of something else, or not at all.
_UNSEEN = {"noscript": "shown without scripts only", "template": "template"}
_UNSEEN |= dict.fromkeys(("audio", "canvas", "embed", "iframe", "map", "object", "video"), "shown in place of media")
_SILENT = {"script", "style", "head", "annotation", "annotation-xml", "link", "meta", "colgroup", "rp"}
_ROLES = {"navigation": "navigation", "search": "search box", "contentinfo": "page footer", "banner": "page header"}
_OWN_PARTS = ("main", "article", "section", "blockquote", "figure", "details", "dialog", "td")
"""Elements whose header, footer and side notes belong to the text."""
_CODE = {"code", "kbd", "samp", "tt"}
_LINES = {"pre", "listing", "xmp", "plaintext"}
_LINES_OF_CODE = frozenset({"div", "li", "p", "tr"})  # what some highlighters make of each line
_STRUCK = {"del", "s", "strike"}
_LIST_FORMS = {
    form: name
    for name, forms in (
        ("lowerLetter", ("a", "loweralpha")),
        ("upperLetter", ("A", "upperalpha")),
        ("lowerRoman", ("i", "lowerroman")),
        ("upperRoman", ("I", "upperroman")),
    )
    for form in forms
}
"""How a list counts, by HTML's attribute `type` or by the class that docutils writes."""
LIST_MARKS = {"list-mark-bracket": "{})", "list-mark-brackets": "({})"}
"""{class: what stands around the numbers of a list}, as readers of other formats write it."""
_BACK_ARROWS = frozenset("↑↩⤴︎↵^ ")
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden")
_PERMALINK = re.compile(r"\b(?:headerlink|anchor|hash-link|permalink)\b")
_WRAPPER = re.compile(rb"</?(?:div|section|span|font|center|b|i|em|strong|small|big)\b[^<>]*>", re.IGNORECASE)
_LITERAL = re.compile(r"\bliteral\b")
_CLASSIFIER = re.compile(r"\bclassifier\b")  # docutils' class of the kind that follows a term
_LABEL = re.compile(r"\badmonition-title\b")
# The class of a documented object's signature in Sphinx's pages. The signature is read as a heading of this level.
_SIGNATURE, _SIGNATURE_LEVEL = re.compile(r"\bsig\b"), 6
_DEEPEST_MARKS = 20  # lists and quotations nested deeper get no further marks or indentation; chosen by hand


@dataclass(slots=True)
class _Container:
    """Blocks in the making: of the page, a list item or a quotation."""

    tag: str
    blocks: list[Block] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    number: int = 0
    step: int = 1
    form: str = "decimal"
    mark: str = "{}."


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
            self._leave_out(reason, words_of(node))
            return False
        if tag in _SILENT:
            if tag == "script" and (node.get("type") or "").startswith("math/"):
                self._text(rf"\({text_of(node).strip()}\)")
            return False
        inside = self._start_inline(node, tag)
        return self._start_block(node, tag) if inside is None else inside

    def _start_inline(self, node: Any, tag: str) -> bool | None:
        """Open an element inside a line; return whether to walk into its content, None if it is none of these."""
        if tag == "br":
            self._inline.append("\n")
        elif tag == "img":
            # The picture itself may be megabytes of `data:`.
            source = "" if (node.get("src") or "").startswith("data:") else node.get("src") or ""
            self._leave_out("image", f"{node.get('alt') or ''} {node.get('title') or ''}")
            self._leave_out("link target", source)
        elif tag in _CODE or (tag == "span" and _LITERAL.search(node.get("class") or "")):
            self._inline.append(code_span(text_of(node, breaks=True)))
            return False
        elif tag in ("sup", "sub"):
            self._inline.append(self._raised_text(node, tag))
            return False
        elif tag == "math":
            self._inline.append(mathml_text(node))
            return False
        elif tag == "svg":
            self._drawing(node)
            return False
        elif tag == "rt":
            # The brackets are those of `<rp>`, for programs that set no small letters above others.
            self._inline.append(f"({words})" if (words := words_of(node)) else "")
            return False
        elif _is_verse(node):
            self._inline.append("\n")
        elif tag == "span" and _CLASSIFIER.search(node.get("class") or ""):
            self._inline.append(" : ")
        elif tag in _STRUCK:
            self._inline.append("~~")
        elif tag == "a":
            return self._link(node)
        else:
            return None
        return True

    def _start_block(self, node: Any, tag: str) -> bool:
        """Open an element that has lines of its own; return whether to walk into its content."""
        if tag in HEADINGS:
            self._flush()
            self._heading = HEADINGS[tag]
        elif tag == "dt" and _SIGNATURE.search(node.get("class") or ""):
            self._flush()
            self._heading = _SIGNATURE_LEVEL
        elif tag in _LINES:
            self._flush()
            self._code(node)
            return False
        elif tag == "table" and (code := listing(node)) is not None:
            self._flush()
            self._add("code", code_block(code[0], _language_of(next(node.iter("pre"), node))))
            self._leave_out("line numbers", code[1])
            return False
        elif tag == "table" and not is_layout(node):
            self._flush()
            self._table(node)
            return False
        elif tag in ("ul", "ol", "menu", "dir"):
            self._flush()
            self._open.append(_list_of(node))
        elif tag == "li":
            self._flush()
            self._open.append(_Container("li", number=whole_number(node.get("value"), -1)))
        elif tag == "blockquote":
            self._flush()
            self._open.append(_Container("quote"))
        elif node.get("role") == "doc-footnote" and tag in ("aside", "div"):
            self._flush()
            self._open.append(_Container("note"))
        elif (tag == "p" and _LABEL.search(node.get("class") or "")) or (tag == "dt" and _is_field(node)):
            self._flush()
            self._is_label = True
        elif tag not in INLINE:
            self._flush()
        return True

    def _end(self, node: Any) -> None:
        tag = node.tag
        if tag in HEADINGS or tag == "dt":
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
        elif tag not in INLINE and tag != "br" and not _is_verse(node):
            self._flush()

    def _reason_to_leave_out(self, node: Any) -> str:
        tag = node.tag
        if tag in _FIELDS:
            return "form field"
        role = _ROLES.get(node.get("role") or "")
        if tag in _FURNITURE or tag in _UNSEEN or role:
            return role or _FURNITURE.get(tag) or _UNSEEN[tag]
        if tag in ("header", "footer", "aside") and not is_inside(node, _OWN_PARTS):
            if tag == "header":
                return "" if next(node.iter("h1"), None) is not None else "page header"
            return "side column" if tag == "aside" else "page footer"
        return "hidden" if is_hidden(node) else ""

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
        link = next(node.iter("a"), next(node.iterancestors("a"), None))
        if link is not None and (link.get("href") or "").startswith("#"):
            return f"[^{words.strip('[]')}]" if words.strip("[]") else ""
        return superscript(words) if tag == "sup" else words

    def _code(self, node: Any) -> None:
        """Add the lines of a `<pre>`, without the numbers that count them and without buttons such as "Copy"."""
        parts: list[str] = []
        is_apart = False  # whether what follows stands on another line than what came before
        walk = etree.iterwalk(node, events=("start", "end", "comment", "pi"))
        for event, inner in walk:
            is_apart = is_apart or (inner is not node and inner.tag in _LINES_OF_CODE)
            if event != "start":
                text = (inner.tail or "") if inner is not node else ""
            elif inner.tag == "button" or (inner is not node and counts_lines(inner)):
                self._leave_out("button" if inner.tag == "button" else "line numbers", text_of(inner))
                walk.skip_subtree()
                continue
            else:
                # A second `<code>` is the same once more, in another language.
                is_another = inner.tag == "code" and inner.getparent() is node and any(part.strip() for part in parts)
                text = ("\n" if inner.tag == "br" or is_another else "") + (inner.text or "")
            if text and is_apart:
                is_apart = False
                text = text if not parts or parts[-1].endswith("\n") or text.startswith("\n") else f"\n{text}"
            parts += [text] if text else []
        self._add("code", code_block("".join(parts), _language_of(node)))

    def _drawing(self, drawing: Any) -> None:
        """Keep the words that a drawing shows; its title and description are those of a picture."""
        for part in drawing.iter("title", "desc"):
            self._leave_out("image", text_of(part))
        for part in drawing.iter("text", "foreignobject"):
            self._text(f" {words_of(part)} ")

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
        mark = f"{outer.mark.format(written_number(outer.number, outer.form))} " if outer.tag == "ol" else "- "
        outer.number += outer.step
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
        rows, head = grid(table, self._cell)
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
        outer = self._open[-1]
        if outer.tag in ("ul", "ol"):
            # Words, or another list, that stand between the items.
            outer.items += [f"  {line}" if kind == "list" else line for line in text.split("\n")]
            return
        label, self._label = self._label, ""
        if label and kind == "paragraph":
            text = label + text
        elif label:
            outer.blocks.append(Block("paragraph", label.strip(), page=self._page))
        outer.blocks.append(Block(kind, text, level, self._page))


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


def is_hidden(node: Any) -> bool:
    """Return whether a page never shows an element; one of several panels appears as soon as its tab is chosen."""
    if node.get("role") == "tabpanel":
        return False
    said = node.get("hidden") not in (None, "until-found") or node.get("aria-hidden") == "true"
    return said or _HIDDEN_STYLE.search(node.get("style") or "") is not None


def _is_verse(node: Any) -> bool:
    """Return whether an element is a line of a verse, or a verse in a verse, as docutils sets them."""
    return node.get("class") == "line" or (
        node.get("class") == "line-block" and bool(node.getparent().get("class") == "line-block")
    )


def _list_of(node: Any) -> _Container:
    """Return the container of a list, with the way it counts."""
    if node.tag != "ol":
        return _Container("ul")
    names = [node.get("type") or "", *(node.get("class") or "").split()]
    step = 1 if node.get("reversed") is None else -1
    return _Container(
        "ol",
        number=whole_number(node.get("start"), 1 if step > 0 else sum(1 for _ in node.iterchildren("li"))),
        step=step,
        form=next((_LIST_FORMS[name] for name in names if name in _LIST_FORMS), "decimal"),
        mark=next((LIST_MARKS[name] for name in names if name in LIST_MARKS), "{}."),
    )


def _tight(blocks: list[Block]) -> str:
    """Join the blocks of a list item: a list follows its paragraph directly, other blocks after a blank line."""
    text = ""
    for block in blocks:
        text += block.shown if not text else ("\n" if block.kind == "list" else "\n\n") + block.shown
    return text


def _is_field(term: Any) -> bool:
    """Return whether a `<dt>` names a field, such as a parameter, whose value follows."""
    return term.getparent() is not None and "field-list" in (term.getparent().get("class") or "")


def _language_of(pre: Any) -> str:
    if "literal-block" in (pre.get("class") or "") and pre.get("lang"):
        return str(pre.get("lang"))  # docutils
    for node in (pre, *pre.iterchildren("code"), *([pre.getparent()] if pre.getparent() is not None else [])):
        match = re.search(r"\b(?:language|lang|highlight|brush:)-?\s*([\w+#-]+)", node.get("class") or "")
        if match and match[1] not in ("default", "none", "text"):
            return match[1]
    return ""
