import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from ragtune.answer.controls import Controls
from ragtune.answer.passages import Search, search_text
from ragtune.answer.prompt import REFUSAL
from ragtune.answer.small_talk import SMALL_TALK
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.model.examples.builder import ExampleBuilder
from ragtune.model.examples.example import TrainingExample
from ragtune.model.examples.mixture import DEFAULT, REPLAY, Mixture
from ragtune.model.examples.order import interleave
from ragtune.model.examples.styles import styled_target
from ragtune.model.examples.talk import short_form
from ragtune.records import Chunk, Hit, QAPair, SplitItem
from ragtune.settings import AnswerSettings
from tests.support.api_pages import articles, chunk, shop

SETTINGS = AnswerSettings(passages=3, shown_words=180)


@pytest.fixture(scope="module")
def corpus() -> tuple[list[Chunk], list[SplitItem]]:
    chunks = [chunk(document) for document in [*shop(), *articles(40)]]
    pairs = ExtractiveWriter(4).write(chunks)
    return chunks, [SplitItem(pair, "train", "c") for pair in pairs]


def build(
    items: Sequence[SplitItem],
    chunks: Sequence[Chunk],
    search: Search,
    seed: int = 1,
    mixture: Mixture = REPLAY,
    **sharing: int,
) -> list[TrainingExample]:
    """Return the conversations, without small talk and short follow-ups unless the mixture has them."""
    return ExampleBuilder(chunks, search, SETTINGS, seed, mixture).build(items, **sharing)


def right_first(chunks: Sequence[Chunk], items: Iterable[SplitItem]) -> Search:
    gold = {item.pair.question: item.pair.chunk_id for item in items}

    def search(question: str, limit: int) -> list[Hit]:
        ranked = sorted(chunks, key=lambda chunk: chunk.id != gold.get(question))
        return [Hit(chunk, 1.0 / (1 + place)) for place, chunk in enumerate(ranked[:limit])]

    return search


def never_right(chunks: Sequence[Chunk], items: Iterable[SplitItem]) -> Search:
    gold = {item.pair.question: item.pair.chunk_id for item in items}

    def search(question: str, limit: int) -> list[Hit]:
        return [Hit(chunk, 1.0) for chunk in chunks if chunk.id != gold.get(question)][:limit]

    return search


def copies(items: Sequence[SplitItem], number: int, **changes: str) -> list[SplitItem]:
    """Return copies of the items under ids of their own, so that each gets other draws."""
    return [
        replace(item, pair=replace(item.pair, id=f"{item.pair.id}{copy}", **changes))
        for copy in range(number)
        for item in items
    ]


def system_of(example: TrainingExample) -> str:
    return example.messages[0].content


def question_of(example: TrainingExample) -> str:
    return example.messages[-2].content.rpartition("Question: ")[2]


def target_of(example: TrainingExample) -> str:
    return example.messages[-1].content


def passages_of(example: TrainingExample) -> str:
    return example.messages[-2].content.rpartition("\n\nQuestion: ")[0]


def passage_of(example: TrainingExample, number: int) -> str:
    """Return the text of one passage on one line."""
    text = re.search(rf"^\[{number}\] (.*?)(?=^\[\d\] |\Z)", passages_of(example), re.M | re.S)[1]
    return " ".join(text.split())


@pytest.mark.parametrize("search", [right_first, never_right])
def test_the_cited_passage_shows_the_answer(corpus, search):
    chunks, items = corpus
    pairs = {item.pair.id: item.pair for item in items}
    examples = [example for seed in range(5) for example in build(items, chunks, search(chunks, items), seed)]
    numbers = set()
    for example in examples:
        answer, target, system = pairs[example.pair_id].answer, target_of(example), system_of(example)
        if target == REFUSAL or "End each sentence" not in system:
            continue
        number = int(re.search(r"\[(\d)\]$", target)[1])
        numbers.add(number)
        assert answer in passage_of(example, number)
        text = target.removeprefix("1. ")
        is_longer = text.startswith(answer)
        is_shorter = answer.startswith(text[: -len(". [1]")])
        is_expert = "for an expert" in system and answer in text
        is_plain = "Use plain words" in system
        assert is_longer or is_shorter or is_expert or is_plain
    # Three passages are shown, four at full depth.
    assert {1, 2, 3} <= numbers <= {1, 2, 3, 4}


