"""Existing questions and answers, read from every format; a bad record costs nothing but itself."""

import io
import json
from pathlib import Path

import openpyxl
import pytest

from ragtune.errors import SourceError
from ragtune.knowledge.pair_files import read_pairs
from ragtune.knowledge.sources import read_sources
from ragtune.records import ExistingPair

ROOT = Path(__file__).parent.parent


def read(name: str, content: str | bytes) -> tuple[list[ExistingPair], list[tuple[str, str]]]:
    raw = content.encode() if isinstance(content, str) else content
    result = read_pairs(f"pairs:{name}", Path(name), raw)
    return result.pairs, result.problems


def facts(pairs: list[ExistingPair]) -> list[tuple[str, str, str, bool]]:
    return [(pair.place, pair.question, pair.answer, pair.answerable) for pair in pairs]


def test_json_lines_have_questions_answers_and_what_documents_do_not_answer() -> None:
    pairs, problems = read(
        "faq.jsonl",
        '{"question": " How  hot? ", "answer": "At 1240 degrees.", "document": "kilns.md", "context": "It fires."}\n'
        "\n"
        '{"Question": "Who pays?", "answers": ["The guild.", "Others"], "answerable": true}\n'
        '{"question": "Is there a sauna?", "answer": "", "answerable": "no"}\n'
        '{"question": "A separator \\u2028 inside", "answer": "stays\u2028here"}\n',
    )
    assert problems == []
    assert facts(pairs) == [
        ("line 1", "How hot?", "At 1240 degrees.", True),
        ("line 3", "Who pays?", "The guild.", True),
        ("line 4", "Is there a sauna?", "", False),
        ("line 5", "A separator inside", "stays\u2028here", True),
    ]
    assert (pairs[0].document, pairs[0].context, pairs[0].source) == ("kilns.md", "It fires.", "pairs:faq.jsonl")


def test_every_bad_line_is_named_with_what_was_expected_and_the_others_are_read() -> None:
    lines = [
        '{"question": "Fine?", "answer": "Yes, fine."}',
        "{broken",
        '["question"]',
        '{"question": "", "answer": "x"}',
        '{"question": "No answer?", "answer": ""}',
        '{"question": "Nested?", "answer": {"text": ["x"]}}',
        '{"question": "Flag?", "answer": "x", "answerable": "perhaps"}',
        '{"question": ["Nested?"], "answer": "x"}',
        "[" * 100_000,
        '{"question": "Also fine?", "answer": "Yes, fine too."}',
    ]
    pairs, problems = read("faq.jsonl", "\n".join(lines))
    assert [pair.place for pair in pairs] == ["line 1", "line 10"]
    reasons = dict(problems)
    assert list(reasons) == [f"line {number}" for number in range(2, 10)]
    assert 'expected {"question": ..., "answer": ...}' in reasons["line 2"]
    assert "a list in place of" in reasons["line 3"]
    assert reasons["line 4"] == "the question is empty"
    assert "set answerable to false" in reasons["line 5"]
    assert "its answer is a list, not a text" in reasons["line 6"]
    assert "its answerable is 'perhaps'; expected true or false" in reasons["line 7"]
    assert "its question is a list" in reasons["line 8"]
    assert "not JSON that can be read" in reasons["line 9"]


def test_a_table_is_read_with_its_separator_and_damaged_rows_are_named() -> None:
    text = 'sep=;\nQuestion;Answer;Answerable\nHow much?;"12; or 14";\n\nBad;row;yes;more\nA "b"" c;x"y;\nWho?;;no\n'
    pairs, problems = read("faq.csv", text)
    assert facts(pairs)[0] == ("line 3", "How much?", "12; or 14", True)
    assert facts(pairs)[-1] == ("line 7", "Who?", "", False)
    assert problems[0] == ("line 5", "it has 4 cells and the header 3")


def test_a_quote_that_is_never_closed_costs_only_its_own_row() -> None:
    pairs, problems = read("faq.csv", 'question,answer\nOne?,Two.\n"Three"x?,Four.\nFive?,Six.\n')
    assert [pair.question for pair in pairs] == ["One?", "Five?"]
    assert [place for place, _ in problems] == ["line 3"]


def test_a_workbook_is_read_like_a_table() -> None:
    book, stream = openpyxl.Workbook(), io.BytesIO()
    for row in (["question", "answer"], ["How many?", 30], ["When?", "At noon."]):
        book.active.append(row)
    book.save(stream)
    pairs, problems = read("faq.xlsx", stream.getvalue())
    assert (facts(pairs), problems) == (
        [("line 2", "How many?", "30", True), ("line 3", "When?", "At noon.", True)],
        [],
    )


