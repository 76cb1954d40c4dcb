"""Cuts documents into passages that keep headings, paragraphs, code and tables whole.

A document or section that fits stays one passage; what does not fit is cut at the largest
joint that helps. Every passage, with its title and heading path, is within the token bound.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ragtune.knowledge.duplicates import mark_duplicates
from ragtune.knowledge.structure import Block, Section, parse, pieces, shorten
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


def cut(
    documents: Sequence[Document],
    settings: ChunkingSettings,
    count_tokens: CountTokens,
    progress: Progress = silent,
) -> list[Chunk]:
    """Return the passages of all documents, in order; repeated ones carry `duplicate_of`.

    `count_tokens` gives the embedder's count per text, special tokens included; no passage's
    `embedded_text` counts more than `settings.max_tokens`.
    """
    chunks: list[Chunk] = []
    for start in range(0, len(documents), _BATCH):
        batch = documents[start : start + _BATCH]
        chunks += _Cutter(settings, count_tokens).cut(batch)
        progress("cutting documents", min(start + _BATCH, len(documents)), len(documents))
    kinds = {document.id: document.kind for document in documents}
    return mark_duplicates(chunks, named={chunk.id for chunk in chunks if kinds[chunk.document_id] == "api"})


class _Cutter:
    """Counts tokens in batches and remembers them; WordPiece counts add up across white space."""

    def __init__(self, settings: ChunkingSettings, count_tokens: CountTokens) -> None:
        self.settings = settings
        self.count_tokens = count_tokens
        self.special = count_tokens([""])[0]
        self.known: dict[str, int] = {}

    def cut(self, documents: Sequence[Document]) -> list[Chunk]:
        """Return the chunks of some documents."""
        parsed = [parse(document.text, api=document.kind == "api") for document in documents]
        prefixes = [shorten(document.title, 40) for document in documents]
        texts = [block.text for root in parsed for block in root.all_blocks()]
        headings = [heading for root in parsed for heading in root.all_headings()]
        self._learn([*texts, *headings, *prefixes])
        chunks: list[Chunk] = []
        for document, root in zip(documents, parsed, strict=True):
            chunks += self._document(document, root)
        return self._within_bound(chunks)

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
        for draft in drafts:
            text = draft.text().strip()
            identity = content_id(document.id, *draft.heading_path, text)
            if text and identity not in seen:
                seen.add(identity)
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
            if draft.only is not None:
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
                yield from pieces(block, budget - _JOIN_COST, self.settings.overlap_tokens, self._count)

    def _count(self, texts: Sequence[str]) -> list[int]:
        self._learn(texts)
        return [self.known[text] for text in texts]

    def _within_bound(self, chunks: list[Chunk]) -> list[Chunk]:
        """Return the chunks, those over the bound halved until they fit (tokenizers whose counts do not add up)."""
        result = chunks
        while True:
            counts = self.count_tokens([chunk.embedded_text for chunk in result])
            if all(count <= self.settings.max_tokens for count in counts):
                break
            split: list[Chunk] = []
            for chunk, count in zip(result, counts, strict=True):
                split += [chunk] if count <= self.settings.max_tokens else _halves(chunk)
            result = split
        return result if result is chunks else _renumbered(result)


def _halves(chunk: Chunk) -> list[Chunk]:
    middle = len(chunk.text) // 2
    joints = [match.start() for match in re.finditer(r"\s+", chunk.text)]
    at = min(joints, key=lambda joint: abs(joint - middle), default=middle) or middle
    texts = [part.strip() for part in (chunk.text[:at], chunk.text[at:]) if part.strip()]
    return [replace(chunk, id=content_id(chunk.document_id, *chunk.heading_path, text), text=text) for text in texts]


def _renumbered(chunks: list[Chunk]) -> list[Chunk]:
    numbered, position, last = [], 0, ""
    for chunk in chunks:
        position = position + 1 if chunk.document_id == last else 0
        last = chunk.document_id
        numbered.append(replace(chunk, position=position))
    return numbered
