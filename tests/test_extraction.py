import re
from collections import Counter
from dataclasses import replace

import pytest

from ragtune.dataset.extractive.questions import as_typed
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.records import Chunk, QAPair
from tests.support.api_pages import CART, articles, chunk, document, shop

SHOP = [chunk(page) for page in shop()]


def write_pairs(chunks: list[Chunk], seed: int = 3, limit: int = 50) -> list[QAPair]:
    return ExtractiveWriter(seed, limit_per_chunk=limit, unanswerable_share=0.4).write(chunks)


@pytest.fixture(scope="module")
def pairs() -> list[QAPair]:
    """The pairs of many seeds, because one seed asks few questions of a kind."""
    return [pair for seed in range(30) for pair in write_pairs(SHOP, seed)]


def answers(pairs: list[QAPair], kind: str) -> set[str]:
    return {pair.answer for pair in pairs if pair.kind == kind}


def test_the_structure_of_an_api_page_is_asked_about(pairs):
    assert "Collects every matching article from the warehouse and its branches." in answers(pairs, "purpose")
    assert {"5", "2", "'north'"} == answers(pairs, "default")
    assert "How often a broken connection is tried again." in answers(pairs, "parameter")
    assert "Literal['north', 'south']" in answers(pairs, "type")
    assert "The articles found, ordered by their price." in answers(pairs, "returns")
    assert {"Container"} == answers(pairs, "base")
    assert "region" not in answers(pairs, "relation")
    assert "limit" in answers(pairs, "relation")


def test_prose_is_asked_about_definitions_steps_conditions_lists_and_tables(pairs):
    assert "A branch is a shop that keeps its own stock and opens on its own days." in answers(pairs, "definition")
    assert "send the keeper a signed note on the evening before." in answers(pairs, "how_to")
    assert "the warehouse opens the doors at nine." in answers(pairs, "condition")
    assert "a bound list of every article that a branch owns at midnight." in answers(pairs, "list_item")
    assert {"deep green", "pale red"} == answers(pairs, "table")


def test_every_question_about_an_object_names_it(pairs):
    api = [
        pair for pair in pairs if pair.topic == "shop" and pair.template.split(".")[0] in ("default", "returns", "type")
    ]
    assert api
    assert all("Cart." in pair.question for pair in api)


def test_an_unanswerable_question_asks_for_what_the_page_does_not_say(pairs):
    borrowed = [pair for pair in pairs if pair.kind == "unanswerable.parameter"]
    assert borrowed
    texts = {page.id: page.text for page in SHOP}
    parameters = ("item", "limit", "retries", "region", "force")
    for pair in borrowed:
        in_question = [name for name in parameters if re.search(rf"\b{name}\b", pair.question)]
        assert in_question
        assert all(f"`{name}`" not in texts[pair.chunk_id] for name in in_question)


def test_new_documents_leave_the_pairs_of_the_old_ones_alone():
    old = [chunk(page) for page in articles(60)]
    before = {pair.id for pair in ExtractiveWriter(1).write(old) if pair.answerable}
    after = {pair.id for pair in ExtractiveWriter(1).write([*old, *SHOP])}
    assert before <= after
    assert len(after) > len(before)


def test_a_long_answer_is_asked_for_once_over_all_documents():
    copies = [chunk(document(f"shop.Kind{i}", CART.replace("shop.Cart", f"shop.Kind{i}"))) for i in range(6)]
    counts = Counter(pair.answer for pair in write_pairs(copies) if len(pair.answer.split()) > 4)
    assert counts
    assert max(counts.values()) == 1


def test_a_text_of_noise_gives_no_pairs():
    noise = document("notes", "See below.\n\n::\n\n| | |\n\nThis is it. And so on: see above.\n\n- x\n- **\n", "prose")
    assert write_pairs([chunk(noise)]) == []


