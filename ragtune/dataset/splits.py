"""Splits pairs by near-duplicate cluster of documents, so that no held-out answer was trained on.

A cluster's split is a seeded hash of its anchor document; what a model was trained on stays
in train, and what was held out never moves there when documents are added.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set

from ragtune.dataset.near_duplicates import clusters, near_pairs, near_questions
from ragtune.dataset.wording import draw
from ragtune.records import Document, QAPair, Split, SplitItem
from ragtune.settings import DatasetSettings

_HELD_OUT: tuple[Split, ...] = ("test", "gate", "validation")


def split_pairs(
    pairs: Sequence[QAPair],
    documents: Sequence[Document],
    settings: DatasetSettings,
    seed: int,
    pinned_train: Set[str] = frozenset(),
    previous: Mapping[str, Split] | None = None,
) -> list[SplitItem]:
    """Return every pair with its split, whole clusters together, in the order of the pairs.

    `pinned_train` are ids of documents that a model was trained on; `previous` maps document ids to the
    split they had. Documents that join two splits at once (a new near duplicate of a held-out and of a
    trained one) are left out: their pairs are not returned, because nowhere would they be safe.
    """
    pinned: dict[str, Split] = {**dict(previous or {}), **dict.fromkeys(pinned_train, "train")}
    asked = [(pairs[i].document_id, pairs[j].document_id) for i, j in near_questions([pair.question for pair in pairs])]
    also = [(a, b) for a, b in asked if a != b]
    cluster = clusters(documents, settings.jaccard, also)
    members: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        members[cluster[document.id]].append(document.id)
    split: dict[str, Split] = {}
    for name, inside in members.items():
        before = {pinned[document] for document in inside if document in pinned}
        if len(before) <= 1:
            chosen = before.pop() if before else _hashed(_anchor(inside, seed), settings, seed)
            split.update(dict.fromkeys(inside, chosen))
            continue
        conflicted = [document for document in documents if cluster[document.id] == name]
        split.update(_unmixed(conflicted, pinned, settings, also))
    return [
        SplitItem(pair, split[pair.document_id], cluster[pair.document_id])
        for pair in pairs
        if pair.document_id in split
    ]


def _anchor(inside: Sequence[str], seed: int) -> str:
    return min(inside, key=lambda document: draw(seed, "anchor", document))


def _hashed(anchor: str, settings: DatasetSettings, seed: int) -> Split:
    place = draw(seed, "split", anchor)
    shares: tuple[tuple[Split, float], ...] = (
        ("test", settings.test_share),
        ("gate", settings.gate_share),
        ("validation", settings.validation_share),
    )
    for split, share in shares:
        if place < share:
            return split
        place -= share
    return "train"


def _unmixed(
    documents: Sequence[Document],
    pinned: Mapping[str, Split],
    settings: DatasetSettings,
    also: Sequence[tuple[str, str]],
) -> dict[str, Split]:
    """Assign a cluster whose members already stand in different splits: a document joins its neighbours' split.

    Dropped are documents with neighbours in two splits, and held-out ones with a neighbour in train.
    """
    inside = {document.id for document in documents}
    found = near_pairs([document.text for document in documents], settings.jaccard)
    near: dict[str, set[str]] = defaultdict(set)
    for a, b in [*((documents[i].id, documents[j].id) for i, j in found), *also]:
        if a in inside and b in inside:
            near[a].add(b)
            near[b].add(a)
    split = {name: pinned[name] for name in inside if name in pinned}
    trained = {name for name, chosen in split.items() if chosen == "train"}
    split = {name: chosen for name, chosen in split.items() if chosen == "train" or not near[name] & trained}
    waiting = sorted(inside - set(pinned))
    while waiting:
        around = {name: {split[other] for other in near[name] if other in split} for name in waiting}
        joining = next((name for name in waiting if len(around[name]) == 1), "")
        if not joining:
            break
        split[joining] = around[joining].pop()
        waiting.remove(joining)
    return split


def leaks(items: Sequence[SplitItem], documents: Sequence[Document], jaccard: float = 0.35) -> list[str]:
    """Return one sentence for each held-out item that train gives away; empty proves there is none.

    Gives away: its document, a near duplicate of it, or a near-duplicate question stands in train.
    Test and gate are checked against train, validation too.
    """
    splits: dict[str, set[Split]] = defaultdict(set)
    for item in items:
        splits[item.pair.document_id].add(item.split)
    found = []
    for document, inside in splits.items():
        if "train" in inside and len(inside) > 1:
            found.append(f"document {document} is in {' and '.join(sorted(inside))}")
    used = [document for document in documents if document.id in splits]
    for i, j in near_pairs([document.text for document in used], jaccard):
        both = splits[used[i].id], splits[used[j].id]
        if _crosses(*both):
            found.append(f"documents {used[i].title} and {used[j].title} are near duplicates in different splits")
    for i, j in near_questions([item.pair.question for item in items]):
        if _crosses({items[i].split}, {items[j].split}):
            found.append(f"questions '{items[i].pair.question}' and '{items[j].pair.question}' are near duplicates")
    return found


def _crosses(a: set[Split], b: set[Split]) -> bool:
    return ("train" in a and bool(b & set(_HELD_OUT))) or ("train" in b and bool(a & set(_HELD_OUT)))


def split_counts(items: Sequence[SplitItem]) -> dict[str, int]:
    """Return {split: pairs}."""
    return dict(Counter(item.split for item in items))
