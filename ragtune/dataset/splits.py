"""Splits pairs by near-duplicate cluster of documents, so that no held-out answer was trained on.

New clusters are dealt out topic by topic, so that every split has its share of every topic; what a
model was trained on stays in train, and what was held out never moves there when documents are added.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import accumulate

from ragtune.dataset.near_duplicates import clusters, near_questions
from ragtune.draws import draw
from ragtune.records import SPLITS, Document, QAPair, Split, SplitItem
from ragtune.settings import DatasetSettings
from ragtune.text.shingles import near_pairs

_HELD_OUT: tuple[Split, ...] = ("test", "gate", "validation")


def split_pairs(
    pairs: Sequence[QAPair],
    documents: Sequence[Document],
    settings: DatasetSettings,
    seed: int,
    pinned_train: Set[str] = frozenset(),
    previous: Mapping[str, Split] | None = None,
    alike: Sequence[tuple[str, str]] = (),
) -> list[SplitItem]:
    """Return every pair with its split, whole clusters together, in the order of the pairs.

    `pinned_train` are ids of documents that a model was trained on; `previous` maps document ids to the
    split they had; `alike` are ids of pairs that mean the same, whose documents stay together. Documents
    that join two splits at once (a new near duplicate of a held-out and of a trained one) are left out:
    their pairs are not returned, because nowhere would they be safe.
    """
    pinned: dict[str, Split] = {**dict(previous or {}), **dict.fromkeys(pinned_train, "train")}
    asked = [(pairs[i].document_id, pairs[j].document_id) for i, j in near_questions([pair.question for pair in pairs])]
    home = {pair.id: pair.document_id for pair in pairs}
    asked += [(home[a], home[b]) for a, b in alike if a in home and b in home]
    also = [(a, b) for a, b in asked if a != b]
    cluster = clusters(documents, settings.jaccard, also)
    members: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        members[cluster[document.id]].append(document.id)
    split: dict[str, Split] = {}
    new = []
    for name, inside in members.items():
        before = {pinned[document] for document in inside if document in pinned}
        if not before:
            new.append(inside)
        elif len(before) == 1:
            split.update(dict.fromkeys(inside, before.pop()))
        else:
            conflicted = [document for document in documents if cluster[document.id] == name]
            split.update(_unmixed(conflicted, pinned, settings, also))
    for dealt, chosen in _dealt(new, documents, pairs, settings, seed):
        split.update(dict.fromkeys(dealt, chosen))
    return [
        SplitItem(pair, split[pair.document_id], cluster[pair.document_id])
        for pair in pairs
        if pair.document_id in split
    ]


def _dealt(
    new: Sequence[Sequence[str]],
    documents: Sequence[Document],
    pairs: Sequence[QAPair],
    settings: DatasetSettings,
    seed: int,
) -> Iterator[tuple[Sequence[str], Split]]:
    """Yield each new cluster with its split.

    Clusters stand in a row by topic, by how many pairs they have, and by a seeded hash. Each goes to the split
    that is furthest behind its share of the pairs so far (smooth weighted round-robin), so that every stretch of
    the row, and with it every topic, is shared out evenly. A hash decides which split begins.
    """
    topics = {document.id: document.topic for document in documents}
    asked = Counter(pair.document_id for pair in pairs)
    shares: dict[Split, float] = {
        "test": settings.test_share,
        "gate": settings.gate_share,
        "validation": settings.validation_share,
    }
    shares["train"] = 1.0 - sum(shares.values())

    def place(inside: Sequence[str]) -> tuple[str, int, float]:
        largest = max(inside, key=lambda name: (asked[name], draw(seed, "anchor", name)))
        return topics[largest], -sum(asked[name] for name in inside), draw(seed, "row", largest)

    behind = dict.fromkeys(shares, 0.0)
    for number, inside in enumerate(sorted(new, key=place)):
        size = max(sum(asked[name] for name in inside), 1)
        if number == 0:
            point, ends = draw(seed, "first", min(inside)), zip(shares, accumulate(shares.values()), strict=True)
            behind[next((split for split, end in ends if point < end), "train")] = float(size)
        behind = {split: value + shares[split] * size for split, value in behind.items()}
        chosen = max(behind, key=lambda split: behind[split])
        behind[chosen] -= size
        yield inside, chosen


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


def leaks(
    items: Sequence[SplitItem],
    documents: Sequence[Document],
    jaccard: float = 0.35,
    alike: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """Return one sentence for each held-out item that train gives away; empty proves there is none.

    Gives away: its document, a near duplicate of it, or a near-duplicate question stands in train; `alike` are
    ids of pairs that mean the same. Test and gate are checked against train, validation too.
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
    places = {item.pair.id: place for place, item in enumerate(items)}
    same = [(places[a], places[b]) for a, b in alike if a in places and b in places]
    for i, j in (*near_questions([item.pair.question for item in items]), *same):
        if _crosses({items[i].split}, {items[j].split}):
            found.append(f"questions '{items[i].pair.question}' and '{items[j].pair.question}' are near duplicates")
    return found


def _crosses(a: set[Split], b: set[Split]) -> bool:
    return ("train" in a and bool(b & set(_HELD_OUT))) or ("train" in b and bool(a & set(_HELD_OUT)))


def split_counts(items: Sequence[SplitItem]) -> dict[str, int]:
    """Return {split: pairs}."""
    return dict(Counter(item.split for item in items))


def widest_gap(items: Sequence[SplitItem], fewest: int = 100) -> float:
    """Return by how much the held-out share of a topic with at least so many pairs differs most from that of all.

    In 0..1; 0.0 when no topic is that large.
    """

    def held_out(counts: Mapping[str, int]) -> float:
        return 1.0 - counts["train"] / max(sum(counts.values()), 1)

    whole = held_out(Counter(item.split for item in items))
    large = [counts for _, counts in topic_balance(items) if sum(counts.values()) >= fewest]
    return max((abs(held_out(counts) - whole) for counts in large), default=0.0)


def topic_balance(items: Sequence[SplitItem]) -> list[tuple[str, dict[str, int]]]:
    """Return [(topic, {split: pairs})], the topic with most pairs first."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        found[item.pair.topic][item.split] += 1
    ranked = sorted(found.items(), key=lambda each: (-each[1].total(), each[0]))
    return [(topic, {split: counts[split] for split in SPLITS}) for topic, counts in ranked]