def test_nested_json_of_reading_comprehension_gives_contexts_and_unanswerable_questions() -> None:
    context = "The mill was built in 1684. It burned twice."
    questions = [
        {"id": "1", "question": "When was the mill built?", "answers": [{"text": "1684", "answer_start": 22}]},
        {"id": "2", "question": "Who painted it?", "answers": [], "is_impossible": True},
        {"id": "3", "question": "", "answers": []},
    ]
    content = {
        "version": "v2.0",
        "data": [
            {"title": "Old_Mill", "paragraphs": [{"context": context, "qas": questions}, {"context": "x"}]},
            {"title": "Empty"},
        ],
    }
    pairs, problems = read("dev.json", json.dumps(content))
    assert facts(pairs) == [
        ("data[0].paragraphs[0].qas[0]", "When was the mill built?", "1684", True),
        ("data[0].paragraphs[0].qas[1]", "Who painted it?", "", False),
    ]
    assert (pairs[0].context, pairs[0].answer_start, pairs[0].document) == (context, 22, "Old Mill")
    assert [place for place, _ in problems] == ["data[0].paragraphs[0].qas[2]", "data[0].paragraphs[1]", "data[1]"]


def test_a_list_of_objects_is_read_too() -> None:
    pairs, problems = read("faq.json", json.dumps([{"question": "A b?", "answer": "C."}, 3]))
    assert facts(pairs) == [("record 1", "A b?", "C.", True)]
    assert [place for place, _ in problems] == ["record 2"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "faq.md",
            "# Help\n\nHello.\n\n## How do I pay?\n\nBy card.\n\n- Or cash\n\n### Notes\n\nNo.\n\n## Prices\n\n3\n",
        ),
        (
            "faq.html",
            "<html><body><h1>Help</h1><p>Hello.</p><h2>How do I pay?</h2><p>By card.</p><ul><li>Or cash</li></ul>"
            "<h3>Notes</h3><p>No.</p><h2>Prices</h2><p>3</p></body></html>",
        ),
    ],
)
def test_a_page_gives_the_text_below_each_heading_that_is_a_question(name: str, content: str) -> None:
    pairs, problems = read(name, content)
    assert facts(pairs) == [("heading 'How do I pay?'", "How do I pay?", "By card.\n\nOr cash", True)]
    assert problems == []


def test_the_faq_of_the_examples_gives_a_pair_for_each_question() -> None:
    path = ROOT / "examples" / "faq" / "parcel-lockers.md"
    pairs, problems = read(path.name, path.read_bytes())
    headings = [line for line in path.read_text().splitlines() if line.startswith("## ") and "?" in line]
    assert len(pairs) == len(headings) > 20
    assert problems == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("faq.doc", "x", "ends in '.doc'"),
        ("faq.json", "{", "line 1 is not JSON"),
        ("faq.json", '{"rows": []}', "an object with rows"),
        ("faq.csv", "a,b\n1,2\n", "has the columns a, b"),
        ("faq.csv", "question,question\n1,2\n", "names the column question twice"),
        ("faq.md", "# Help\n\nNo question here.\n", "holds no question"),
        ("faq.jsonl", "\n", "holds no question"),
        ("faq.xlsx", "PK\x03\x04broken", "damaged workbook"),
        ("faq.md", "", "the file is empty"),
    ],
)
def test_a_file_without_any_record_is_an_error_that_says_what_was_expected(
    name: str, content: str, message: str
) -> None:
    with pytest.raises(SourceError, match="Expected: ") as error:
        read(name, content)
    assert message in str(error.value)


def test_pairs_are_a_source_with_a_quarantine_and_need_documents(tmp_path: Path) -> None:
    file, page = tmp_path / "faq.jsonl", tmp_path / "docs" / "a.md"
    file.write_text('{"question": "How hot?", "answer": "Very."}\n{"question": "And?"}\n')
    page.parent.mkdir()
    page.write_text("# A\n\nVery hot.")
    corpus = read_sources([f"folder:{page.parent}", f"pairs:{file}"])
    assert [document.path for document in corpus.documents] == ["a.md"]
    assert [(pair.place, pair.source) for pair in corpus.pairs] == [("line 1", f"pairs:{file}")]
    assert [(item.path, item.source) for item in corpus.quarantine] == [("faq.jsonl, line 2", f"pairs:{file}")]
    with pytest.raises(SourceError, match="1 question with answers, and there is no document") as error:
        read_sources([f"pairs:{file}"])
    assert "ragtune sources add folder:PATH" in str(error.value)
    with pytest.raises(SourceError, match=r"There is no file /nowhere\.csv"):
        read_sources(["pairs:/nowhere.csv"])
