"""Reads questions that people wrote about a passage, and turns the answers' spans into whole sentences.

Two kinds of files are read:

- public reading-comprehension sets: a `context`, a `question`, and an `answer` that is a span of the context;
- our own training questions: a `passage` of a source, a `question`, an `answer` as a sentence, and the `evidence` in
  the passage.
"""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragtune.errors import DatasetError
from ragtune.text.sentences import line_sentence_spans
from ragtune.text.whitespace import collapse_whitespace

LONGEST_ANSWER = 24
"""Words of a target answer made from a span. Chosen by hand, not measured: a sentence that a person reads at once."""
_LONGEST_SPAN = 40
"""Words of a span that is taught although it is longer than `LONGEST_ANSWER`. Chosen by hand, not measured."""
_SPAN_FIELDS = ("title", "context", "question", "answer", "split")
_PASSAGE_FIELDS = ("passage", "source", "title", "question", "answer", "evidence")

_CITATION = re.compile(r"\s*\[(?:\d+|citation needed|note \d+|[a-z])\]")
_SPACED_POINT = re.compile(r" +([,.;:!?%)\]]|'s\b|n't\b)")
_SPACED_OPENING = re.compile(r"([(\[$£€]) +")
_SPACED_HYPHEN = re.compile(r"(?<=\w) - (?=\w)")
_CLAUSE = re.compile(r"(?<=[,;:])\s+|(?<=[^\W\d])\s+[–—]\s+(?=[^\W\d])")
_LOOSE_BEGINNING = re.compile(r"^(?:(?:and|but|or|so|yet|which|who|that|while|whereas)\s+|[,;:–—\s-]+)+", re.IGNORECASE)
_LOOSE_END = re.compile(
    r"(?:[,;:–—\s-]+|\s(?:and|but|or|which|who|that|the|a|an|of|in|to|with|for|by))+$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanQuestion:
    """A question about a context; `span` is where the answer stands in the context. `origin` is the file's name."""

    origin: str
    title: str
    context: str
    question: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageQuestion:
    """A question about a passage of a source; `answer` and `evidence` are "" if the passage does not answer it."""

    origin: str
    passage: str
    source: str
    title: str
    question: str
    answer: str
    evidence: str


def read_span_questions(folder: Path, excluded: tuple[str, ...] = ()) -> list[SpanQuestion]:
    """Return the questions of the `train` split of every `*.jsonl` and `*.jsonl.gz` in a folder, cleaned.

    `excluded` are names of files to leave out, without suffixes. Questions whose answer is not in the cleaned context
    are left out. Raises DatasetError if there is no question, or a line lacks a field.
    """
    questions = []
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")]):
        origin = path.name.partition(".")[0]
        if origin in excluded:
            continue
        for row in _rows(path, _SPAN_FIELDS):
            context, answer = clean_context(row["context"]), clean_context(row["answer"])
            start = _nearest(context, answer, row["context"].find(row["answer"]) / max(1, len(row["context"])))
            if row["split"] == "train" and start >= 0:
                span = (start, start + len(answer))
                question = collapse_whitespace(row["question"])
                questions.append(
                    SpanQuestion(
                        origin=origin, title=row["title"].strip(), context=context, question=question, span=span
                    )
                )
    if not questions:
        raise DatasetError(
            f"{folder} holds no question for training.",
            expected=f"*.jsonl or *.jsonl.gz with the fields {', '.join(_SPAN_FIELDS)} and the split `train`",
            fix="get the data that ragtune/model/smollm2_grounded/MODEL_CARD.md names",
        )
    return questions


def read_passage_questions(folder: Path) -> list[PassageQuestion]:
    """Return the questions of every `*.jsonl` in a folder; raise DatasetError if a line lacks a field."""
    return [
        PassageQuestion(origin=path.stem, **{name: row[name] for name in _PASSAGE_FIELDS})
        for path in sorted(folder.glob("*.jsonl"))
        for row in _rows(path, _PASSAGE_FIELDS)
    ]


def _rows(path: Path, fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for number, line in enumerate(data.decode().split("\n"), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        missing = [name for name in fields if not isinstance(row.get(name), str)]
        if missing:
            raise DatasetError(
                f"Line {number} of {path} has no text in {', '.join(missing)}.",
                expected=f"the fields {', '.join(fields)}",
            )
        yield row


def clean_context(text: str) -> str:
    """Return the text without Wikipedia's citation marks, with spaces and quotes as people set them.

    Natural Questions puts spaces between tokens: "98 % of the world 's population". A mark such as `[3]` would look
    like a citation of a passage.
    """
    text = re.sub(r"`` *", '"', _CITATION.sub("", text))
    text = re.sub(r" *''", '"', text).replace(" -- ", " – ")
    text = _SPACED_HYPHEN.sub("-", _SPACED_OPENING.sub(r"\1", _SPACED_POINT.sub(r"\1", text)))
    return re.sub(r"[ \t]+", " ", text).strip()


def _nearest(text: str, part: str, share: float) -> int:
    """Return where `part` stands in the text, nearest to that share of its length; -1 if nowhere or if it is empty."""
    places = [match.start() for match in re.finditer(re.escape(part), text)] if part else []
    return min(places, key=lambda place: abs(place - share * len(text)), default=-1)


def whole_answer(text: str, span: tuple[int, int]) -> str:
    """Return the sentence that holds the span if it has at most `LONGEST_ANSWER` words, else a part of it.

    That is its beginning, where the subject stands, if the span is near enough, else the clauses around the span. A
    span over several sentences is returned as it is. Returns "" if the span is too long to be taught.
    """
    start, end = span
    sentence = next(((a, b) for a, b in line_sentence_spans(text) if a <= start and end <= b), None)
    if len(text[start:end].split()) > _LONGEST_SPAN:
        return ""
    if sentence is None or len(text[start:end].split()) > LONGEST_ANSWER:
        return _tidy(text[start:end])
    first, last = sentence
    if len(text[first:last].split()) <= LONGEST_ANSWER:
        return _tidy(text[first:last])
    if len(text[first:end].split()) <= LONGEST_ANSWER:
        return _tidy(_beginning(text[first:last], end - first))
    return _tidy(_clauses_around(text[first:last], start - first, end - first))


def _beginning(sentence: str, end: int) -> str:
    """Return the sentence up to the first end of a clause from `end` on, or up to `end` if that is too long."""
    stop = next((match.start() for match in _CLAUSE.finditer(sentence, max(0, end - 1)) if match.start() >= end), end)
    return sentence[:stop] if len(sentence[:stop].split()) <= LONGEST_ANSWER else sentence[:end]


def _clauses_around(sentence: str, start: int, end: int) -> str:
    """Return the longest run of clauses around the span that has at most `LONGEST_ANSWER` words.

    It grows to the left first, where the subject stands. If the clauses that hold the span are too long, the run is
    cut between words instead.
    """
    cuts = [0, *(match.end() for match in _CLAUSE.finditer(sentence)), len(sentence)]
    left = max(cut for cut in cuts if cut <= start)
    right = min(cut for cut in cuts if cut >= end)
    if len(sentence[left:right].split()) > LONGEST_ANSWER:
        return _words_around(sentence[left:right], start - left, end - left)
    growing = True
    while growing:
        growing = False
        earlier = max((cut for cut in cuts if cut < left), default=left)
        later = min((cut for cut in cuts if cut > right), default=right)
        for a, b in ((earlier, right), (left, later)):
            if (a, b) != (left, right) and len(sentence[a:b].split()) <= LONGEST_ANSWER:
                left, right, growing = a, b, True
                break
    return sentence[left:right]


def _words_around(clause: str, start: int, end: int) -> str:
    """Return `LONGEST_ANSWER` words of the clause around the span, with more before it than after it."""
    before, inside, after = clause[:start].split(), clause[start:end].split(), clause[end:].split()
    room = LONGEST_ANSWER - len(inside)
    kept_after = min(len(after), room // 3) if len(before) > room - room // 3 else min(len(after), room - len(before))
    kept_before = min(len(before), room - kept_after)
    first = clause[:start].rfind(" ".join(before[-kept_before:])) if kept_before else start
    if first < 0:  # the words are separated by more than one space
        return clause[start:end]
    return " ".join([clause[first:end], *after[:kept_after]]) if kept_after else clause[first:end]


def _tidy(text: str) -> str:
    """Return the text on one line, without loose words and marks at its ends, beginning with a capital."""
    text = collapse_whitespace(text)
    text = _LOOSE_END.sub("", _LOOSE_BEGINNING.sub("", text))
    if text.count('"') % 2:
        text = text.strip('"') if text[:1] == '"' or text[-1:] == '"' else text.replace('"', "")
    if text.count("(") > text.count(")"):
        text += ")"
    elif text.count(")") > text.count("("):
        text = text.replace(")", "", 1) if text.find(")") < 0.5 * len(text) else text.rstrip(")")
    return text[:1].upper() + text[1:]
