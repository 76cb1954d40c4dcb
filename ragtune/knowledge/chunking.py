"""Cuts documents into passages that keep headings, paragraphs, code and tables whole.

A document or section that fits stays one passage; what does not fit is cut at the largest
joint that helps. Every passage, with its title and heading path, is within the token bound.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ragtune.knowledge.duplicates import Fingerprint, fingerprints, mark_duplicates
from ragtune.knowledge.structure import Block, Section, parse, pieces, section_tree, shorten
from ragtune.ports import Progress, silent
from ragtune.records import Chunk, Document, content_id
from ragtune.settings import ChunkingSettings

CountTokens = Callable[[Sequence[str]], list[int]]
# Sections below these shares of the bound are joined: two small ones, or a tiny one with what is before it.
_SMALL = 3
_TINY = 8
_BATCH = 500
_MAX_PREFIX_SHARE = 3
_JOIN_COST = 1


@dataclass(slots=True)
class _Draft:
    """A passage in the making."""

    heading_path: tuple[str, ...]
    blocks: list[Block]
    tokens: int
    only: Section | None = None

    def text(self) -> str:
        """The passage as the reader sees it."""
        return "".join(
            ("" if index == 0 else "\n" if block.tight else "\n\n") + block.text
            for index, block in enumerate(self.blocks)
        )

    def place(self, text: str, cursor: int) -> tuple[int, int]:
        """Return where the passage begins in the document's text, at or behind `cursor`, and its page.

        A piece of a block that was cut is looked for by its first line; a repeated table header is no place.
        """
        first = self.blocks[0]
        page = next((block.page for block in self.blocks if block.page), 0)
        if first.start < 0:
            return -1, page
        if text.startswith(first.text, first.start):
            return first.start, page
        lines = [line for line in first.text.split("\n") if line.strip()]
        probe = (
            lines[2]
            if first.kind == "table" and len(lines) > 2
            else lines[min(1, len(lines) - 1)]
            if (first.kind == "code")
            else lines[0]
        )
        found = text.find(probe, max(cursor, first.start))
        return (found if found >= 0 else first.start), page


def _sections(document: Document) -> Section:
    """Return the document's sections, from its blocks or, for API pages, from its text."""
    if document.blocks:
        return section_tree(document.text, document.blocks)
    return parse(document.text, api=document.kind == "api")


Cuttings = dict[str, list[tuple[Chunk, Fingerprint]]]
"""What was cut of a document, by the document's `document_version`."""


def document_version(document: Document) -> str:
    """Return a hash of all that its passages depend on, settings and code apart."""
    return content_id(
        document.id,
        document.source,
        document.title,
        document.topic,
        document.kind,
        document.text,
        *map(repr, document.blocks),
    )


def cut(
    documents: Sequence[Document],
    settings: ChunkingSettings,
    count_tokens: CountTokens,
    progress: Progress = silent,
    kept: Cuttings | None = None,
) -> list[Chunk]:
    """Return the passages of all documents, in order; repeated ones carry `duplicate_of`.

    `count_tokens` gives the embedder's count per text, special tokens included; no passage's
    `embedded_text` counts more than `settings.max_tokens`. Documents in `kept` are not cut
    again; afterwards it holds these documents and no others.
    """
    known = {} if kept is None else kept
    versions = [document_version(document) for document in documents]
    new = {v: document for v, document in zip(versions, documents, strict=True) if v not in known}
    known |= _cut_new(new, settings, count_tokens, progress)
    for gone in known.keys() - set(versions):
        del known[gone]
    pieces = [piece for version in versions for piece in known[version]]
    return mark_duplicates([chunk for chunk, _ in pieces], [own for _, own in pieces])


