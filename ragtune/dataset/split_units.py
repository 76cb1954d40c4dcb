"""Chooses what the splits share out: whole documents, or sections if a collection has few documents.

A gate over two or three documents cannot show any gain, because answers about the same document count as one vote. A
collection of few documents is therefore split by section. The test then asks about other sections of pages that the
model was trained on; docs/decisions/few-documents-split-by-section.md says what that means.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ragtune.records import Chunk, Document, QAPair, Split, SplitItem, content_id
from ragtune.settings import DatasetSettings

FEWEST_IN_GATE = 5
"""Documents or sections that the gate needs: at the default level of 0.05 its sign test asks for five that improved
(0.5 ** 5 = 0.031)."""
# The order in which a document counts as used if its sections are in several splits: what was trained on stays so.
_STRICTEST: tuple[Split, ...] = ("train", "validation", "gate", "test")


@dataclass(frozen=True, slots=True)
class SplitUnits:
    """What is shared out, as documents: those of the collection, or one for each section.

    `unit_of` is {chunk id: id of its section}; it is empty if whole documents are shared out.
    """

    documents: Sequence[Document]
    unit_of: Mapping[str, str]

    @property
    def by_section(self) -> bool:
        """Whether sections are shared out."""
        return bool(self.unit_of)

    def of(self, pair: QAPair) -> str:
        """Return the id of the unit that the pair belongs to."""
        return self.unit_of.get(pair.chunk_id, pair.document_id)

    def as_units(self, pairs: Iterable[QAPair]) -> list[QAPair]:
        """Return the pairs with their units in place of their documents."""
        return [replace(pair, document_id=self.of(pair)) for pair in pairs]

    def as_documents(self, items: Iterable[SplitItem], pairs: Iterable[QAPair]) -> list[SplitItem]:
        """Return the items of units with their pairs as they were before."""
        pair_by_id = {pair.id: pair for pair in pairs}
        return [replace(item, pair=pair_by_id[item.pair.id]) for item in items]

    def earlier(self, splits: Mapping[str, Split], chunks: Sequence[Chunk]) -> dict[str, Split]:
        """Return {unit: its earlier split}; a new section of a document that was split before shares its split."""
        earlier = dict(splits)
        for chunk in chunks:
            unit = self.unit_of.get(chunk.id)
            if unit is not None and unit not in earlier and chunk.document_id in splits:
                earlier[unit] = splits[chunk.document_id]
        return earlier

    def used(self, items: Sequence[SplitItem]) -> dict[str, Split]:
        """Return {id: split} of the units and of the documents that the items of the collection are from.

        A document of which one section is in train counts as trained on, should whole documents be shared out later.
        """
        of_documents: dict[str, set[Split]] = defaultdict(set)
        for item in items:
            of_documents[item.pair.document_id].add(item.split)
        used = {name: next(split for split in _STRICTEST if split in splits) for name, splits in of_documents.items()}
        return {**used, **{self.of(item.pair): item.split for item in items}}


def choose_units(
    pairs: Sequence[QAPair], documents: Sequence[Document], chunks: Sequence[Chunk], settings: DatasetSettings
) -> SplitUnits:
    """Return sections if so few documents have pairs that the gate's share is too small to show a gain."""
    with_pairs = len({pair.document_id for pair in pairs})
    if with_pairs >= math.ceil(FEWEST_IN_GATE / settings.gate_share):
        return SplitUnits(documents, {})
    unit_of = {chunk.id: content_id(chunk.document_id, *chunk.heading_path) for chunk in chunks}
    parts: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        parts[unit_of[chunk.id]].append(chunk)
    document_of = {document.id: document for document in documents}
    sections = [
        replace(
            document_of[section[0].document_id],
            id=unit,
            title=" > ".join([section[0].title, *section[0].headings]),
            text="\n\n".join(chunk.text for chunk in section),
            blocks=(),
            left_out=(),
        )
        for unit, section in parts.items()
        if section[0].document_id in document_of
    ]
    return SplitUnits(sections, unit_of)
