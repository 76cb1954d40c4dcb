import random
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.near_duplicates import clusters, near_questions
from ragtune.dataset.splits import leaks, split_pairs, topic_balance, widest_gap
from ragtune.records import Document
from ragtune.settings import DatasetSettings
from ragtune.text.shingles import jaccard, near_pairs, shingles
from tests.support.api_pages import articles, chunk, document

SETTINGS = DatasetSettings()


def near_copy(of: Document, number: int) -> Document:
    words = of.text.split(" ")
    place = random.Random(number).randrange(len(words) // 2, len(words))
    title = of.title + f"_copy{number}"
    text = " ".join([*words[:place], "changed", *words[place + 1 :]]).replace(of.title, title)
    return document(title, text)


def pairs_of(documents):
    return ExtractiveWriter(1).write([chunk(page) for page in documents])


def test_minhash_finds_what_comparing_all_pairs_finds():
    originals = articles(40)
    texts = [page.text for page in [*originals, *(near_copy(page, i) for i, page in enumerate(originals))]]
    for threshold in (0.35, 0.6):
        brute = {
            (i, j)
            for i, j in combinations(range(len(texts)), 2)
            if jaccard(shingles(texts[i]), shingles(texts[j])) >= threshold
        }
        assert brute
        assert set(near_pairs(texts, threshold)) == brute


def test_near_duplicates_share_a_split_and_nothing_leaks():
    originals = articles(120)
    documents = [*originals, *(near_copy(page, i) for i, page in enumerate(originals[:60]))]
    items = split_pairs(pairs_of(documents), documents, SETTINGS, seed=5)
    assert {item.split for item in items} == {"train", "validation", "gate", "test"}
    assert leaks(items, documents) == []


def test_a_planted_leak_is_named():
    originals = articles(60)
    documents = [*originals, near_copy(originals[0], 1)]
    pairs = pairs_of(originals)
    items = split_pairs(pairs, originals, SETTINGS, seed=5)
    copied = replace(pairs[0], id="x", question="What is the copy?", document_id=documents[-1].id)
    other = "train" if items[0].split != "train" else "test"
    sentences = leaks([*items, replace(items[0], pair=copied, split=other)], documents)
    assert any("near duplicates in different splits" in sentence for sentence in sentences)
    same_question = replace(items[0], pair=replace(pairs[0], id="y", document_id="elsewhere"), split=other)
    assert any("questions" in sentence for sentence in leaks([*items, same_question], documents))


def test_adding_documents_moves_no_pair_when_the_old_splits_are_given():
    old = articles(150)
    first = split_pairs(pairs_of(old), old, SETTINGS, seed=5)
    before = {item.pair.id: item.split for item in first}
    previous = {item.pair.document_id: item.split for item in first}
    grown = [*old, *(near_copy(page, 100 + i) for i, page in enumerate(old[:40]))]
    later = split_pairs(pairs_of(grown), grown, SETTINGS, seed=5, previous=previous)
    moved = [item for item in later if before.get(item.pair.id, item.split) != item.split]
    assert moved == []
    assert leaks(later, grown) == []
    assert len(later) > len(first)


def test_a_near_duplicate_of_a_trained_and_of_a_held_out_document_is_left_out():
    a, b = articles(2)
    bridge = document("store.bridge", a.text + "\n" + b.text)
    documents = [a, b, bridge]
    previous = {a.id: "train", b.id: "test"}
    items = split_pairs(pairs_of(documents), documents, SETTINGS, seed=5, previous=previous)
    assert {item.pair.document_id: item.split for item in items} == {a.id: "train", b.id: "test"}
    assert leaks(items, documents) == []


def test_a_held_out_near_duplicate_of_a_trained_document_is_left_out():
    a = articles(1)[0]
    twin = near_copy(a, 7)
    items = split_pairs(pairs_of([a, twin]), [a, twin], SETTINGS, 5, pinned_train={a.id}, previous={twin.id: "test"})
    assert {item.pair.document_id for item in items} == {a.id}


def test_what_a_model_was_trained_on_stays_in_train():
    documents = articles(60)
    pairs = pairs_of(documents)
    held_out = {item.pair.document_id for item in split_pairs(pairs, documents, SETTINGS, 5) if item.split == "test"}
    assert held_out
    again = split_pairs(pairs, documents, SETTINGS, 5, pinned_train=held_out)
    assert {item.split for item in again if item.pair.document_id in held_out} == {"train"}


def test_every_split_has_its_share_of_every_topic():
    documents = [replace(page, topic=f"topic{i % 4}") for i, page in enumerate(articles(240))]
    items = split_pairs(pairs_of(documents), documents, SETTINGS, seed=5)
    shares = {"test": 0.12, "gate": 0.12, "validation": 0.05}
    balance = topic_balance(items)
    assert {topic for topic, _ in balance} == {"topic0", "topic1", "topic2", "topic3"}
    for topic, counts in balance:
        for split, share in shares.items():
            assert abs(counts[split] / sum(counts.values()) - share) <= 0.04, (topic, split)
    assert widest_gap(items, min_pairs=50) <= 0.05
    one_sided = [replace(item, split="train" if item.pair.topic == "topic1" else item.split) for item in items]
    assert widest_gap(one_sided, min_pairs=50) > 0.2


def test_the_split_of_a_single_new_document_is_drawn_by_the_shares():
    counts = Counter()
    for page in articles(300):
        counts.update({item.split for item in split_pairs(pairs_of([page]), [page], SETTINGS, seed=5)})
    assert 0.62 <= counts["train"] / counts.total() <= 0.8
    assert counts["test"] >= 15


def test_pairs_that_mean_the_same_keep_their_documents_together():
    documents = articles(80)
    pairs = pairs_of(documents)
    first = {}
    for pair in pairs:
        first.setdefault(pair.document_id, pair.id)
    ids = list(first.values())
    apart = split_pairs(pairs, documents, SETTINGS, seed=5)
    paraphrases = list(pairwise(ids[:30]))
    assert leaks(apart, documents, paraphrases=paraphrases) != []
    joined = split_pairs(pairs, documents, SETTINGS, seed=5, paraphrases=paraphrases)
    assert leaks(joined, documents, paraphrases=paraphrases) == []
    assert len({item.split for item in joined if item.pair.id in ids[:30]}) == 1


def test_a_cluster_is_a_chain_of_near_duplicates():
    a, b, c = articles(3)
    cluster_of = clusters([a, b, c], 0.35, links=[(a.id, b.id)])
    assert cluster_of[a.id] == cluster_of[b.id] != cluster_of[c.id]


def test_the_same_question_about_two_objects_is_not_near():
    questions = [
        "What is the default of `limit` in shop.Cart.fetch?",
        "Which value does shop.Cart.fetch use for limit when I leave it out?",
        "What is the default of `limit` in shop.Cart.empty?",
    ]
    assert (0, 2) not in set(near_questions(questions))
    assert (0, 1) in set(
        near_questions(["What does shop.Cart.fetch return?", "What do I get back from shop.Cart.fetch?"])
    )