def test_no_template_can_flood_a_dataset():
    pairs = ExtractiveWriter(5).write([chunk(page) for page in articles(400)])
    counts = Counter(pair.template for pair in pairs)
    assert len(pairs) > 700
    # The quality report warns from this share on.
    assert max(counts.values()) / len(pairs) < 0.10


def test_some_questions_are_written_as_people_type_them():
    neat = "What does `Cart.fetch` return if I call it?"
    forms = Counter(as_typed(neat, seed) for seed in range(400))
    assert set(forms) == {
        neat,
        "what does Cart.fetch return if I call it?",
        "what does Cart.fetch return if i call it",
    }
    # 55% stay neat; 400 draws have a standard error of 2.5 points.
    assert 0.5 < forms[neat] / 400 < 0.6


def test_a_name_at_the_beginning_and_a_question_in_two_sentences_keep_their_marks():
    question = "I came across `Cart`. What is it?"
    assert {as_typed(question, seed) for seed in range(40)} == {question}


MEMBER = """`shop.{0}.merge_and_close(force=False)` (method)

Collects every open order of the day, then prints a long bill for {0}.
"""


def questions_about(*owners: str) -> set[str]:
    pages = [chunk(document(f"shop.{owner}.merge_and_close", MEMBER.format(owner))) for owner in owners]
    return {pair.question for seed in range(40) for pair in write_pairs(pages, seed) if pair.answerable}


def test_a_member_goes_by_its_bare_name_only_if_no_other_object_has_it():
    bare = re.compile(r"(?<![.\w])merge_and_close")
    unique, shared = questions_about("Till"), questions_about("Till", "Cart")
    assert 0 < sum(bool(bare.search(question)) for question in unique) < len(unique)
    assert not any(bare.search(question) for question in shared)


ICE_BOX = (
    "`shop.{0}(size)` (class)\n\nKeeps the goods of one day in a cold place.\n\nParameters:\n- `size` (int): Its room."
)


def test_some_questions_call_a_class_by_its_words_if_no_other_object_has_them():
    def phrases(*owners: str) -> set[str]:
        pages = [chunk(document(f"shop.{owner}", ICE_BOX.format(owner))) for owner in owners]
        questions = {pair.question.lower() for seed in range(40) for pair in write_pairs(pages, seed)}
        return {question for question in questions if "ice box" in question}

    assert any("an ice box" in question for question in phrases("IceBox"))
    assert not phrases("IceBox", "ice_box")


def test_some_questions_say_an_action_with_another_verb():
    page = chunk(
        document(
            "shop.drop_bill",
            "`shop.drop_bill(day)` (function)\n\nRemoves every unpaid bill of the day from the ledger of the shop.\n",
        )
    )
    questions = [p.question.lower() for seed in range(60) for p in write_pairs([page], seed) if p.kind == "how_to"]
    verbs = re.findall(r"(\w+) every unpaid bill", " ".join(questions))
    assert set(verbs) == {"remove", "delete", "drop"}


def described(*pages: tuple[str, str, str]) -> set[tuple[str, str]]:
    """Return (question without its end mark, answer) of the questions that describe an object and ask for its name.

    A page is the title of the object, its noun and the sentence about it.
    """
    chunks = [chunk(document(title, f"`{title}` ({noun})\n\n{sentence}\n")) for title, noun, sentence in pages]
    pairs = [pair for seed in range(80) for pair in write_pairs(chunks, seed)]
    return {(pair.question.lower().rstrip("?."), pair.answer) for pair in pairs if pair.kind == "how_to"}


def test_people_ask_for_an_action_by_no_more_words_than_it_takes():
    count = ("shop.count", "function", "Counts every parcel of the branch before the carrier drives to the harbour.")
    tell = ("shop.tell", "function", "Counts every parcel of the branch for the keeper who stays overnight.")
    brief, longer = "count every parcel", "count every parcel of the branch before the carrier drives"
    single, both = described(count), described(count, tell)
    assert {answer for question, answer in single if question.endswith(brief)} == {"shop.count"}
    assert not [question for question, _ in both if question.endswith(brief)]
    assert {answer for question, answer in both if question.endswith(longer)} == {"shop.count"}


