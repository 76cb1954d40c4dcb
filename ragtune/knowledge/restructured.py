"""Turns reStructuredText into Markdown, so that all later steps read one format.

Covers what documentation and docstrings use: headings, directives, roles, literal blocks, links and simple tables
(not grid tables). It is a reader for retrieval, not a renderer.
"""

import re
from itertools import pairwise

_LABELS = {
    "note": "Note",
    "warning": "Warning",
    "caution": "Caution",
    "danger": "Danger",
    "important": "Important",
    "tip": "Tip",
    "hint": "Hint",
    "attention": "Attention",
    "seealso": "See also",
    "deprecated": "Deprecated since",
    "versionadded": "New in version",
    "versionchanged": "Changed in version",
    "admonition": "Note",
    "rubric": "",
    "topic": "",
}
_CODE = {
    "code-block",
    "code",
    "sourcecode",
    "testcode",
    "parsed-literal",
    "literalinclude",
    "prompt",
    "jupyter-execute",
}
_NOTES = {"note", "warning", "caution", "danger", "important", "tip", "hint", "attention", "seealso"}
_DROPPED = {
    "image", "figure", "contents", "toctree", "include", "raw", "currentmodule", "module", "highlight", "index", "meta",
    "testsetup", "testcleanup", "only", "tabularcolumns", "sectionauthor", "default-role", "role", "graphviz", "plot",
}  # fmt: skip
_DIRECTIVE = re.compile(r"^(\s*)\.\. +(?:\|[^|]+\| +)?([\w:-]+)::\s*(.*)$")
_COMMENT = re.compile(r"^(\s*)\.\.(?:\s+(?!\[)(?!_\S).*)?$")
_TARGET = re.compile(r"^\s*\.\. +_[^:]*:.*$")
_ADORNMENT = re.compile(r"^([=\-~^\"'`#*+:.<>_])\1{2,}\s*$")
_TABLE_RULE = re.compile(r"^\s*=+(?:\s+=+)+\s*$")
_OPTION = re.compile(r"^\s*:[\w-]+:(?:\s.*)?$")
_ROLE = re.compile(r":(?:[\w+.-]+:)*[\w+.-]+:`([^`]+)`|`:py:[a-z]+:([\w.~!]+)`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]+>`__?(?!\w)")
_REFERENCE = re.compile(r"(?<![`\w])`([^`\n]+)`__?(?!\w)")

_NEW_LINE = re.compile(
    r"[A-Za-z_`][\w.`]*:\s+\S|\s*(?:[-*+•]\s|\d+[.)]\s|#{1,6}\s|\||>|[-*_=]{3,}\s*$|[A-Z]\w+(?: [A-Z]\w+){0,2} ?:\s*$)"
)
_PROSE_BEGINS = re.compile(r" {0,3}[A-Z\"'(“‘`]|\s*(?:[-*+•]|\d+[.)])\s")
_PROSE_WORDS = 5
_COLUMNS = re.compile(r"\S(?: {3,}|\t)\S")
_WRAP_WIDTH = 50
_NO_JOIN = re.compile(r"\s*(?:#{1,6}\s|\||```|~~~|[-*_=]{3,}\s*$|[A-Z]\w+(?: [A-Z]\w+){0,2} ?:\s*$)")


def inline_markdown(text: str) -> str:
    """Return the text with roles, double backticks and links written the Markdown way."""
    text = _ROLE.sub(_role_text, text)
    text = re.sub(r"``([^`]+?)``", r"`\1`", text)
    text = _LINK.sub(r"\1", text)
    text = _REFERENCE.sub(r"\1", text)
    return re.sub(r"\\([ *_|])", lambda match: "" if match[1] == " " else match[1], text)


def resolve_roles(text: str) -> str:
    """Return the text with ``:py:class:`X` `` and its like as plain code."""
    return _ROLE.sub(_role_text, text)


def _role_text(match: re.Match[str]) -> str:
    # A name may be broken over two lines behind a dot, and its role may stand inside the backticks.
    body = re.sub(r"(?<=[\w])\.\s*\n\s*(?=\w)", ".", match[1] or match[2]).strip()
    titled = re.match(r"(.+?)\s*<[^>]+>$", body, re.DOTALL)
    if titled:
        return titled[1]
    if body.startswith("~"):
        body = body[1:].rsplit(".", 1)[-1]
    body = body.strip("!~ ")
    return body if " " in body else f"`{body}`"


