"""Splits pairs by near-duplicate cluster of documents, so that no held-out answer was trained on.

New clusters are shared out topic by topic, so that every split has its share of every topic. Documents that a model
was trained on stay in train, and held-out documents never move there when documents are added.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import accumulate

from ragtune.dataset.near_duplicates import clusters, near_questions
from ragtune.draws import draw
from ragtune.records import SPLITS, Document, QAPair, Split, SplitItem
from ragtune.settings import DatasetSettings
from ragtune.text.shingles import near_pairs

HELD_OUT: tuple[Split, ...] = ("test", "gate", "validation")


def split_pairs(
    pairs: Sequence[QAPair],
    documents: Sequence[Document],
    settings: DatasetSettings,
    seed: int,
    pinned_train: Set[str] = frozenset(),
    previous: Mapping[str, Split] | None = None,
    paraphrases: Sequence[tuple[str, str]] = (),
) -> list[SplitItem]:
    """Return the pairs in their order, each with its split; the pairs of a cluster of documents share a split.

    No held-out split is empty if there are enough new clusters, however few documents there are.

    A new document may join a cluster of which some documents are in train and some held out. A document of such a
    mixed cluster that is safe in no split is left out, and its pairs are not returned.

    Args:
        pairs: the pairs to split.
        documents: the documents that the pairs come from.
        settings: the shares of the splits, and from which similarity documents are near duplicates.
        seed: decides between equal clusters, and which split comes first.
        pinned_train: ids of documents that a model was trained on.
        previous: the split that a document had before, by document id.
        paraphrases: ids of pairs that mean the same; their documents stay together.
    """
    pinned: dict[str, Split] = {**dict(previous or {}), **dict.fromkeys(pinned_train, "train")}
    links = _document_links(pairs, paraphrases)
    cluster_of = clusters(documents, settings.jaccard, links)
    members: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        members[cluster_of[document.id]].append(document.id)
    split_of: dict[str, Split] = {}
    new_clusters = []
    for cluster_id, cluster in members.items():
        earlier_splits = {pinned[document] for document in cluster if document in pinned}
        if not earlier_splits:
            new_clusters.append(cluster)
        elif len(earlier_splits) == 1:
            split_of.update(dict.fromkeys(cluster, earlier_splits.pop()))
        else:
            mixed = [document for document in documents if cluster_of[document.id] == cluster_id]
            split_of.update(_split_mixed_cluster(mixed, pinned, settings, links))
    shares = [*_share_out(new_clusters, documents, pairs, settings, seed)]
    for new_cluster, split in _without_empty_splits(shares, pairs, split_of, seed):
        split_of.update(dict.fromkeys(new_cluster, split))
    return [
        SplitItem(pair, split_of[pair.document_id], cluster_of[pair.document_id])
        for pair in pairs
        if pair.document_id in split_of
    ]


def _document_links(pairs: Sequence[QAPair], paraphrases: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the ids of every two documents that have near-duplicate questions or paraphrases of one another."""
    document_of = {pair.id: pair.document_id for pair in pairs}
    links = [(pairs[i].document_id, pairs[j].document_id) for i, j in near_questions([pair.question for pair in pairs])]
    links += [(document_of[a], document_of[b]) for a, b in paraphrases if a in document_of and b in document_of]
    return [(a, b) for a, b in links if a != b]


def _share_out(
    new_clusters: Sequence[Sequence[str]],
    documents: Sequence[Document],
    pairs: Sequence[QAPair],
    settings: DatasetSettings,
    seed: int,
) -> Iterator[tuple[Sequence[str], Split]]:
    """Yield each new cluster with its split.

    Clusters are sorted by topic, then by their number of pairs, then by a seeded hash. Each goes to the split that is
    furthest behind its share of the pairs so far (smooth weighted round-robin). So every run of neighbours, and with
    it every topic, is shared out evenly. A hash decides which split begins.
    """
    topics = {document.id: document.topic for document in documents}
    pair_counts = Counter(pair.document_id for pair in pairs)
    shares: dict[Split, float] = {
        "test": settings.test_share,
        "gate": settings.gate_share,
        "validation": settings.validation_share,
    }
    shares["train"] = 1.0 - sum(shares.values())

    def sort_key(cluster: Sequence[str]) -> tuple[str, int, float]:
        largest = max(cluster, key=lambda document: (pair_counts[document], draw(seed, "anchor", document)))
        return topics[largest], -sum(pair_counts[document] for document in cluster), draw(seed, "row", largest)

    # Pairs that each split lacks so far to have its share.
    missing = dict.fromkeys(shares, 0.0)
    for number, cluster in enumerate(sorted(new_clusters, key=sort_key)):
        size = max(sum(pair_counts[document] for document in cluster), 1)
        if number == 0:
            point, ends = draw(seed, "first", min(cluster)), zip(shares, accumulate(shares.values()), strict=True)
            missing[next((split for split, end in ends if point < end), "train")] = float(size)
        missing = {split: value + shares[split] * size for split, value in missing.items()}
        chosen = max(missing, key=lambda split: missing[split])
        missing[chosen] -= size
        yield cluster, chosen