def _cut_new(
    documents: Mapping[str, Document], settings: ChunkingSettings, count_tokens: CountTokens, progress: Progress
) -> Cuttings:
    found: Cuttings = {}
    versions, cutter = list(documents), None
    for start in range(0, len(versions), _BATCH):
        part = versions[start : start + _BATCH]
        cutter = cutter or _Cutter(settings, count_tokens)
        found |= zip(part, cutter.cut([documents[version] for version in part]), strict=True)
        progress("cutting documents", len(found), len(documents))
    return found


class _Cutter:
    """Counts tokens in batches and remembers them; WordPiece counts add up across white space."""

    def __init__(self, settings: ChunkingSettings, count_tokens: CountTokens) -> None:
        self.settings = settings
        self.count_tokens = count_tokens
        self.special = count_tokens([""])[0]
        self.known: dict[str, int] = {}

    def cut(self, documents: Sequence[Document]) -> list[list[tuple[Chunk, Fingerprint]]]:
        """Return the chunks of each document with their fingerprints."""
        parsed = [_sections(document) for document in documents]
        prefixes = [shorten(document.title, 40) for document in documents]
        texts = [block.text for root in parsed for block in root.all_blocks()]
        headings = [heading for root in parsed for heading in root.all_headings()]
        self._learn([*texts, *headings, *prefixes])
        cuttings = []
        found = [self._document(document, root) for document, root in zip(documents, parsed, strict=True)]
        for document, chunks in zip(documents, self._within_bound(found), strict=True):
            named = {chunk.id for chunk in chunks} if document.kind == "api" else set()
            cuttings.append([*zip(chunks, fingerprints(chunks, named), strict=True)])
        return cuttings

    def _learn(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            for text, count in zip(new, self.count_tokens(new), strict=True):
                self.known[text] = max(count - self.special, 0)

    def _tokens(self, text: str) -> int:
        if text not in self.known:
            self._learn([text])
        return self.known[text]

    def _document(self, document: Document, root: Section) -> list[Chunk]:
        title = self._fitting(document.title, self.settings.max_tokens // _MAX_PREFIX_SHARE)
        chunks: list[Chunk] = []
        seen: set[str] = set()
        drafts = list(self._section(root, title, ()))
        if not any(draft.text().strip() for draft in drafts):
            # Nothing but headings: they are the text.
            drafts = list(self._pack([Block(" ".join(document.text.split()))], (), self._budget(title, ())))
        cursor = 0
        for draft in drafts:
            text = draft.text().strip()
            identity = content_id(document.id, *draft.heading_path, text)
            if text and identity not in seen:
                seen.add(identity)
                start, page = draft.place(document.text, cursor)
                cursor = max(cursor, start)
                chunks.append(
                    Chunk(
                        id=identity,
                        document_id=document.id,
                        source=document.source,
                        title=title,
                        heading_path=draft.heading_path,
                        text=text,
                        position=len(chunks),
                        topic=document.topic,
                        page=page,
                        start=start,
                    )
                )
        return chunks

    def _fitting(self, text: str, limit: int) -> str:
        while self._tokens(text) > limit and len(text) > 8:
            text = shorten(text, max(len(text) * limit // self._tokens(text) - 1, 8))
        return text

    def _budget(self, title: str, path: tuple[str, ...]) -> int:
        headings = [heading for heading in path if heading != title]
        prefix = self._tokens(title) + sum(self._tokens(heading) + 1 for heading in headings)
        return self.settings.max_tokens - self.special - prefix

    def _path(self, title: str, path: tuple[str, ...], heading: str) -> tuple[str, ...]:
        """Return the path with a heading added, without the outermost ones where it grows too long."""
        limit = self.settings.max_tokens // _MAX_PREFIX_SHARE
        grown = (*path, self._fitting(heading, limit // 2))
        while len(grown) > 1 and sum(self._tokens(part) + 1 for part in grown) > limit:
            grown = grown[1:]
        return grown if grown != (title,) else ()

    def _section(self, section: Section, title: str, path: tuple[str, ...]) -> Iterator[_Draft]:
        """Yield a section whole where it fits, else its own blocks packed and its children merged or cut."""
        budget = self._budget(title, path)
        whole = section.flattened()
        size = sum(self._tokens(block.text) + _JOIN_COST for block in whole)
        if whole and size <= budget:
            yield _Draft(path, whole, size)
            return
        drafts = list(self._pack(section.blocks, path, budget))
        for child in section.children:
            blocks = child.flattened()
            if not child.label:
                blocks = [child.heading_block(), *blocks]
            size = sum(self._tokens(block.text) + _JOIN_COST for block in blocks)
            last = drafts[-1] if drafts else None
            if last is not None and self._joins(last, child, size, title, path):
                last.blocks, last.tokens, last.only = [*last.blocks, *blocks], last.tokens + size, None
            elif size <= min(budget, self.settings.max_tokens // _SMALL):
                drafts.append(_Draft(path, blocks, size, only=child))
            else:
                drafts += self._section(child, title, self._path(title, path, child.heading))
        for draft in drafts:
            if draft.only is not None and any(block.kind != "heading" for block in draft.blocks):
                # Nothing joined this small section: it stands under its own heading.
                yield from self._section(draft.only, title, self._path(title, path, draft.only.heading))
            else:
                yield draft

    def _joins(self, last: _Draft, child: Section, size: int, title: str, path: tuple[str, ...]) -> bool:
        """Return whether a section is so small that it goes with the passage before it."""
        together = last.tokens + size
        if together > self._budget(title, last.heading_path) or not (last.heading_path == path or child.label):
            return False
        return together <= self.settings.max_tokens // _SMALL or size <= self.settings.max_tokens // _TINY

    def _pack(self, blocks: Sequence[Block], path: tuple[str, ...], budget: int) -> Iterator[_Draft]:
        draft = _Draft(path, [], 0)
        for block in self._pieces(blocks, budget):
            size = self._tokens(block.text) + _JOIN_COST
            if draft.blocks and (draft.tokens + size > budget or block.opens):
                yield draft
                draft = _Draft(path, [], 0)
            draft.blocks.append(block)
            draft.tokens += size
        if draft.blocks:
            yield draft

    def _pieces(self, blocks: Sequence[Block], budget: int) -> Iterator[Block]:
        for block in blocks:
            if self._tokens(block.text) + _JOIN_COST <= budget:
                yield block
            else:
                for piece in pieces(block, budget - _JOIN_COST, self.settings.overlap_tokens, self._count):
                    yield replace(piece, start=block.start, page=block.page)

    def _count(self, texts: Sequence[str]) -> list[int]:
        self._learn(texts)
        return [self.known[text] for text in texts]

    def _within_bound(self, documents: list[list[Chunk]]) -> list[list[Chunk]]:
        """Return the chunks, those over the bound halved until they fit (tokenizers whose counts do not add up)."""
        counts = iter(self.count_tokens([chunk.embedded_text for chunks in documents for chunk in chunks]))
        return [self._halved(chunks, [next(counts) for _ in chunks]) for chunks in documents]

    def _halved(self, chunks: list[Chunk], counts: Sequence[int]) -> list[Chunk]:
        result = chunks
        while any(count > self.settings.max_tokens for count in counts):
            split: list[Chunk] = []
            for chunk, count in zip(result, counts, strict=True):
                split += [chunk] if count <= self.settings.max_tokens else _halves(chunk)
            result, counts = split, self.count_tokens([chunk.embedded_text for chunk in split])
        return result if result is chunks else [replace(chunk, position=n) for n, chunk in enumerate(result)]


def _halves(chunk: Chunk) -> list[Chunk]:
    middle = len(chunk.text) // 2
    joints = [match.start() for match in re.finditer(r"\s+", chunk.text)]
    at = min(joints, key=lambda joint: abs(joint - middle), default=middle) or middle
    texts = [part.strip() for part in (chunk.text[:at], chunk.text[at:]) if part.strip()]
    return [replace(chunk, id=content_id(chunk.document_id, *chunk.heading_path, text), text=text) for text in texts]