def test_some_actions_are_asked_for_in_the_words_that_people_use():
    pairs = described(("shop.list", "function", "Lists the provided environment variables of every single directory."))
    assert any("list the env vars of every single folder" in question for question, _ in pairs)
    assert any("list the provided environment variables of every single directory" in question for question, _ in pairs)
    code = described(("shop.list", "function", "Lists the `current directory` of every keeper of the branch."))
    assert any("list the `current directory` of every keeper" in question for question, _ in code)


def test_some_classes_are_asked_for_by_the_words_of_their_name():
    page = [chunk(document("shop.IceBox", ICE_BOX.format("IceBox")))]
    answers = {
        pair.question.lower().rstrip("?."): pair.answer
        for seed in range(120)
        for pair in write_pairs(page, seed)
        if pair.template.startswith("purpose.spoken")
    }
    assert {"what is an ice box", "what is ice box", "what are ice boxes", "explain ice box"} & set(answers)
    assert len(set(answers.values())) == 1


def test_a_class_is_asked_for_by_what_it_is():
    pairs = described(("shop.WeekPlan", "class", "A set of deliveries that come back every week, for one branch."))
    assert any("a set of deliveries" in question and answer == "shop.WeekPlan" for question, answer in pairs)
    assert any(question.startswith("what do i need for a set of deliveries") for question, _ in pairs)


@pytest.mark.parametrize(
    "sentence",
    ["A delivery is a parcel that comes back every week.", "A keeper opens the doors of one branch every morning."],
)
def test_a_whole_sentence_is_not_asked_for_as_a_thing(sentence):
    assert not described(("shop.Plan", "class", sentence))


@pytest.mark.parametrize(
    ("sentence", "never"),
    [
        ("Counts parcels according to the day on which they left the harbour of the branch.", "according"),
        ("Counts parcels between the harbour and the branch that are on their way.", "harbour"),
        ("Counts the heavy `parcel in transit` of the branch, and tells nobody.", "parcel"),
        ("Counts the number of parcels of the branch on their way.", "number"),
        ("Converts heavy parcels of the branch into one list that the keeper reads.", "branch"),
    ],
)
def test_a_description_ends_where_it_reads_as_one(sentence, never):
    questions = [question for question, _ in described(("shop.count", "function", sentence))]
    assert questions
    assert not [question for question in questions if question.endswith(never) or question.count("`") % 2]


def test_another_verb_never_means_another_object():
    pages = [
        ("shop.parse_bill", "function", "Parses bills in the harbour's format."),
        ("shop.read_bill", "function", "Reads bills in the harbour's format, and those of the keeper."),
    ]
    answers = {}
    for question, answer in described(*pages):
        assert answers.setdefault(question, answer) == answer


@pytest.mark.parametrize(
    "sentence", ["View of every shelf of the warehouse.", "Opens the shop. The doors must be oiled."]
)
def test_a_noun_or_two_sentences_are_no_action(sentence):
    page = chunk(document("shop.look", f"`shop.look(day)` (function)\n\n{sentence}\n"))
    assert not [pair for seed in range(20) for pair in write_pairs([page], seed) if pair.kind == "how_to"]


def test_a_name_that_begins_a_question_keeps_its_letters():
    questions = {pair.question for seed in range(200) for pair in write_pairs(SHOP, seed)}
    leading = {question for question in questions if question.lstrip("`").startswith("shop.Cart")}
    assert any(question.endswith("?") for question in leading)
    assert not any(question.lstrip("`").startswith("Shop.") for question in questions)