def to_markdown(text: str) -> str:
    """Return the whole text as Markdown."""
    return "\n".join(_Reader(text.expandtabs(8).splitlines()).read()).strip() + "\n"


class _Reader:
    """One pass over the lines; heading levels follow the order in which adornments appear."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = [line.rstrip() for line in lines]
        self.at = 0
        self.levels: list[str] = []
        self.out: list[str] = []

    def read(self) -> list[str]:
        """Return the Markdown lines."""
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if not (
                self._read_fence(line)
                or self._heading()
                or self._table()
                or self._directive(line)
                or self._doctest(line)
            ):
                self._plain(line)
        return self.out

    def _read_fence(self, line: str) -> bool:
        """Take a Markdown code fence as it stands: many docstrings mix the two."""
        match = re.match(r"\s*(```+|~~~+)", line)
        if not match:
            return False
        end = self.at + 1
        while end < len(self.lines) and not self.lines[end].lstrip().startswith(match[1]):
            end += 1
        self.out += self.lines[self.at : end + 1]
        if end >= len(self.lines):
            self.out.append(match[0])
        self.at = end + 1
        return True

    def _heading(self) -> bool:
        window = [*self.lines[self.at : self.at + 3], "", "", ""]
        over = bool(_ADORNMENT.match(window[0])) and bool(window[1].strip()) and window[2][:1] == window[0][:1]
        over = over and bool(_ADORNMENT.match(window[2]))
        title = (window[1] if over else window[0]).strip()
        rule = window[0] if over else window[1]
        if not over and (not title or window[0][:1].isspace() or not _ADORNMENT.match(rule)):
            return False
        if _ADORNMENT.match(title) or (not over and len(rule.rstrip()) < min(len(title), 4)):
            return False
        style = rule[0] * (2 if over else 1)
        if style not in self.levels:
            self.levels.append(style)
        self.out += ["", f"{'#' * min(self.levels.index(style) + 1, 6)} {inline_markdown(title)}", ""]
        self.at += 3 if over else 2
        return True

    def _table(self) -> bool:
        if not _TABLE_RULE.match(self.lines[self.at]):
            return False
        edges = [(match.start(), match.end()) for match in re.finditer(r"=+", self.lines[self.at])]
        starts = [start for start, _ in edges]
        rows: list[list[str]] = []
        header, at = 0, self.at + 1
        while at < len(self.lines):
            line = self.lines[at]
            if _TABLE_RULE.match(line):
                if header or not (at + 1 < len(self.lines) and self.lines[at + 1].strip()):
                    break
                header = len(rows)
            elif line.strip():
                ends = [*starts[1:], max(len(line), starts[-1] + 1)]
                cells = [inline_markdown(line[a:b].strip()) for a, b in zip(starts, ends, strict=True)]
                if not cells[0] and rows:
                    rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
                else:
                    rows.append(cells)
            at += 1
        else:
            return False
        if not header:
            rows.insert(0, [""] * len(starts))
        self.out += ["", _row(rows[0]), _row(["---"] * len(starts)), *[_row(row) for row in rows[1:]], ""]
        self.at = at + 1
        return True

    def _directive(self, line: str) -> bool:
        if _TARGET.match(line):
            self.at += 1
            return True
        match = _DIRECTIVE.match(line)
        if not match:
            comment = _COMMENT.match(line)
            if comment:
                self.at += 1
                self._block(len(comment[1]))
            return bool(comment)
        indent, name, rest = len(match[1]), match[2].lower().split(":")[-1], match[3].strip()
        self.at += 1
        body = self._block(indent)
        while body and _OPTION.match(body[0]):
            body.pop(0)
        body = _dedent(body)
        pad = " " * indent
        if name in _CODE:
            self._fence(pad, rest if re.fullmatch(r"[\w+-]*", rest) else "", body)
        elif name == "math":
            self._fence(pad, "math", [rest, *body] if rest else body)
        elif name not in _DROPPED:
            label = _LABELS.get(name, "")
            if name in _NOTES:
                body, rest = [rest, *body], ""
            inner = _Reader(body).read()
            head = " ".join(part for part in (label, inline_markdown(rest)) if part)
            if head and name not in ("rubric", "topic"):
                head += ":" if any(part.strip() for part in inner) else "."
            first = inner[0].strip() if inner else ""
            if head and first and not first.startswith(("```", "|", "-", "*")):
                inner = [f"{head} {first}", *inner[1:]]
                head = ""
            self.out += ["", *([pad + head] if head else []), *[pad + part if part else "" for part in inner], ""]
        return True

    def _doctest(self, line: str) -> bool:
        if not line.lstrip().startswith(">>> "):
            return False
        pad = " " * (len(line) - len(line.lstrip()))
        body = []
        while self.at < len(self.lines) and self.lines[self.at].strip():
            body.append(self.lines[self.at][len(pad) :])
            self.at += 1
        self._fence(pad, "pycon", body)
        return True

    def _plain(self, line: str) -> None:
        self.at += 1
        literal = line.endswith("::")
        if literal:
            line = line[:-1] if not line.endswith(" ::") and line.strip() != "::" else line[:-2].rstrip()
        if line.strip() or not literal:
            self.out.append(inline_markdown(line))
        if literal:
            indent = len(line) - len(line.lstrip()) if line.strip() else 0
            body = self._block(indent)
            if body:
                self._fence(" " * indent, "", _dedent(body))

    def _fence(self, pad: str, language: str, body: list[str]) -> None:
        if any(line.strip() for line in body):
            self.out += ["", f"{pad}```{language}", *[pad + line if line else "" for line in body], f"{pad}```", ""]

    def _block(self, indent: int) -> list[str]:
        """Take the lines that are indented deeper than `indent`, without blank edges."""
        start = self.at
        end = start
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.strip():
                if len(line) - len(line.lstrip()) <= indent:
                    break
                end = self.at + 1
            self.at += 1
        self.at = max(end, start)
        block = self.lines[start:end]
        while block and not block[0].strip():
            block.pop(0)
        return block


def unwrap(text: str) -> str:
    """Return Markdown with each paragraph and list item on one line; code, tables and headings stay."""
    out: list[str] = []
    fence = ""
    block = False
    for line in text.splitlines():
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
            out.append(line)
            continue
        before = out[-1] if out else ""
        # An indented block after a blank line is code or a nested paragraph; it keeps its lines.
        indented = line.startswith("    ")
        block = indented and (block or not before.strip())
        starts = not line.strip() or _NEW_LINE.match(line) or block
        if fence or starts or not before.strip() or _NO_JOIN.match(before) or before.endswith(("  ", "\\")):
            out.append(line)
        else:
            out[-1] = f"{before.rstrip()} {line.strip()}"
    return "\n".join(out)


def unwrap_plain_text(text: str) -> str:
    """Return plain text with each wrapped paragraph on one line; lists, verses, logs, tables and code stay.

    A paragraph counts as wrapped if it begins like prose, if no line has room for the first word of the next one,
    and if some line begins in the middle of a sentence. A line has room up to the width of the paragraph's longest
    line; for a paragraph of two lines, up to the width of the longest lines of the document.
    """
    paragraphs: list[list[str]] = []
    before = ""
    for line in map(str.rstrip, text.splitlines()):
        if not before or not line or _NEW_LINE.match(line):
            paragraphs.append([])
        paragraphs[-1].append(line)
        before = line
    lengths = sorted(len(line) for lines in paragraphs for line in lines if len(line.split()) >= _PROSE_WORDS)
    width = lengths[int(len(lengths) * 0.95)] if lengths else 0
    return "\n".join(
        " ".join([lines[0], *(line.strip() for line in lines[1:])]) if _is_wrapped(lines, width) else "\n".join(lines)
        for lines in paragraphs
    )


def _is_wrapped(lines: list[str], width: int) -> bool:
    first = lines[0]
    if width < _WRAP_WIDTH or len(first.split()) < _PROSE_WORDS or first.isupper() or not _PROSE_BEGINS.match(first):
        return False
    if any(_COLUMNS.search(line) for line in lines) or any(line.endswith((":", ";", "\\", "{")) for line in lines[:-1]):
        return False
    if len(lines) > 2:
        width = max(map(len, lines))
    full = all(len(line) + 1 + len(after.split()[0]) > width for line, after in pairwise(lines))
    return full and any(line.lstrip()[:1].islower() for line in lines[1:])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _dedent(lines: list[str]) -> list[str]:
    margins = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    margin = min(margins, default=0)
    result = [line[margin:] for line in lines]
    while result and not result[0].strip():
        result.pop(0)
    return result