def _without_empty_splits(
    shares: Sequence[tuple[Sequence[str], Split]], pairs: Sequence[QAPair], split_of: Mapping[str, Split], seed: int
) -> list[tuple[Sequence[str], Split]]:
    """Return the new clusters with their splits; a held-out split without a question gets the smallest one of train.

    Train keeps at least one cluster. The test and the gate come first, because nothing is measured without them.
    """
    pair_counts = Counter(pair.document_id for pair in pairs)
    shared, result = {split_of.get(pair.document_id) for pair in pairs}, list(shares)

    def size(cluster: Sequence[str]) -> tuple[int, float]:
        return sum(pair_counts[document] for document in cluster), draw(seed, "fill", min(cluster))

    def donors() -> list[int]:
        return [n for n, (cluster, split) in enumerate(result) if split == "train" and size(cluster)[0]]

    for wanted in HELD_OUT:
        has_question = wanted in shared or any(split == wanted and size(cluster)[0] for cluster, split in result)
        if not has_question and len(donors()) > 1:
            smallest = min(donors(), key=lambda number: size(result[number][0]))
            result[smallest] = (result[smallest][0], wanted)
    return result


def _split_mixed_cluster(
    documents: Sequence[Document],
    pinned: Mapping[str, Split],
    settings: DatasetSettings,
    links: Sequence[tuple[str, str]],
) -> dict[str, Split]:
    """Return {document id: split} for a cluster whose documents were in several splits before.

    Neighbours are near duplicates and documents joined by `links`. A held-out document with a neighbour in train is
    left out. A new document joins the split of its neighbours, or is left out if they are in two splits or in none.
    """
    ids = {document.id for document in documents}
    near_texts = near_pairs([document.text for document in documents], settings.jaccard)
    neighbours: dict[str, set[str]] = defaultdict(set)
    for a, b in [*((documents[i].id, documents[j].id) for i, j in near_texts), *links]:
        if a in ids and b in ids:
            neighbours[a].add(b)
            neighbours[b].add(a)
    trained = {document_id for document_id in ids if pinned.get(document_id) == "train"}
    split_of = {
        document_id: pinned[document_id]
        for document_id in ids & pinned.keys()
        if document_id in trained or not neighbours[document_id] & trained
    }
    waiting = sorted(ids - pinned.keys())
    while waiting:
        nearby = {
            document_id: {split_of[n] for n in neighbours[document_id] if n in split_of} for document_id in waiting
        }
        joining = next((document_id for document_id in waiting if len(nearby[document_id]) == 1), "")
        if not joining:
            break
        split_of[joining] = nearby[joining].pop()
        waiting.remove(joining)
    return split_of


def leaks(
    items: Sequence[SplitItem],
    documents: Sequence[Document],
    jaccard: float = 0.35,
    paraphrases: Sequence[tuple[str, str]] = (),
) -> list[str]:
    """Return one sentence for each leak from train into a held-out split; an empty list proves that there is none.

    An item of test, gate or validation leaks if train has its document, a near duplicate of its document, a near
    duplicate of its question, or a pair that means the same (`paraphrases` has the ids of such pairs).
    """
    splits: dict[str, set[Split]] = defaultdict(set)
    for item in items:
        splits[item.pair.document_id].add(item.split)
    sentences = []
    for document_id, own_splits in splits.items():
        if "train" in own_splits and len(own_splits) > 1:
            sentences.append(f"document {document_id} is in {' and '.join(sorted(own_splits))}")
    with_pairs = [document for document in documents if document.id in splits]
    for i, j in near_pairs([document.text for document in with_pairs], jaccard):
        a, b = with_pairs[i], with_pairs[j]
        if _is_leak(splits[a.id], splits[b.id]):
            sentences.append(f"documents {a.title} and {b.title} are near duplicates in different splits")
    position = {item.pair.id: number for number, item in enumerate(items)}
    same = [(position[a], position[b]) for a, b in paraphrases if a in position and b in position]
    for i, j in (*near_questions([item.pair.question for item in items]), *same):
        if _is_leak({items[i].split}, {items[j].split}):
            sentences.append(f"questions '{items[i].pair.question}' and '{items[j].pair.question}' are near duplicates")
    return sentences


def _is_leak(a: set[Split], b: set[Split]) -> bool:
    """Return whether one of two near duplicates is in train and the other one is held out."""
    return ("train" in a and bool(b & set(HELD_OUT))) or ("train" in b and bool(a & set(HELD_OUT)))


def widest_gap(items: Sequence[SplitItem], min_pairs: int = 100) -> float:
    """Return the largest difference between a topic's held-out share and that of all pairs, in 0..1.

    Topics with fewer than `min_pairs` pairs do not count; returns 0.0 if no topic is that large.
    """

    def held_out(counts: Mapping[str, int]) -> float:
        return 1.0 - counts["train"] / max(sum(counts.values()), 1)

    overall = held_out(Counter(item.split for item in items))
    large = [counts for _, counts in topic_balance(items) if sum(counts.values()) >= min_pairs]
    return max((abs(held_out(counts) - overall) for counts in large), default=0.0)


def topic_balance(items: Sequence[SplitItem]) -> list[tuple[str, dict[str, int]]]:
    """Return [(topic, {split: number of pairs})], the topic with the most pairs first."""
    counts_of: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        counts_of[item.pair.topic][item.split] += 1
    ranked = sorted(counts_of.items(), key=lambda entry: (-entry[1].total(), entry[0]))
    return [(topic, {split: counts[split] for split in SPLITS}) for topic, counts in ranked]