def test_a_described_parameter_is_asked_for_as_something_to_set():
    page = (
        "`shop.sensor(func, wait)` (function)\n\nWatches the door of the shop.\n\nParameters:\n"
        "- `func` (Callable): The code to run.\n"
        "- `wait` (int): The least number of seconds between two looks at the door.\n"
    )
    pairs = [pair for seed in range(40) for pair in write_pairs([chunk(document("shop.sensor", page))], seed)]
    answers = {pair.question.lower(): pair.answer for pair in pairs if pair.template.startswith("relation.set")}
    assert set(answers.values()) == {"wait"}
    assert any(question.startswith("how do i set the least number of seconds between") for question in answers)


def test_a_noun_that_looks_like_a_verb_makes_no_clause():
    page = (
        "`shop.find(route)` (function)\n\nFinds goods.\n\nParameters:\n"
        "- `route` (str): Format function mapping names to shelves of the cellar.\n"
    )
    pairs = [pair for seed in range(20) for pair in write_pairs([chunk(document("shop.find", page))], seed)]
    assert not [pair for pair in pairs if pair.kind == "relation"]


def purposes(sentence: str) -> dict[str, str]:
    page = chunk(document("shop.Cart.weigh", f"`shop.Cart.weigh()` (method)\n\n{sentence}\n"))
    pairs = [pair for seed in range(20) for pair in write_pairs([page], seed)]
    return {pair.template.split(".")[1]: pair.answer for pair in pairs if pair.kind == "purpose"}


@pytest.mark.parametrize(
    ("sentence", "group"),
    [
        ("Returns the weight of every article.", "does"),
        ("Given a list of articles, returns the weight of each of them.", "does"),
        ("Try to weigh every article of the basket.", "does"),
        ("The weight of every article in the basket.", "is"),
    ],
)
def test_a_purpose_is_asked_for_by_what_its_sentence_says(sentence, group):
    assert purposes(sentence) == {group: sentence}


@pytest.mark.parametrize(
    "sentence",
    [
        "As weights belong to the scales, calling it tells the weight to everyone.",
        "Override this method to weigh articles on other scales.",
        "Overriding `weigh()` so that every article of the basket counts.",
        "How to weigh every article of the basket.",
        "Deprecated: Use the scales of the branch instead.",
        "Child classes should override this method to weigh their articles.",
        "Each article of the basket should return a weight of its own.",
    ],
)
def test_a_reason_or_an_order_is_no_purpose(sentence):
    assert purposes(sentence) == {}


@pytest.mark.parametrize(
    ("description", "group"),
    [
        ("The article that a customer wants today.", "parameter"),
        ("Names of the shelves that are searched.", "parameter"),
        ("If True, the shelves of every branch are searched.", "parameter.effect"),
        ("Determines which shelves are searched first.", "parameter.effect"),
    ],
)
def test_a_parameter_is_asked_for_by_what_its_description_says(description, group):
    page = f"`shop.find(route)` (function)\n\nFinds goods.\n\nParameters:\n- `route` (str): {description}\n"
    pairs = [pair for seed in range(20) for pair in write_pairs([chunk(document("shop.find", page))], seed)]
    assert {pair.template.rsplit(".", 1)[0] for pair in pairs if pair.kind == "parameter"} == {group}


def test_a_plain_word_as_a_name_keeps_its_backticks_if_it_would_read_as_a_verb():
    forms = {as_typed("How is `installed` typed in Cart.pack?", seed, "type") for seed in range(40)}
    assert forms == {
        "How is `installed` typed in Cart.pack?",
        "how is `installed` typed in Cart.pack?",
        "how is `installed` typed in Cart.pack",
    }


@pytest.mark.parametrize(
    "description", ["By default, every article counts once for each branch.", 'dict { "weight": # of the article }']
)
def test_a_parameter_is_not_explained_by_its_default_or_by_code(description):
    page = f"`shop.find(route)` (function)\n\nFinds goods.\n\nParameters:\n- `route` (str): {description}\n"
    pairs = [pair for seed in range(20) for pair in write_pairs([chunk(document("shop.find", page))], seed)]
    assert not answers(pairs, "parameter")


