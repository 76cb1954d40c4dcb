import re
from dataclasses import replace

import pytest
from ragtune.model.styles import styled_target
from ragtune.model.talk import short_form

from ragtune.answer.answering import search_text
from ragtune.answer.controls import Controls
from ragtune.answer.prompt import REFUSAL
from ragtune.answer.small_talk import REPLIES
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.model.examples import TrainingExample, build_examples, interleaved
from ragtune.records import Chunk, Hit, QAPair, SplitItem
from ragtune.settings import AnswerSettings
from tests.support.api_pages import articles, chunk, shop

SETTINGS = AnswerSettings(passages=3, passage_words=60)


@pytest.fixture(scope="module")
def corpus():
    chunks = [chunk(each) for each in [*shop(), *articles(40)]]
    pairs = ExtractiveWriter(4).write(chunks)
    return chunks, [SplitItem(pair, "train", "c") for pair in pairs]


def right_first(chunks, items):
    gold = {item.pair.question: item.pair.chunk_id for item in items}

    def search(question, limit):
        ordered = sorted(chunks, key=lambda each: each.id != gold.get(question))
        return [Hit(each, 1.0 / (1 + place)) for place, each in enumerate(ordered[:limit])]

    return search


def never_right(chunks, items):
    gold = {item.pair.question: item.pair.chunk_id for item in items}
    return lambda question, limit: [Hit(each, 1.0) for each in chunks if each.id != gold.get(question)][:limit]


@pytest.mark.parametrize("search", [right_first, never_right])
def test_the_cited_passage_shows_the_answer(corpus, search):
    chunks, items = corpus
    by_id = {item.pair.id: item.pair for item in items}
    made = (build_examples(items, chunks, search(chunks, items), SETTINGS, seed, talk=False) for seed in range(5))
    examples = [example for each in made for example in each]
    cited = set()
    for example in examples:
        pair, target = by_id[example.pair_id], example.messages[-1].content
        if target == REFUSAL or "End each sentence" not in example.messages[0].content:
            continue
        number = int(re.search(r"\[(\d)\]$", target)[1])
        cited.add(number)
        passage = re.search(rf"^\[{number}\] (.*?)(?=^\[\d\] |^Question:)", example.messages[-2].content, re.M | re.S)[
            1
        ]
        assert pair.answer in " ".join(passage.split())
        asked_for, said = example.messages[0].content, target.removeprefix("1. ")
        expert = "for an expert" in asked_for and pair.answer in said
        plain = "Use plain words" in asked_for
        assert plain or expert or said.startswith(pair.answer) or pair.answer.startswith(said[:-5])
    assert {1, 2, 3} <= cited <= {1, 2, 3, 4}


def test_unanswerable_pairs_are_refused_and_so_are_those_whose_passage_was_taken_away(corpus):
    chunks, items = corpus
    by_id = {item.pair.id: item.pair for item in items}
    examples = build_examples(items, chunks, right_first(chunks, items), SETTINGS, seed=1, talk=False)
    refused = [by_id[example.pair_id] for example in examples if example.messages[-1].content == REFUSAL]
    assert {pair.id for pair in by_id.values() if not pair.answerable} <= {pair.id for pair in refused}
    taken = [pair for pair in refused if pair.answerable]
    assert 0 < len(taken) < 0.15 * len(items)
    for example in examples:
        pair = by_id[example.pair_id]
        if pair in taken and len(pair.answer) > 12:
            assert pair.answer not in " ".join(example.messages[-2].content.split())


