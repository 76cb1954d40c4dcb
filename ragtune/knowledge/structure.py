"""Parses Markdown and API pages into sections and blocks, and cuts blocks that are too long.

A block is a paragraph, list, table or piece of code. It is cut at the widest joint that it has: between list items,
table rows, lines of code, sentences or words.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ragtune.records import BlockSpan
from ragtune.text.segments import joint, segment
from ragtune.text.sentences import sentence_spans

CountTokens = Callable[[Sequence[str]], list[int]]
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*\s*$")
_FENCE = re.compile(r"^\s*(```+|~~~+)")
_ITEM = re.compile(r"^(\s*)(?:[-*+•]|\d+[.)])\s+")
# In what is known to be a list, letters and Roman numbers count too. Elsewhere `A. Smith` is a person.
_LIST_ITEM = re.compile(r"^(\s*)(?:[-*+•]|\(?(?:\d+|[A-Za-z]|[ivxlcdm]+|[IVXLCDM]+)[.)])\s+")
_BAR = re.compile(r"(?<!\\)\|")
_LABEL = re.compile(r"^(Parameters|Attributes|Values|Returns|Yields|Raises|Examples|Methods|Bases):(?:\s|$)")


@dataclass(slots=True)
class Block:
    """A piece of text that stays whole if it fits; `tight` joins it to the one before by one line end.

    `opens` makes the block begin a new passage (it continues a paragraph that was cut). `start` is where it begins
    in the document's text, -1 if that is not known; `page` is 0 if the format has no pages.
    """

    text: str
    kind: str = "paragraph"
    tight: bool = False
    opens: bool = False
    start: int = -1
    page: int = 0


@dataclass(slots=True)
class Section:
    """A heading with its own blocks and its subsections; the root has level 0.

    `label` marks a part of an API page, whose heading is the first line of its text.
    """

    heading: str
    level: int
    blocks: list[Block] = field(default_factory=list)
    children: list["Section"] = field(default_factory=list)
    label: bool = False
    start: int = -1
    page: int = 0

    def all_blocks(self) -> list[Block]:
        """Return the blocks of this section and of all its subsections, headings as lines."""
        blocks = list(self.blocks)
        for child in self.children:
            if not child.label:
                blocks.append(child.heading_block())
            blocks += child.all_blocks()
        return blocks

    def heading_block(self) -> Block:
        """Return the heading as a line of text."""
        return Block(f"{'#' * min(self.level, 6)} {self.heading}", "heading", start=self.start, page=self.page)

    def all_headings(self) -> Iterator[str]:
        """Yield every heading below this section."""
        for child in self.children:
            yield child.heading
            yield from child.all_headings()


def parse(text: str, *, api: bool = False) -> Section:
    """Return the section tree of Markdown text; labelled parts of an API page are its sections."""
    root = Section("", 0)
    trail = [root]
    for kind, lines in _groups(text.splitlines()):
        joined = "\n".join(lines).rstrip()
        heading = _HEADING.match(joined) if kind == "heading" else None
        if heading:
            level = len(heading[1])
            while trail[-1].level >= level:
                trail.pop()
            section = Section(re.sub(r"(?<!\w)[`*_]{1,2}(\S.*?\S|\S)[`*_]{1,2}(?!\w)", r"\1", heading[2]), level)
            trail[-1].children.append(section)
            trail.append(section)
            continue
        label = _LABEL.match(joined) if api and kind != "code" else None
        if label:
            while trail[-1].level >= 1:
                trail.pop()
            section = Section(label[1], 1, label=True)
            root.children.append(section)
            trail.append(section)
        trail[-1].blocks.append(Block(joined, kind))
    return root


def section_tree(text: str, spans: Sequence[BlockSpan]) -> Section:
    """Return the section tree of a document whose blocks are known."""
    root = Section("", 0)
    trail = [root]
    for span in spans:
        block_text = text[span.start : span.end]
        if span.kind != "heading":
            trail[-1].blocks.append(Block(block_text, span.kind, start=span.start, page=span.page))
            continue
        while trail[-1].level >= span.level:
            trail.pop()
        heading = re.sub(r"`+", "", block_text[span.level :]).strip()
        section = Section(heading, span.level, start=span.start, page=span.page)
        trail[-1].children.append(section)
        trail.append(section)
    return root


def _groups(lines: list[str], item: re.Pattern[str] = _ITEM) -> Iterator[tuple[str, list[str]]]:
    """Yield runs of lines that belong together, with their kind; `item` matches the beginning of a list item."""
    at = 0
    while at < len(lines):
        line = lines[at]
        if not line.strip():
            at += 1
            continue
        end = at + 1
        fence = _FENCE.match(line)
        if fence:
            kind = "code"
            while end < len(lines) and not lines[end].strip().startswith(fence[1]):
                end += 1
            end = min(end + 1, len(lines))
        elif _HEADING.match(line):
            kind = "heading"
        elif line.lstrip().startswith("|"):
            kind = "table"
            while end < len(lines) and lines[end].lstrip().startswith("|"):
                end += 1
        else:
            kind = "list" if item.match(line) else "paragraph"
            end = _text_end(lines, at, kind, item)
            if kind == "paragraph" and any(item.match(part) for part in lines[at + 1 : end]):
                kind = "list"
        if end == at + 2 and kind == "paragraph" and re.fullmatch(r"=+|-{3,}", lines[at + 1].strip()):
            yield "heading", [("# " if lines[at + 1].strip()[0] == "=" else "## ") + line.strip()]
        elif not re.fullmatch(r"\s*(?:[-*_]\s*){3,}", line) or kind != "list":
            yield kind, lines[at:end]
        at = end


def _text_end(lines: list[str], at: int, kind: str, item: re.Pattern[str]) -> int:
    """Return the line at which a paragraph or list ends; a list goes on over blank lines and into indented code."""
    end = at + 1
    while end < len(lines):
        line = lines[end]
        if not line.strip():
            following = next((part for part in lines[end:] if part.strip()), "")
            goes_on = following.startswith("  ") and (kind == "list" or item.match(lines[end - 1]) is not None)
            if not (goes_on or (kind == "list" and item.match(following))):
                return end
        elif _HEADING.match(line) or (line.lstrip().startswith("|") and kind != "list"):
            return end
        elif (fence := _FENCE.match(line)) is not None:
            if not line.startswith(" ") or kind != "list":
                return end
            end += 1
            while end < len(lines) and not lines[end].strip().startswith(fence[1]):
                end += 1
        elif item.match(line) and kind == "paragraph" and not line.startswith(" "):
            kind = "list"
        end += 1
    return end


def pieces(block: Block, budget: int, overlap: int, count: CountTokens) -> list[Block]:
    """Return the block cut into blocks of at most `budget` tokens, at its widest joints.

    Table pieces repeat the header, code pieces the fence; only cut paragraphs overlap, by up
    to `overlap` tokens of whole sentences.
    """
    if block.kind == "table":
        return _table_pieces(block, budget, overlap, count)
    if block.kind == "code":
        return _code_pieces(block, budget, count)
    if block.kind == "list":
        return _list_pieces(block, budget, overlap, count)
    lines = block.text.split("\n")
    if len(lines) > 1 and (block.start >= 0 or all(line.startswith((">", "    ")) for line in lines)):
        # Quotes, indented code, and the lines that a reader kept: every line counts.
        split = [part for line in lines for part in _whole_or_words(line, budget, count)]
        runs = _runs(split, count(split), budget)
        return [Block("\n".join(run), opens=index > 0) for index, run in enumerate(runs)]
    return _paragraph_pieces(block, budget, overlap, count)


def _whole_or_words(line: str, budget: int, count: CountTokens) -> list[str]:
    return [line] if count([line])[0] <= budget else _by_words(line, budget, count)


def _list_pieces(block: Block, budget: int, overlap: int, count: CountTokens) -> list[Block]:
    items = _items(block.text)
    if len(items) == 1:
        parts = _groups_of(items[0])
        if len(parts) > 1:
            return [piece for part in parts for piece in _fit(part, budget, overlap, count)]
        return _paragraph_pieces(Block(" ".join(block.text.split())), budget, overlap, count)
    cut_blocks: list[Block] = []
    for index, (item, size) in enumerate(zip(items, count(items), strict=True)):
        if size <= budget:
            cut_blocks.append(Block(item, "list", tight=index > 0))
        elif (parts := _groups_of(item)) and len(parts) > 1:
            cut_blocks += [piece for part in parts for piece in _fit(part, budget, overlap, count)]
        else:
            cut_blocks += _paragraph_pieces(Block(item), budget, overlap, count)
    return cut_blocks


def _fit(block: Block, budget: int, overlap: int, count: CountTokens) -> list[Block]:
    return [block] if count([block.text])[0] <= budget else pieces(block, budget, overlap, count)


def _groups_of(item: str) -> list[Block]:
    """Return the blocks inside a long list item: its text, nested lists, code."""
    lines = item.split("\n")
    end = 1
    while end < len(lines) and lines[end].strip() and not (_LIST_ITEM.match(lines[end]) or _FENCE.match(lines[end])):
        end += 1
    rest = lines[end:]
    margin = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
    rest = [line[margin:] for line in rest]
    inner = [Block("\n".join(group).rstrip(), kind) for kind, group in _groups(rest, _LIST_ITEM)]
    return [Block("\n".join(lines[:end])), *inner]


def _items(text: str) -> list[str]:
    lines = text.split("\n")
    margins = [len(match[1]) for line in lines if (match := _LIST_ITEM.match(line))]
    margin = min(margins, default=0)
    items: list[list[str]] = [[]]
    for line in lines:
        match = _LIST_ITEM.match(line)
        if match and len(match[1]) == margin and items[-1]:
            items.append([])
        items[-1].append(line)
    return ["\n".join(item).rstrip() for item in items if any(item)]


def _table_pieces(block: Block, budget: int, overlap: int, count: CountTokens) -> list[Block]:
    lines = block.text.split("\n")
    has_rule = len(lines) > 1 and re.fullmatch(r"[\s|:\-]+", lines[1]) is not None
    head = lines[:2] if has_rule else []
    rows = lines[len(head) :]
    room = budget - (count(["\n".join(head)])[0] if head else 0)
    sizes = count(rows) if rows else []
    if room < budget // 3 or any(size > room for size in sizes):
        words = [
            "; ".join(
                cell.strip().replace("\\|", "|") for cell in _BAR.split(row.strip().removeprefix("|").removesuffix("|"))
            )
            for row in lines
            if row not in head[1:]
        ]
        return _list_pieces(Block("\n".join(f"- {row}" for row in words), "list"), budget, overlap, count)
    cut_blocks: list[Block] = []
    for run in _runs(rows, sizes, room):
        cut_blocks.append(Block("\n".join([*head, *run]), "table", opens=bool(cut_blocks)))
    return cut_blocks


def _code_pieces(block: Block, budget: int, count: CountTokens) -> list[Block]:
    lines = block.text.split("\n")
    fenced = bool(_FENCE.match(lines[0]))
    head, tail = (lines[0], lines[-1] if len(lines) > 1 else "```") if fenced else ("", "")
    body = lines[1:-1] if fenced else lines
    room = max(budget - count([f"{head}\n{tail}"])[0], budget // 2)
    split: list[str] = []
    for line, size in zip(body, count(body), strict=True):
        split += [line] if size <= room else _by_words(line, room, count)
    runs = _runs(split, count(split), room)
    return [
        Block("\n".join([head, *run, tail]) if fenced else "\n".join(run), "code", opens=index > 0)
        for index, run in enumerate(runs)
    ]


def _paragraph_pieces(block: Block, budget: int, overlap: int, count: CountTokens) -> list[Block]:
    sentences, gaps = _sentences_with_gaps(block.text, budget, count)
    sizes = count(sentences)
    cut_blocks: list[Block] = []
    start = 0
    while start < len(sentences):
        end, total = start, 0
        while end < len(sentences) and (end == start or total + sizes[end] <= budget):
            total += sizes[end]
            end += 1
        cut_blocks.append(Block(_join(sentences[start:end], gaps[start:end]), opens=bool(cut_blocks)))
        if end >= len(sentences):
            break
        back, shared = end, 0
        while back - 1 > start and shared + sizes[back - 1] <= min(overlap, budget - sizes[end]):
            back -= 1
            shared += sizes[back]
        start = back
    return cut_blocks


def _sentences_with_gaps(text: str, budget: int, count: CountTokens) -> tuple[list[str], list[str]]:
    """Return the sentences of a paragraph, longer ones cut, and what stands before each: a space or nothing."""
    full_sentences: list[str] = []
    gaps: list[str] = []
    for line in text.split("\n"):
        previous_end = -1
        for start, end in sentence_spans(line):
            sentence = " ".join(line[start:end].split())
            # Between two lines there was a line end, which scripts without spaces do not replace by a space.
            gap_after_line = joint(full_sentences[-1], sentence) if full_sentences else ""
            gaps.append(gap_after_line if previous_end < 0 else " " * (start > previous_end))
            full_sentences.append(sentence)
            previous_end = end
    sentences: list[str] = []
    sentence_gaps: list[str] = []
    for sentence, size, gap in zip(full_sentences, count(full_sentences), gaps, strict=True):
        parts, part_gaps = ([sentence], [gap]) if size <= budget else _cut_words(sentence, budget, count)
        sentences += parts
        sentence_gaps += [gap, *part_gaps[1:]]
    return sentences, sentence_gaps


def _join(parts: Sequence[str], gaps: Sequence[str]) -> str:
    """Return the parts with what stood before each of them; what stood before the first is left out."""
    return "".join([parts[0], *(gap + part for gap, part in zip(gaps[1:], parts[1:], strict=True))])


def _runs(lines: Sequence[str], sizes: Sequence[int], room: int) -> list[list[str]]:
    runs: list[list[str]] = []
    total = room + 1
    for line, size in zip(lines, sizes, strict=True):
        if total + size > room:
            runs.append([])
            total = 0
        runs[-1].append(line)
        total += size
    return runs


def _by_words(text: str, budget: int, count: CountTokens) -> list[str]:
    """Return the text cut between words, or inside a word that alone is too long."""
    return _cut_words(text, budget, count)[0]


def _cut_words(text: str, budget: int, count: CountTokens) -> tuple[list[str], list[str]]:
    """Return the parts of a text that is cut as `_by_words` does, and what stands before each."""
    words: list[str] = []
    gaps: list[str] = []
    raw = text.split()
    for word, size in zip(raw, count(raw), strict=True):
        step = max(len(word) * budget // max(size, 1) // 2, 1)
        parts = [word] if size <= budget else _cut_word(word, step)
        words += parts
        gaps += [" ", *[""] * (len(parts) - 1)]
    runs: list[str] = []
    run_gaps: list[str] = []
    at = 0
    for run in _runs(words, count(words), budget):
        runs.append(_join(run, gaps[at : at + len(run)]))
        run_gaps.append(gaps[at])
        at += len(run)
    return runs, run_gaps


def _cut_word(word: str, step: int) -> list[str]:
    """Return a long word in parts of at most `step` characters, cut between words of a script without spaces."""
    parts = [""]
    for piece in segment(word):
        for part in (piece[at : at + step] for at in range(0, len(piece), step)):
            if len(parts[-1]) + len(part) > step:
                parts.append("")
            parts[-1] += part
    return [part for part in parts if part]


def shorten(text: str, words_or_characters: int) -> str:
    """Return the text without its last words, with an ellipsis, in at most that many characters."""
    if len(text) <= words_or_characters:
        return text
    cut = text[: max(words_or_characters - 1, 1)]
    return (cut.rsplit(" ", 1)[0] if " " in cut else cut) + "…"