def test_code_is_no_action_to_ask_for():
    page = "`shop.owner(cart)` (function)\n\nReturn cart.shop.door.owner of the branch that sells most, or None.\n"
    pairs = [pair for seed in range(20) for pair in write_pairs([chunk(document("shop.owner", page))], seed)]
    assert not [pair for pair in pairs if pair.kind == "how_to"]


def test_a_key_of_two_tables_is_not_asked_for():
    table = "| Parameter | Description |\n| --- | --- |\n| `{}` | {} |\n| `{}` | {} |\n"
    text = "# Moving goods\n\n## Van\n\n" + table.format(
        "speed", "how fast the van goes", "doors", "how many doors it has"
    )
    text += "\n## Ship\n\n" + table.format("speed", "how fast the ship goes", "masts", "how many masts it has")
    page = chunk(document("Moving goods", text, "prose"))
    tables = [pair for seed in range(40) for pair in write_pairs([page], seed) if pair.kind == "table"]
    keys = re.findall("doors|masts|speed", " ".join(pair.question for pair in tables))
    assert set(keys) == {"doors", "masts"}


def test_a_phrase_of_a_list_is_not_asked_for_as_a_term():
    text = "# Parcelware\n\n- **Vans on islands**: the ferry takes them twice a day, free of charge.\n"
    page = chunk(document("Parcelware", text, "prose"))
    pairs = [pair for seed in range(40) for pair in write_pairs([page], seed) if pair.kind == "list_item"]
    assert {pair.template.rsplit(".", 1)[0] for pair in pairs} == {"list_item.phrase"}


def test_a_title_that_asks_is_no_place():
    text = "A parcel van is a small vehicle that carries parcels over the hills of the island."
    pages = [chunk(document(title, text, "prose")) for title in ("Why use Parcelware?", "Parcelware")]
    asking, plain = [{pair.question for seed in range(40) for pair in write_pairs([page], seed)} for page in pages]
    assert not any("Why use" in question for question in asking)
    assert any("in Parcelware" in question for question in plain)


def test_few_definitions_are_asked_for_that_the_best_sentence_answers():
    pages = [
        document(f"Yard {i}", f"A hoist{i} is a machine that lifts {i} pallets over the wall of the yard.", "prose")
        for i in range(80)
    ]
    definitions = [pair for pair in write_pairs([chunk(page) for page in pages]) if pair.kind == "definition"]
    # 15% of 80 are 12, with a standard deviation of 3.2.
    assert 4 <= len(definitions) <= 24


def test_accents_and_typographic_signs_cost_neither_rows_nor_terms_nor_the_letters_of_a_title():
    text = (
        "# Café Müller’s menu\n\n| Dish | Description |\n| --- | --- |\n"
        "| crème brûlée | a cream under burnt sugar |\n| → | the dish of the day |\n\n"
        "- **Éclair**: a long pastry with coffee cream inside.\n- **🍰 Tart**: a flat cake with fruit on it.\n"
    )
    page = chunk(document("Café Müller’s menu", text, "prose"))
    pairs = [pair for seed in range(40) for pair in write_pairs([page], seed)]
    rows = {pair.question for pair in pairs if pair.kind == "table"}
    assert rows
    assert all("crème brûlée" in question for question in rows)
    terms = " ".join(pair.question for pair in pairs if pair.kind == "list_item")
    assert "Éclair" in terms
    assert "Tart" in terms
    assert "🍰" not in terms
    assert any("in Café Müller's menu" in pair.question for pair in pairs)


def test_a_heading_with_an_accent_is_asked_about():
    text = "## Opening the crèche\n\nOpen the crèche at seven with the key that hangs behind the door of the kitchen.\n"
    page = replace(chunk(document("Parcelware", text, "prose")), heading_path=("Parcelware", "Opening the crèche"))
    pairs = [pair for seed in range(40) for pair in write_pairs([page], seed)]
    assert any("open the crèche" in pair.question for pair in pairs)
