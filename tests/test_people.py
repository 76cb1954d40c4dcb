"""Questions by people: reading the files, cleaning the contexts, whole sentences as answers."""

import gzip
import json
from pathlib import Path

import pytest

from ragtune.dataset.people import (
    LONGEST_ANSWER,
    clean_context,
    read_passage_questions,
    read_span_questions,
    whole_answer,
)
from ragtune.errors import DatasetError

CONTEXT = (
    "The lighthouse was built in 1871. After the storm of 1904 had taken the roof and most of the windows with it, "
    "the keeper Ada Holm asked the council for plates, which were to be of copper, and the council sent lead instead."
)


def row(**changed: str) -> dict[str, str]:
    answer = {"title": "Lighthouse", "context": CONTEXT, "question": "when was it built", "answer": "1871"}
    return {**answer, "split": "train", **changed}


def write(path: Path, *rows: dict[str, str]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def answer_for(part: str) -> str:
    start = CONTEXT.index(part)
    return whole_answer(CONTEXT, (start, start + len(part)))


def test_the_answer_to_a_span_is_its_whole_sentence() -> None:
    assert answer_for("1871") == "The lighthouse was built in 1871."


def test_of_a_long_sentence_the_answer_is_the_clauses_around_the_span() -> None:
    answer = answer_for("copper")
    expected = "asked the council for plates, which were to be of copper, and the council sent lead instead."
    assert answer == f"The keeper Ada Holm {expected}"
    assert len(answer.split()) <= LONGEST_ANSWER


def test_of_a_long_clause_the_answer_is_the_words_around_the_span() -> None:
    words = " ".join(f"word{number}" for number in range(60))
    start = words.index("word30")
    answer = whole_answer(words, (start, start + len("word30 word31")))
    assert "word30 word31" in answer
    assert len(answer.split()) == LONGEST_ANSWER


def test_a_span_that_is_too_long_gives_no_answer() -> None:
    text = "one " * 50
    assert whole_answer(text, (0, len(text))) == ""


def test_only_the_training_split_of_files_that_are_not_excluded_is_read(tmp_path: Path) -> None:
    write(tmp_path / "web.jsonl.gz", row(), row(split="dev", question="never read"))
    write(tmp_path / "policy.jsonl", row(question="for research only"))
    questions = read_span_questions(tmp_path, excluded=("policy",))
    assert [(question.origin, question.question) for question in questions] == [("web", "when was it built")]
    assert questions[0].context[slice(*questions[0].span)] == "1871"


def test_a_span_is_found_again_in_the_cleaned_context(tmp_path: Path) -> None:
    context = "In 1871 it had 1871 visitors .[1] The keeper 's name was Ada [ sic ] ."
    write(tmp_path / "web.jsonl", row(context=context, answer="Ada"))
    (question,) = read_span_questions(tmp_path)
    assert question.context == "In 1871 it had 1871 visitors. The keeper's name was Ada [sic]."
    assert question.context[slice(*question.span)] == "Ada"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("98 % of the world 's people ( half )", "98% of the world's people (half)"),
        ("`` The Glory '' is a non - violent song -- a hit .", '"The Glory" is a non-violent song – a hit.'),
        ("It is 3 m long.[12][a] It is red.", "It is 3 m long. It is red."),
    ],
)
def test_contexts_are_set_as_people_set_them(text: str, clean: str) -> None:
    assert clean_context(text) == clean


def test_a_folder_without_training_questions_is_an_error_that_says_where_data_comes_from(tmp_path: Path) -> None:
    write(tmp_path / "web.jsonl", row(split="dev"))
    with pytest.raises(DatasetError, match=r"no question for training[\s\S]*MODEL_CARD"):
        read_span_questions(tmp_path)


def test_a_line_without_a_field_is_named(tmp_path: Path) -> None:
    write(tmp_path / "own.jsonl", {"passage": "p", "source": "s", "title": "t", "question": "q", "answer": "a"})
    with pytest.raises(DatasetError, match=r"Line 1 of .*own\.jsonl has no text in evidence"):
        read_passage_questions(tmp_path)
