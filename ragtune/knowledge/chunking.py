"""Cuts documents into chunks that keep headings, paragraphs, code and tables whole.

A document or section that fits becomes one chunk. What does not fit is cut at the largest joint that helps:
between sections, then blocks, then inside a block. Every chunk, with its title and heading path, stays within the
token bound.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ragtune.knowledge.duplicates import fingerprint, mark_duplicates
from ragtune.knowledge.structure import Block, Section, parse, pieces, section_tree, shorten
from ragtune.ports import Progress, silent
from ragtune.records import Chunk, Document, content_id
from ragtune.settings import ChunkingSettings
from ragtune.text.whitespace import collapse_whitespace

CountTokens = Callable[[Sequence[str]], list[int]]

# All numbers of this file were chosen by hand; none was tuned.

# Two sections are joined if together they take at most a third of the bound; a section of at most an eighth
# joins what is before it if the two fit.
_SMALL_PART = 3
_TINY_PART = 8
# The title, and the heading path, each take at most a third of the bound.
_PREFIX_PART = 3
# Documents per batch: enough to keep the tokenizer busy, few enough to report progress.
_BATCH_DOCUMENTS = 500
# Titles are cut to this many characters before their tokens are counted in a batch.
_TITLE_CHARACTERS = 40
_SHORTEST_PREFIX_CHARACTERS = 8
# The line end between two blocks counts as at most one token.
_JOIN_TOKENS = 1


@dataclass(slots=True)
class _Draft:
    """A chunk in the making; `lone_section` is set if it holds one small section that nothing joined yet."""

    heading_path: tuple[str, ...]
    blocks: list[Block]
    tokens: int
    lone_section: Section | None = None

    def text(self) -> str:
        """The text as the reader sees it."""
        return "".join(
            ("" if index == 0 else "\n" if block.tight else "\n\n") + block.text
            for index, block in enumerate(self.blocks)
        )

    def place(self, text: str, cursor: int) -> tuple[int, int]:
        """Return the offset at which the passage begins in the document's text, not before `cursor`, and its page.

        A piece of a block that was cut is searched for by its first line, but not by a repeated table header.
        """
        first = self.blocks[0]
        page = next((block.page for block in self.blocks if block.page), 0)
        if first.start < 0:
            return -1, page
        if text.startswith(first.text, first.start):
            return first.start, page
        offset = text.find(_first_line_in_document(first), max(cursor, first.start))
        return (offset if offset >= 0 else first.start), page


def _first_line_in_document(block: Block) -> str:
    """Return the first line that stands in the document: a cut table repeats its header, cut code its fence."""
    lines = [line for line in block.text.split("\n") if line.strip()]
    repeated = {"table": 2, "code": 1}.get(block.kind, 0)
    return lines[repeated] if len(lines) > repeated else lines[0]


def _section_tree(document: Document) -> Section:
    """Return the document's sections, from its blocks or, for API pages, from its text."""
    if document.blocks:
        return section_tree(document.text, document.blocks)
    return parse(document.text, api=document.kind == "api")


ChunksByVersion = dict[str, list[tuple[Chunk, str]]]
"""The chunks of a document with their fingerprints, by the document's `document_version`."""


def document_version(document: Document) -> str:
    """Return a hash of everything that a document's chunks depend on, except settings and code."""
    about = (document.id, document.source, document.title, document.topic, document.kind, document.language)
    return content_id(*about, document.text, *map(repr, document.blocks))


def chunk_documents(
    documents: Sequence[Document],
    settings: ChunkingSettings,
    count_tokens: CountTokens,
    progress: Progress = silent,
    stored: ChunksByVersion | None = None,
) -> list[Chunk]:
    """Return the chunks of all documents, in order; repeated ones carry `duplicate_of`.

    `count_tokens` returns the embedder's count for each text, special tokens included. No chunk's `embedded_text`
    counts more than `settings.max_tokens`. Documents whose chunks are in `stored` are not chunked again; afterwards
    it holds the chunks of these documents and no others.
    """
    chunks_by_version = {} if stored is None else stored
    versions = [document_version(document) for document in documents]
    new = {
        version: document
        for version, document in zip(versions, documents, strict=True)
        if version not in chunks_by_version
    }
    chunks_by_version |= _chunk_new(new, settings, count_tokens, progress)
    for outdated in chunks_by_version.keys() - set(versions):
        del chunks_by_version[outdated]
    pairs = [pair for version in versions for pair in chunks_by_version[version]]
    return mark_duplicates([chunk for chunk, _ in pairs], [wording for _, wording in pairs])