def test_unanswerable_pairs_are_refused_and_so_are_those_whose_passages_were_removed(corpus):
    chunks, items = corpus
    pairs = {item.pair.id: item.pair for item in items}
    examples = build(items, chunks, right_first(chunks, items))
    refused = {example.pair_id for example in examples if target_of(example) == REFUSAL}
    assert {pair.id for pair in pairs.values() if not pair.answerable} <= refused
    removed = [example for example in examples if example.pair_id in refused and pairs[example.pair_id].answerable]
    # The mixture removes 8% of them; 15% leaves room for chance in a small corpus.
    assert 0 < len(removed) < 0.15 * len(items)
    for example in removed:
        answer = pairs[example.pair_id].answer
        # A shorter answer, such as "int", is also in other passages.
        if len(answer) > 12:
            assert answer not in " ".join(passages_of(example).split())


def test_a_mixture_that_removes_all_passages_gives_refusals_only(corpus):
    chunks, items = corpus
    mixture = replace(REPLAY, removed=1.0, removed_how_to=1.0)
    examples = build(items, chunks, right_first(chunks, items), mixture=mixture)
    assert {target_of(example) for example in examples} == {REFUSAL}


def test_the_examples_are_the_same_each_time_and_mix_the_kinds(corpus):
    chunks, items = corpus
    examples = build(items, chunks, right_first(chunks, items))
    assert examples == build(items, chunks, right_first(chunks, items))
    kinds = [item.pair.kind for item in items]
    # A kind with more than 20 pairs must appear in the first quarter.
    frequent_kinds = {kind for kind in kinds if kinds.count(kind) > 20}
    assert len(frequent_kinds) >= 2
    assert frequent_kinds <= {example.kind for example in examples[: len(examples) // 4]}


def test_a_pair_whose_answer_no_prompt_shows_is_left_out(corpus):
    chunks, items = corpus
    item = next(item for item in items if item.pair.answerable and item.pair.kind == "purpose")
    unknown = replace(item, pair=replace(item.pair, answer="words that are nowhere in the corpus"))
    assert build([unknown], chunks, right_first(chunks, [unknown])) == []


def test_some_examples_have_an_earlier_turn_and_some_no_citation(corpus):
    chunks, items = corpus
    examples = build(copies(items, 4), chunks, right_first(chunks, items))
    follow_ups = [example for example in examples if len(example.messages) == 5]
    # The mixture asks for 12%; a pair that is the first about its document cannot be a follow-up.
    assert 0.03 < len(follow_ups) / len(examples) < 0.14
    assert {tuple(turn.role for turn in example.messages[1:3]) for example in follow_ups} == {("user", "assistant")}
    answers = [example for example in examples if target_of(example) != REFUSAL]
    uncited = [example for example in answers if "End each sentence" not in system_of(example)]
    assert uncited
    assert not any(re.search(r"\[\d\]", target_of(example)) for example in uncited)


def test_the_depth_dial_adds_a_sentence_or_keeps_only_the_first():
    text = "Opens the valve of the tank. It stays open for ten minutes. Then it closes."
    gold = Chunk(
        id="c", document_id="d", source="s", title="tank.open", heading_path=("tank.open",), text=text, position=0
    )
    two_sentences = text[:58]
    pair = QAPair(
        id="p",
        question="What does tank.open do?",
        answer=two_sentences,
        kind="purpose",
        document_id="d",
        chunk_id="c",
        span=(0, len(two_sentences)),
    )
    items = copies([SplitItem(pair, "train", "x")], 300)
    examples = build(items, [gold], lambda question, limit: [Hit(gold, 1.0)])

    def answers(style: str) -> set[str]:
        return {target_of(example) for example in examples if style in system_of(example)} - {REFUSAL}

    assert answers("Explain in detail.") == {f"{text} [1]"}
    assert answers("Use as few words as you can.") == {"Opens the valve of the tank. [1]"}


def test_a_short_follow_up_is_searched_for_with_the_question_before_it(corpus):
    chunks, items = corpus
    many = copies(items, 8)
    searches = []

    def search(text: str, limit: int) -> list[Hit]:
        searches.append(text)
        return [Hit(chunk, 1.0) for chunk in chunks[:limit]]

    examples = [example for example in build(many, chunks, search, mixture=DEFAULT) if example.kind != "talk"]
    assert {search_text(question_of(example), example.messages[1:-2]) for example in examples} <= set(searches)
    pairs = {item.pair.id: item.pair for item in many}
    shortened = [example for example in examples if question_of(example) != pairs[example.pair_id].question]
    assert len(shortened) > 10
    for example in shortened:
        pair, earlier_question = pairs[example.pair_id], example.messages[1].content
        assert f"{earlier_question} {question_of(example)}" in searches
        assert target_of(example) == REFUSAL or pair.answer in target_of(example)
        assert earlier_question in {item.pair.question for item in many if item.pair.document_id == pair.document_id}


def test_a_follow_up_is_shortened_only_if_the_turn_before_says_what_it_is_about():
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

    def short_forms(pair: QAPair, kind_before: str) -> set[str]:
        before = QAPair(id="b", question="?", answer="a", kind=kind_before, document_id="d", chunk_id="c")
        return {short_form(pair, before, gold, seed) for seed in range(30)}

    type_pair = pair("type", "type", "int")
    assert "And the type of `limit`?" in short_forms(type_pair, "default")
    assert short_forms(replace(type_pair, answerable=False), "default") == {""}, "it has no list item"
    when, which = pair("raises", "raises.when", "If full."), pair("raises", "raises.which", "tank.Full")
    assert short_forms(when, "purpose") == {"And when does it raise tank.Full?", "when do i get tank.Full from it"}
    assert short_forms(when, "parameter") == {""}, '"it" would be the parameter'
    assert short_forms(which, "purpose") == {""}, "the short form would give the answer away"


def test_the_question_of_a_correction_is_never_shortened(corpus):
    chunks, items = corpus
    examples = build(copies(items, 8, writer="review"), chunks, right_first(chunks, items), mixture=DEFAULT)
    questions = {question_of(example) for example in examples if example.kind != "talk"}
    assert questions <= {item.pair.question for item in items}
    assert any(len(example.messages) == 5 for example in examples)


def test_small_talk_gets_its_reply_without_a_citation_although_passages_are_shown(corpus):
    chunks, items = corpus
    many = copies(items, 8)
    examples = build(many, chunks, right_first(chunks, items), mixture=DEFAULT)
    without = build(many, chunks, right_first(chunks, items))
    assert {example.pair_id for example in examples} == {example.pair_id for example in without}
    small_talk = [example for example in examples if example.kind == "talk"]
    # The mixture asks for 4%.
    assert 0.02 < len(small_talk) / len(examples) < 0.06
    replies = {reply for _, reply in SMALL_TALK}
    assert {target_of(example) for example in small_talk} <= replies
    assert not any("[" in reply for reply in replies)
    assert {len(example.messages) for example in small_talk} == {3, 5}, "at the beginning and after a turn"
    assert all("[1] " in passages_of(example) for example in small_talk)


OPENS = "Opens the valve of the tank."
PAGE = (
    "`tank.open(limit=5)`  (function)\n\nOpens the valve of the tank. It stays open for ten minutes."
    " For example, `tank.open(3)` opens three.\n\nParameters:\n- `limit` (int, default 5): How many valves open."
    "\n- `wait` (bool): Whether to wait. For example, a slow valve."
)


@pytest.mark.parametrize(
    ("answer", "kind", "style", "beginning"),
    [
        (OPENS, "purpose", Controls(technical_level=1.0), f"`tank.open(limit=5)`: {OPENS}"),
        ("How many valves open.", "parameter", Controls(technical_level=1.0), "`limit` (int, default 5): How many"),
        (OPENS, "purpose", Controls(examples=True), f"{OPENS} For example, `tank.open(3)`"),
        ("`tank.open`", "how_to", Controls(technical_level=0.0), "open. [2]"),
        ("the `limit` of it", "statement", Controls(technical_level=0.0), "the limit of it. [2]"),
        ("How many valves open.", "parameter", Controls(examples=True), "How many valves open. [2]"),
        ("int", "type", Controls(examples=True), "int. [2]"),
        ("How many valves open.", "parameter", Controls(citations=False), "How many valves open."),
        (OPENS, "purpose", Controls(step_by_step=True), f"1. {OPENS} [2]\n2. It"),
    ],
)
def test_a_style_changes_the_answer_only_by_words_that_the_prompt_shows(answer, kind, style, beginning):
    gold = Chunk(
        id="c", document_id="d", source="s", title="tank.open", heading_path=("tank.open",), text=PAGE, position=0
    )
    start = max(0, PAGE.find(answer))
    pair = QAPair(
        id="p",
        question="What?",
        answer=answer,
        kind=kind,
        document_id="d",
        chunk_id="c",
        span=(start, start + len(answer)),
    )
    target = styled_target(pair, gold, " ".join(PAGE.split()), 2, style)
    assert target.startswith(beginning)
    assert ("[2]" in target) == style.citations
    trimmed = styled_target(pair, gold, answer, 2, style)
    assert answer.replace("`", "").rstrip(".").split(".")[-1] in trimmed
    assert "For example" not in trimmed
    assert "default 5" not in trimmed


def test_all_passages_that_an_answer_needs_are_shown(corpus):
    chunks, items = corpus
    item = next(item for item in items if item.pair.kind == "purpose")
    other = next(chunk for chunk in chunks if chunk.id != item.pair.chunk_id and chunk.title == "shop.Cart.empty")
    with_evidence = replace(item, pair=replace(item.pair, evidence_ids=(other.id,)))
    search = never_right(chunks, [with_evidence])
    examples = [example for seed in range(5) for example in build([with_evidence], chunks, search, seed)]
    prompts = [" ".join(passages_of(example).split()) for example in examples if target_of(example) != REFUSAL]
    assert prompts
    assert all("shop.Cart.empty" in prompt and item.pair.answer in prompt for prompt in prompts)


def test_questions_that_the_same_passages_answer_share_one_prompt(corpus):
    chunks, items = corpus
    pairs = {item.pair.id: item.pair for item in items}
    single = build(items, chunks, right_first(chunks, items))
    examples = build(items, chunks, right_first(chunks, items), together=4)
    siblings = [(example, sibling) for example in examples for sibling in example.siblings]
    # At least a quarter is joined; otherwise sharing would save nothing.
    assert len(siblings) > len(single) / 4
    ids = {conversation.pair_id for example in examples for conversation in (example, *example.siblings)}
    assert len(ids) == len(single)
    assert max(len(example.siblings) for example in examples) == 3
    for example, sibling in siblings:
        pair, target = pairs[sibling.pair_id], target_of(sibling)
        assert sibling.messages[0] == example.messages[0]
        assert sibling.messages[1].content == f"{passages_of(example)}\n\nQuestion: {pair.question}"
        if pair.answerable:
            number = int(re.search(r"\[(\d)\]$", target)[1])
            assert pair.answer in passage_of(example, number)
        else:
            assert target == REFUSAL


def test_no_more_prompts_are_built_than_the_limit(corpus):
    chunks, items = corpus
    assert len(build(items, chunks, right_first(chunks, items), together=4, limit=5)) == 5


def named(*names: str) -> list[TrainingExample]:
    return [TrainingExample((), name, "purpose") for name in names]


def test_examples_about_something_else_are_spread_evenly_and_keep_their_order():
    mixed = interleave(named(*"abcdefghij"), named("X", "Y", "Z"), share=0.25, limit=9)
    assert [example.pair_id for example in mixed] == ["a", "b", "c", "X", "d", "e", "f", "Y", "g"]


def test_interleaving_ends_if_both_lists_have_run_out():
    mixed = interleave(named("a", "b"), named("X"), share=0.5, limit=9)
    assert [example.pair_id for example in mixed] == ["a", "X", "b"]
    assert interleave(named("a", "b"), named("X"), share=0.0, limit=9) == named("a", "b")