def test_the_examples_are_the_same_each_time_and_mix_the_kinds(corpus):
    chunks, items = corpus
    first = build_examples(items, chunks, right_first(chunks, items), SETTINGS, seed=1, talk=False)
    assert first == build_examples(items, chunks, right_first(chunks, items), SETTINGS, seed=1, talk=False)
    kinds = {item.pair.kind for item in items if sum(other.pair.kind == item.pair.kind for other in items) > 20}
    assert len(kinds) >= 2
    assert kinds <= {example.kind for example in first[: len(first) // 4]}


def test_an_answer_that_the_index_can_never_show_is_left_out(corpus):
    chunks, items = corpus
    item = next(item for item in items if item.pair.answerable and item.pair.kind == "purpose")
    gone = replace(item, pair=replace(item.pair, answer="words that stand nowhere in the corpus"))
    assert build_examples([gone], chunks, right_first(chunks, [gone]), SETTINGS, seed=1, talk=False) == []


def test_some_examples_have_an_earlier_turn_and_some_no_citation(corpus):
    chunks, items = corpus
    many = [replace(item, pair=replace(item.pair, id=f"{item.pair.id}{n}")) for n in range(4) for item in items]
    examples = build_examples(many, chunks, right_first(chunks, items), SETTINGS, seed=1, talk=False)
    told = [example for example in examples if example.messages[-1].content != REFUSAL]
    earlier = [example for example in examples if len(example.messages) == 5]
    assert 0.03 < len(earlier) / len(examples) < 0.14
    assert all(example.messages[1].role == "user" and example.messages[2].role == "assistant" for example in earlier)
    uncited = [example for example in told if "End each sentence" not in example.messages[0].content]
    assert uncited
    assert not any(re.search(r"\[\d\]", example.messages[-1].content) for example in uncited)


def test_a_dial_for_depth_makes_the_answer_a_sentence_longer_or_shorter():
    text = "Opens the valve of the tank. It stays open for ten minutes. Then it closes."
    gold = Chunk(
        id="c", document_id="d", source="s", title="tank.open", heading_path=("tank.open",), text=text, position=0
    )
    both = QAPair(
        id="",
        question="What does tank.open do?",
        answer=text[:58],
        kind="purpose",
        document_id="d",
        chunk_id="c",
        span=(0, 58),
    )
    items = [SplitItem(replace(both, id=f"p{n}"), "train", "x") for n in range(300)]
    examples = build_examples(items, [gold], lambda question, limit: [Hit(gold, 1.0)], SETTINGS, seed=1, talk=False)
    said = {
        style: {e.messages[-1].content for e in examples if style in e.messages[0].content} - {REFUSAL}
        for style in ("Explain in detail.", "Use as few words as you can.")
    }
    long = "Opens the valve of the tank. It stays open for ten minutes. Then it closes. [1]"
    assert said["Explain in detail."] == {long}
    assert said["Use as few words as you can."] == {"Opens the valve of the tank. [1]"}


def test_a_short_follow_up_is_searched_for_with_the_question_before_it(corpus):
    chunks, items = corpus
    many = [replace(item, pair=replace(item.pair, id=f"{item.pair.id}{n}")) for n in range(8) for item in items]
    searched = []

    def search(question, limit):
        searched.append(question)
        return [Hit(each, 1.0) for each in chunks[:limit]]

    examples = build_examples(many, chunks, search, SETTINGS, seed=1)
    examples = [example for example in examples if example.kind != "talk"]
    assert all(search_text(asked_in(example), example.messages[1:-2]) in searched for example in examples)
    asked = {example.pair_id: asked_in(example) for example in examples}
    by_id = {item.pair.id: item.pair for item in many}
    short = [e for e in examples if asked[e.pair_id] != by_id[e.pair_id].question]
    assert len(short) > 10
    for example in short:
        pair, before = by_id[example.pair_id], example.messages[1].content
        assert f"{before} {asked[pair.id]}" in searched
        assert example.messages[-1].content == REFUSAL or pair.answer in example.messages[-1].content
        assert before in {item.pair.question for item in many if item.pair.document_id == pair.document_id}


def test_a_follow_up_is_cut_short_only_where_the_turn_before_says_what_it_is_about():
    text = (
        "`tank.open(limit=5)`\n\nParameters:\n- `limit` (int, default 5): How many.\n\nRaises:\n- tank.Full: If full."
    )
    gold = Chunk(
        id="c", document_id="d", source="s", title="tank.open", heading_path=("tank.open",), text=text, position=0
    )

    def pair(kind: str, template: str, answer: str) -> QAPair:
        start = text.index(answer)
        return QAPair(
            id="p",
            question="What?",
            answer=answer,
            kind=kind,
            document_id="d",
            chunk_id="c",
            span=(start, start + len(answer)),
            template=f"{template}.0",
        )

    def forms(of: QAPair, before: str) -> set[str]:
        return {
            short_form(
                of, QAPair(id="b", question="?", answer="a", kind=before, document_id="d", chunk_id="c"), gold, seed
            )
            for seed in range(30)
        }

    assert "And the type of `limit`?" in forms(pair("type", "type", "int"), "default")
    assert forms(replace(pair("type", "type", "int"), answerable=False), "default") == {""}, "no item is its own"
    when, which = pair("raises", "raises.when", "If full."), pair("raises", "raises.which", "tank.Full")
    assert forms(when, "purpose") == {"And when does it raise tank.Full?", "when do i get tank.Full from it"}
    assert forms(when, "parameter") == {""}, "it would be the parameter"
    assert forms(which, "purpose") == {""}, "the short form would hold the answer"


def test_the_question_of_a_correction_is_left_as_the_person_asked_it(corpus):
    chunks, items = corpus
    many = [
        replace(item, pair=replace(item.pair, id=f"{item.pair.id}{n}", writer="review"))
        for n in range(8)
        for item in items
    ]
    examples = build_examples(many, chunks, right_first(chunks, items), SETTINGS, seed=1)
    real = {item.pair.question for item in items}
    assert {asked_in(example) for example in examples if example.kind != "talk"} <= real
    assert any(len(example.messages) == 5 for example in examples)


def asked_in(example: TrainingExample) -> str:
    return example.messages[-2].content.rpartition("Question: ")[2]


def test_small_talk_gets_a_friendly_word_and_no_citation_whatever_was_found(corpus):
    chunks, items = corpus
    many = [replace(item, pair=replace(item.pair, id=f"{item.pair.id}{n}")) for n in range(8) for item in items]
    examples = build_examples(many, chunks, right_first(chunks, items), SETTINGS, seed=1)
    without = build_examples(many, chunks, right_first(chunks, items), SETTINGS, seed=1, talk=False)
    assert {example.pair_id for example in examples} == {example.pair_id for example in without}
    talk = [example for example in examples if example.kind == "talk"]
    assert 0.02 < len(talk) / len(examples) < 0.06
    assert {example.messages[-1].content for example in talk} <= REPLIES
    assert not any("[" in reply for reply in REPLIES)
    assert {len(example.messages) for example in talk} == {3, 5}
    assert all("[1] " in example.messages[-2].content for example in talk)


OPENS = "Opens the valve of the tank."
LIMIT = (
    "`tank.open(limit=5)`  (function)\n\nOpens the valve of the tank. It stays open for ten minutes."
    " For example, `tank.open(3)` opens three.\n\nParameters:\n- `limit` (int, default 5): How many valves open."
    "\n- `wait` (bool): Whether to wait. For example, a slow valve."
)
STYLED = [
    (OPENS, "purpose", Controls(technical_level=1.0), "`tank.open(limit=5)`: Opens the valve"),
    ("How many valves open.", "parameter", Controls(technical_level=1.0), "`limit` (int, default 5): How many valves"),
    (
        "Opens the valve of the tank.",
        "purpose",
        Controls(examples=True),
        "Opens the valve of the tank. For example, `tank.open(3)`",
    ),
    ("`tank.open`", "how_to", Controls(technical_level=0.0), "open. [2]"),
    ("the `limit` of it", "statement", Controls(technical_level=0.0), "the limit of it. [2]"),
    ("How many valves open.", "parameter", Controls(examples=True), "How many valves open. [2]"),
    ("int", "type", Controls(examples=True), "int. [2]"),
    ("How many valves open.", "parameter", Controls(citations=False), "How many valves open."),
    (
        "Opens the valve of the tank.",
        "purpose",
        Controls(step_by_step=True),
        f"1. {OPENS} [2]\n2. It",
    ),
]


@pytest.mark.parametrize(("answer", "kind", "style", "said"), STYLED)
def test_a_dial_or_a_switch_changes_the_answer_by_what_the_passage_shows(answer, kind, style, said):
    gold = Chunk(
        id="c", document_id="d", source="s", title="tank.open", heading_path=("tank.open",), text=LIMIT, position=0
    )
    start = max(0, LIMIT.find(answer))
    pair = QAPair(
        id="p",
        question="What?",
        answer=answer,
        kind=kind,
        document_id="d",
        chunk_id="c",
        span=(start, start + len(answer)),
    )
    target = styled_target(pair, gold, " ".join(LIMIT.split()), 2, style)
    assert target.startswith(said)
    assert ("[2]" in target) == style.citations
    hidden = styled_target(pair, gold, answer, 2, style)
    assert answer.replace("`", "").rstrip(".").split(".")[-1] in hidden, "what the prompt does not show is not said"
    assert "For example" not in hidden
    assert "default 5" not in hidden


def test_all_passages_that_an_answer_needs_are_shown(corpus):
    chunks, items = corpus
    item = next(item for item in items if item.pair.kind == "purpose")
    other = next(each for each in chunks if each.id != item.pair.chunk_id and each.title == "shop.Cart.empty")
    both = replace(item, pair=replace(item.pair, evidence_ids=(other.id,)))
    shown = []
    for seed in range(5):
        made = build_examples([both], chunks, never_right(chunks, [both]), SETTINGS, seed, talk=False)
        shown += [" ".join(each.messages[-2].content.split()) for each in made if each.messages[-1].content != REFUSAL]
    assert shown
    assert all("shop.Cart.empty" in text and item.pair.answer in text for text in shown)


def test_questions_that_the_same_passages_answer_share_one_prompt(corpus):
    chunks, items = corpus
    by_id = {item.pair.id: item.pair for item in items}
    alone = build_examples(items, chunks, right_first(chunks, items), SETTINGS, seed=1, talk=False)
    examples = build_examples(items, chunks, right_first(chunks, items), SETTINGS, seed=1, talk=False, together=4)
    joined = [(example, sibling) for example in examples for sibling in example.siblings]
    assert len(joined) > len(alone) / 4
    assert len({each.pair_id for example in examples for each in (example, *example.siblings)}) == len(alone)
    assert max(len(example.siblings) for example in examples) == 3
    for example, sibling in joined:
        passages = example.messages[1].content.rpartition("\n\nQuestion: ")[0]
        pair, target = by_id[sibling.pair_id], sibling.messages[-1].content
        assert sibling.messages[0] == example.messages[0]
        assert sibling.messages[1].content == f"{passages}\n\nQuestion: {pair.question}"
        if pair.answerable:
            number = int(re.search(r"\[(\d)\]$", target)[1])
            passage = re.search(rf"^\[{number}\] (.*?)(?=^\[\d\] |\Z)", passages, re.M | re.S)[1]
            assert pair.answer in " ".join(passage.split())
        else:
            assert target == REFUSAL


def test_no_more_prompts_are_built_than_asked_for(corpus):
    chunks, items = corpus
    assert (
        len(build_examples(items, chunks, right_first(chunks, items), SETTINGS, seed=1, talk=False, together=4, most=5))
        == 5
    )


def told(*names):
    return [TrainingExample((), name, "purpose") for name in names]


def test_examples_about_something_else_are_spread_evenly_and_keep_the_order():
    mixed = interleaved(told(*"abcdefghij"), told("X", "Y", "Z"), share=0.25, most=9)
    assert [each.pair_id for each in mixed] == ["a", "b", "c", "X", "d", "e", "f", "Y", "g"]


def test_examples_end_when_there_are_no_more_of_either_sort():
    assert [each.pair_id for each in interleaved(told("a", "b"), told("X"), share=0.5, most=9)] == ["a", "X", "b"]
    assert interleaved(told("a", "b"), told("X"), share=0.0, most=9) == told("a", "b")