def _chunk_new(
    documents: Mapping[str, Document], settings: ChunkingSettings, count_tokens: CountTokens, progress: Progress
) -> ChunksByVersion:
    result: ChunksByVersion = {}
    versions, chunker = list(documents), None
    for start in range(0, len(versions), _BATCH_DOCUMENTS):
        batch = versions[start : start + _BATCH_DOCUMENTS]
        chunker = chunker or _Chunker(settings, count_tokens)
        result |= zip(batch, chunker.chunk([documents[version] for version in batch]), strict=True)
        progress("chunking documents", len(result), len(documents))
    return result


class _Chunker:
    """Chunks documents; counts tokens in batches and remembers the counts.

    Adds counts up across white space, which is exact for WordPiece. For other tokenizers `_within_bound` corrects
    what the sum got wrong.
    """

    def __init__(self, settings: ChunkingSettings, count_tokens: CountTokens) -> None:
        self.settings = settings
        self.count_tokens = count_tokens
        self.special_tokens = count_tokens([""])[0]
        self.counts: dict[str, int] = {}

    def chunk(self, documents: Sequence[Document]) -> list[list[tuple[Chunk, str]]]:
        """Return the chunks of each document with their fingerprints."""
        roots = [_section_tree(document) for document in documents]
        titles = [shorten(document.title, _TITLE_CHARACTERS) for document in documents]
        texts = [block.text for root in roots for block in root.all_blocks()]
        headings = [heading for root in roots for heading in root.all_headings()]
        self._count_new([*texts, *headings, *titles])
        drafts = [self._document_chunks(document, root) for document, root in zip(documents, roots, strict=True)]
        return [[(chunk, fingerprint(chunk)) for chunk in chunks] for chunks in self._within_bound(drafts)]

    def _count_new(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self.counts]
        if new:
            for text, count in zip(new, self.count_tokens(new), strict=True):
                self.counts[text] = max(count - self.special_tokens, 0)

    def _tokens(self, text: str) -> int:
        if text not in self.counts:
            self._count_new([text])
        return self.counts[text]

    def _size(self, blocks: Sequence[Block]) -> int:
        return sum(self._tokens(block.text) + _JOIN_TOKENS for block in blocks)

    def _document_chunks(self, document: Document, root: Section) -> list[Chunk]:
        title = self._shorten(document.title, self.settings.max_tokens // _PREFIX_PART)
        chunks: list[Chunk] = []
        drafts = list(self._section_drafts(root, title, ()))
        if not any(draft.text().strip() for draft in drafts):
            # The document has only headings: they become its text.
            drafts = list(self._pack([Block(collapse_whitespace(document.text))], (), self._budget(title, ())))
        cursor = 0
        for draft in drafts:
            text = draft.text().strip()
            if text:
                start, page = draft.place(document.text, cursor)
                cursor = max(cursor, start)
                chunks.append(
                    Chunk(
                        id=content_id(document.id, *draft.heading_path, text),
                        document_id=document.id,
                        source=document.source,
                        title=title,
                        heading_path=draft.heading_path,
                        text=text,
                        position=len(chunks),
                        topic=document.topic,
                        language=document.language,
                        page=page,
                        start=start,
                        path=document.path,
                    )
                )
        return chunks

    def _shorten(self, text: str, limit: int) -> str:
        """Return a title or heading cut to at most `limit` tokens, or to its first few characters."""
        while self._tokens(text) > limit and len(text) > _SHORTEST_PREFIX_CHARACTERS:
            text = shorten(text, max(len(text) * limit // self._tokens(text) - 1, _SHORTEST_PREFIX_CHARACTERS))
        return text

    def _budget(self, title: str, path: tuple[str, ...]) -> int:
        """Return the tokens that a chunk's text may take below this title and heading path."""
        headings = [heading for heading in path if heading != title]
        prefix = self._tokens(title) + sum(self._tokens(heading) + _JOIN_TOKENS for heading in headings)
        return self.settings.max_tokens - self.special_tokens - prefix

    def _extended_path(self, title: str, path: tuple[str, ...], heading: str) -> tuple[str, ...]:
        """Return the path with a heading added, without its outermost headings if it grows too long."""
        limit = self.settings.max_tokens // _PREFIX_PART
        extended = (*path, self._shorten(heading, limit // 2))
        while len(extended) > 1 and sum(self._tokens(part) + _JOIN_TOKENS for part in extended) > limit:
            extended = extended[1:]
        return extended if extended != (title,) else ()

    def _section_drafts(self, section: Section, title: str, path: tuple[str, ...]) -> Iterator[_Draft]:
        """Yield a section whole if it fits, else its own blocks packed and its children joined or cut."""
        budget = self._budget(title, path)
        section_blocks = section.all_blocks()
        size = self._size(section_blocks)
        if section_blocks and size <= budget:
            yield _Draft(path, section_blocks, size)
            return
        drafts = list(self._pack(section.blocks, path, budget))
        for child in section.children:
            blocks = child.all_blocks()
            if not child.label:
                blocks = [child.heading_block(), *blocks]
            size = self._size(blocks)
            last = drafts[-1] if drafts else None
            if last is not None and self._joins(last, child, size, title, path):
                last.blocks, last.tokens, last.lone_section = [*last.blocks, *blocks], last.tokens + size, None
            elif size <= min(budget, self.settings.max_tokens // _SMALL_PART):
                drafts.append(_Draft(path, blocks, size, lone_section=child))
            else:
                drafts += self._section_drafts(child, title, self._extended_path(title, path, child.heading))
        for draft in drafts:
            if draft.lone_section is not None and any(block.kind != "heading" for block in draft.blocks):
                # Nothing joined this small section, so it stands under its own heading.
                child = draft.lone_section
                yield from self._section_drafts(child, title, self._extended_path(title, path, child.heading))
            else:
                yield draft

    def _joins(self, last: _Draft, child: Section, size: int, title: str, path: tuple[str, ...]) -> bool:
        """Return whether a section is so small that it joins the chunk before it."""
        joined_size = last.tokens + size
        if joined_size > self._budget(title, last.heading_path):
            return False
        if last.heading_path != path and not child.label:
            return False
        max_tokens = self.settings.max_tokens
        return joined_size <= max_tokens // _SMALL_PART or size <= max_tokens // _TINY_PART

    def _pack(self, blocks: Sequence[Block], path: tuple[str, ...], budget: int) -> Iterator[_Draft]:
        """Yield drafts that each hold as many blocks as fit, in order."""
        draft = _Draft(path, [], 0)
        for block in self._fitting_blocks(blocks, budget):
            size = self._size([block])
            if draft.blocks and (draft.tokens + size > budget or block.opens):
                yield draft
                draft = _Draft(path, [], 0)
            draft.blocks.append(block)
            draft.tokens += size
        if draft.blocks:
            yield draft

    def _fitting_blocks(self, blocks: Sequence[Block], budget: int) -> Iterator[Block]:
        for block in blocks:
            if self._size([block]) <= budget:
                yield block
            else:
                for piece in pieces(block, budget - _JOIN_TOKENS, self.settings.overlap_tokens, self._count):
                    yield replace(piece, start=block.start, page=block.page)

    def _count(self, texts: Sequence[str]) -> list[int]:
        self._count_new(texts)
        return [self.counts[text] for text in texts]

    def _within_bound(self, documents: list[list[Chunk]]) -> list[list[Chunk]]:
        """Return the chunks of each document; those over the bound are halved until they fit."""
        counts = iter(self.count_tokens([chunk.embedded_text for chunks in documents for chunk in chunks]))
        return [
            _with_distinct_ids(self._halve_too_long(chunks, [next(counts) for _ in chunks])) for chunks in documents
        ]

    def _halve_too_long(self, chunks: list[Chunk], counts: Sequence[int]) -> list[Chunk]:
        result = chunks
        while any(count > self.settings.max_tokens for count in counts):
            halved: list[Chunk] = []
            for chunk, count in zip(result, counts, strict=True):
                halved += [chunk] if count <= self.settings.max_tokens else _halves(chunk)
            result, counts = halved, self.count_tokens([chunk.embedded_text for chunk in halved])
        return result if result is chunks else [replace(chunk, position=n) for n, chunk in enumerate(result)]


def _with_distinct_ids(chunks: list[Chunk]) -> list[Chunk]:
    """Return the chunks of a document; those that repeat an earlier one get an id of their own."""
    seen: Counter[str] = Counter()
    result = []
    for chunk in chunks:
        repeats = seen[chunk.id]
        seen[chunk.id] += 1
        result.append(replace(chunk, id=content_id(chunk.id, str(repeats))) if repeats else chunk)
    return result


def _halves(chunk: Chunk) -> list[Chunk]:
    """Return the two halves of a chunk, cut at the white space or ideographic punctuation nearest to its middle."""
    middle = len(chunk.text) // 2
    gaps = [match.start() for match in re.finditer(r"\s+|(?<=[。！？，、；])(?!\Z)", chunk.text)]
    cut = min(gaps, key=lambda gap: abs(gap - middle), default=middle) or middle
    texts = [half.strip() for half in (chunk.text[:cut], chunk.text[cut:]) if half.strip()]
    return [replace(chunk, id=content_id(chunk.document_id, *chunk.heading_path, text), text=text) for text in texts]
