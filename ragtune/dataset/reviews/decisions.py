"""A reviewer's decision on a pair: accept, reject, correct or comment.

Decisions are keyed by what the pair says and not by its id, so they still apply after the dataset was generated again.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from ragtune.errors import DatasetError
from ragtune.records import QAPair, content_id
from ragtune.text.whitespace import collapse_whitespace

Verdict = Literal["accept", "reject", "correct", "comment"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
REVIEWED = "reviewed"
"""Name of the score of pairs that a reviewer accepted or corrected."""
MAX_NAME_CHARACTERS = 200
"""Longest name of a reviewer, the width of its column in the database."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One verdict on one pair; `question` and `answer` hold the new text if the verdict is `correct`.

    `pair` has the id, question, answer and chunk of the pair as the reviewer saw it.
    """

    pair_key: str
    reviewer: str
    verdict: Verdict
    question: str = ""
    answer: str = ""
    comment: str = ""
    pair: dict[str, object] = field(default_factory=dict)
    id: str = ""
    created_at: str = ""
    sequence: int = 0


def pair_key(pair: QAPair) -> str:
    """Return a key for what the pair says: the same question and answer have the same key in every dataset.

    The key begins with a letter, so that no spreadsheet reads it as a number.
    """
    return "q" + content_id(
        "review", collapse_whitespace(pair.question).lower(), collapse_whitespace(pair.answer).lower()
    )


def newest_verdicts(decisions: Iterable[Decision]) -> dict[str, dict[str, Decision]]:
    """Return {pair key: {reviewer: their newest verdict}}, without the comments, which decide nothing."""
    verdicts: dict[str, dict[str, Decision]] = defaultdict(dict)
    for decision in sorted(decisions, key=lambda decision: decision.sequence):
        if decision.verdict != "comment":
            verdicts[decision.pair_key][decision.reviewer] = decision
    return dict(verdicts)


def new_decision(
    pair: QAPair, reviewer: str, verdict: str, question: str = "", answer: str = "", comment: str = ""
) -> Decision:
    """Return a valid decision that is not stored yet; if a correction leaves a text empty, that text stays as it is.

    Raises:
        DatasetError: if the verdict is unknown, the reviewer is missing, or a correction or comment is empty.
    """
    name = reviewer_name(reviewer)
    new_question, new_answer = collapse_whitespace(question), collapse_whitespace(answer)
    if verdict not in VERDICTS:
        raise DatasetError(f"The verdict is {verdict!r}.", expected=f"one of {', '.join(VERDICTS)}")
    if not name:
        raise DatasetError("The decision names no reviewer.", expected="the name of the person who decided")
    if verdict == "correct" and not new_question and not new_answer:
        raise DatasetError("The correction is empty.", expected="a corrected question or a corrected answer")
    if verdict == "comment" and not comment.strip():
        raise DatasetError("The comment is empty.", expected="what the reviewer wants to say")
    snapshot: dict[str, object] = {
        "id": pair.id,
        "question": pair.question,
        "answer": pair.answer,
        "chunk_id": pair.chunk_id,
    }
    return Decision(pair_key(pair), name, cast(Verdict, verdict), new_question, new_answer, comment.strip(), snapshot)


def reviewer_name(name: str) -> str:
    """Return the name without white space around it; raise DatasetError if it is too long for the database."""
    stripped = name.strip()
    if len(stripped) > MAX_NAME_CHARACTERS:
        raise DatasetError(
            f"The reviewer's name begins with {stripped[:40]!r} and has {len(stripped)} characters.",
            expected=f"at most {MAX_NAME_CHARACTERS}",
        )
    return stripped
