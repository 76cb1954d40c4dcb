"""Chooses which facts are asked about and which of the written pairs stay.

Every choice is a seeded hash of the fact or pair itself, so new documents leave the choices for the old ones alone.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from ragtune.dataset.checks.quality import gives_away
from ragtune.dataset.checks.word_overlap import overlap_answer, token_overlap
from ragtune.dataset.extractive.fact import Fact
from ragtune.draws import draw
from ragtune.records import Chunk, QAPair

# The shares, weights and limits here were chosen by hand to balance the kinds of pairs (docs/dataset.md, "Figures").
# None was tuned on a score of a model.

# Weights of kinds when a chunk has more facts than may be asked: the lower, the earlier. Kinds not listed have 1.
_WEIGHTS = {
    "table": 0.0,
    "how_to": 0.1,
    "raises": 0.1,
    "base": 0.3,
    "definition": 0.1,
    "condition": 0.2,
    "relation": 0.3,
}
# How many facts of a kind one chunk may be asked about. Kinds not listed have 1.
_FACTS_PER_KIND = {
    "table": 3,
    "list_item": 3,
    "statement": 3,
    "how_to": 2,
    "remark": 2,
    "definition": 2,
    "condition": 2,
}
# Answers that teach little, and templates that ask for a type. Pages are full of both.
_TRIVIAL_ANSWERS = frozenset({"True", "False", "[]", "{}", "''", "str", "int", "bool", "dict"})
_TYPE_GROUPS = ("type", "returns.type", "returns.value")
_ASKED_TYPES, _ASKED_TRIVIAL_TYPES, _ASKED_TRIVIAL_ANSWERS, _ASKED_BASES = 0.45, 0.15, 0.4, 0.5
# Shares of the prose pairs to keep that the best sentence by word overlap answers. The listed kinds are mostly
# such pairs (benchmarks/dataset/prose.json), so fewer of them stay.
_EASY_SHARE, _EASY_SHARES = 0.5, {"definition": 0.15, "remark": 0.15}
_EASY_OVERLAP = 0.8
"""Token F1; `overlap_shares` counts a pair as answered from the same value on."""
# Questions for an absent fact are easier to refuse than those for a borrowed parameter, so they come later.
_ABSENT_FACT_HANDICAP = 0.6
# How often the same short answer may recur: the share of all pairs for answers of one, two and three words.
_SAME_ANSWER_SHARES = {1: 0.006, 2: 0.004, 3: 0.002}
_FEWEST_OF_SAME_ANSWER = 3


def chosen_facts(seed: int, chunk: Chunk, facts: Iterable[Fact], limit: int) -> list[Fact]:
    """Return up to `limit` facts of a chunk, at most a few of each kind, rare kinds first."""
    best: dict[tuple[str, int], tuple[float, Fact]] = {}
    for fact in facts:
        answer = chunk.text[fact.start : fact.end]
        if draw(seed, "keep", chunk.id, fact.template_group, answer, fact.focus) >= _asked_share(fact, answer):
            continue
        rank = draw(seed, "pick", chunk.id, fact.template_group, str(fact.start), fact.draw_key)
        if answer in _TRIVIAL_ANSWERS or fact.template_group in _TYPE_GROUPS:
            # Behind all others.
            rank += 1.0
        # Facts of a kind compete for its places; which place is theirs depends on where they stand.
        place = (fact.kind, fact.start % _FACTS_PER_KIND.get(fact.kind, 1))
        if place not in best or rank < best[place][0]:
            best[place] = (rank, fact)
    ranked = sorted((_weighted(rank, fact.kind), place) for place, (rank, fact) in best.items())
    return [best[place][1] for _, place in ranked[:limit]]


def _weighted(rank: float, kind: str) -> float:
    return rank if rank >= 1 else rank * _WEIGHTS.get(kind, 1.0)


def _asked_share(fact: Fact, answer: str) -> float:
    """Return which share of the facts like this one is asked about."""
    is_trivial = answer in _TRIVIAL_ANSWERS
    if fact.template_group in _TYPE_GROUPS:
        return _ASKED_TRIVIAL_TYPES if is_trivial else _ASKED_TYPES
    if fact.kind == "base":
        return _ASKED_BASES
    return _ASKED_TRIVIAL_ANSWERS if is_trivial else 1.0


def chosen_unanswerable(seed: int, chunk: Chunk, facts: Sequence[Fact], answerable: int, share: float) -> list[Fact]:
    """Return enough facts without an answer to make up `share` of all pairs on average.

    `answerable` counts the pairs with an answer that were written from the same chunks.
    """
    if not facts or not answerable:
        return []
    expected = answerable * share / (1 - share)
    count = int(expected + draw(seed, "absent count", chunk.id))

    def rank(fact: Fact) -> float:
        handicap = _ABSENT_FACT_HANDICAP if fact.kind == "unanswerable.absent" else 0.0
        return draw(seed, "absent", chunk.id, fact.kind) + handicap

    return sorted(facts, key=rank)[:count]


def is_worth_asking(seed: int, pair: QAPair, chunk: Chunk) -> bool:
    """Return whether a pair takes understanding; of those that the best sentence answers, a share passes too."""
    best_sentence = overlap_answer(pair.question, chunk.text)
    if token_overlap(best_sentence, pair.answer) < _EASY_OVERLAP:
        return True
    return draw(seed, "easy", pair.id) < _EASY_SHARES.get(pair.kind, _EASY_SHARE)


def distinct_pairs(seed: int, pairs: Sequence[QAPair]) -> list[QAPair]:
    """Drop repeated questions, repeated long answers, short answers that recur too often, and given-away answers."""
    kept_ids: set[str] = set()
    questions: set[str] = set()
    answers: Counter[tuple[str, str]] = Counter()
    for pair in sorted(pairs, key=lambda pair: draw(seed, "keep", pair.id)):
        question, words = pair.question.lower(), len(pair.answer.split())
        is_short = words <= max(_SAME_ANSWER_SHARES)
        # `None` may be the answer of several kinds; a sentence is one fact, whatever asks for it.
        answer = (pair.kind if is_short else "", pair.answer.lower())
        limit = _most_of_same_answer(words, len(pairs)) if is_short else 1
        teaches_nothing = answers[answer] >= limit or gives_away(pair.question, pair.answer)
        if question in questions or (pair.answerable and teaches_nothing):
            continue
        questions.add(question)
        answers[answer] += pair.answerable
        kept_ids.add(pair.id)
    return [pair for pair in {pair.id: pair for pair in pairs}.values() if pair.id in kept_ids]


def _most_of_same_answer(words: int, pairs: int) -> int:
    return max(_FEWEST_OF_SAME_ANSWER, int(pairs * _SAME_ANSWER_SHARES.get(words, 0.0)))
