"""A study: answers that several people rate by a rubric or compare in pairs, without knowing which model gave them.

Each annotator gets a list of tasks in an order of their own. In a comparison the sides are balanced: half of an
annotator's tasks show the first answer on the left. Some tasks come back hidden in the list, with their sides swapped;
they show how far annotators agree with themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from ragtune.draws import draw
from ragtune.errors import DatasetError
from ragtune.evaluation.judges import LEVELS, RUBRIC
from ragtune.records import content_id

Mode = Literal["rating", "pairwise"]
MODES: tuple[Mode, ...] = get_args(Mode)
CANNOT = "cannot judge"
"""A choice for every question; it is a final one, and it does not count for or against agreement."""
BETTER = "better"
"""The one question of a comparison."""
SIDES = ("left", "right", "neither")
WINNERS = ("first", "second", "neither")
UNANSWERABLE = "(The documents do not answer this question.)"
"""What stands for the expected answer of a question that the documents do not answer."""
REPEAT_SHARE = 0.05
"""Share of an annotator's tasks that come back, as the plan of the studies asks for."""
FEWEST_TO_REPEAT = 5
"""An annotator with fewer tasks gets no repeats: they would remember them. Chosen by hand."""
LONGEST_COMMENT = 4000
MAX_NAME_CHARACTERS = 200

RATING_GUIDELINE = """Read the question and the answer, then the sources and the expected answer if there is one. Say
for each question yes, partly or no:

- **correct**: Does the answer say what is right, as an answer to this question? Other words than the expected ones are
  fine, and one of several expected answers is enough. A true sentence that answers something else is *no*; half of what
  is right, or something wrong next to it, is *partly*.
- **supported**: Does everything that the answer says stand in its sources, about the same thing? The right words from
  the wrong row are *no*. What you know yourself does not count.
- **complete**: Does it answer the whole question? Half of it is *partly*; an answer that is not correct is *no*.
- **clear**: Can you understand it at once, without the sources? Here it does not matter whether it is right.

A refusal is correct and complete if the documents do not answer the question: the expected answer says so, or the
sources show it. Otherwise it is neither. It says nothing that needs a source, so it is supported.

Choose "cannot judge" if you lack the knowledge, and put a task off to come back to it later. Do not ask others:
disagreement shows what is unclear.
"""
PAIRWISE_GUIDELINE = """Read the question and both answers with their sources. Which one would you rather have got?

Being right comes first, then standing in the sources, then answering the whole question, then being clear. Length does
not count. Choose "neither" if they are equally good or equally bad, and "cannot judge" if you lack the knowledge.
"""
GUIDELINES: dict[Mode, str] = {"rating": RATING_GUIDELINE, "pairwise": PAIRWISE_GUIDELINE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is rated, how, and by which guideline; `source` says where the answers come from."""

    name: str
    mode: Mode
    guideline: str
    source: str
    seed: int
    created_at: str = ""

    @property
    def questions(self) -> tuple[str, ...]:
        """The questions that every task asks."""
        return tuple(RUBRIC) if self.mode == "rating" else (BETTER,)

    @property
    def meanings(self) -> dict[str, str]:
        """What each question asks, in a sentence."""
        return dict(RUBRIC) if self.mode == "rating" else {BETTER: "Which one would you rather have got?"}

    @property
    def categories(self) -> tuple[str, ...]:
        """The stored choices, the worst first, without "cannot judge"."""
        return LEVELS if self.mode == "rating" else WINNERS

    @property
    def choices(self) -> tuple[str, ...]:
        """What an annotator can choose."""
        return (*(LEVELS if self.mode == "rating" else SIDES), CANNOT)


@dataclass(frozen=True, slots=True)
class ShownAnswer:
    """An answer as an annotator sees it, with the passages that it cites; `model` is never shown."""

    text: str
    sources: tuple[str, ...]
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyItem:
    """A question with one answer to rate, or two to compare; `expected` is "" if it is not known."""

    id: str
    question: str
    expected: str
    answers: tuple[ShownAnswer, ...]
    position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An item in the list of one annotator.

    The id says nothing about the item, so that a repeat is not recognised. `swapped` shows the second answer on the
    left.
    """

    id: str
    study: str
    item_id: str
    annotator: str
    position: int
    swapped: bool
    repeat: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What an annotator said about a task: {question: choice}, or nothing if it was skipped.

    In a comparison the choice is `first`, `second` or `neither`, whatever the sides were.
    """

    task_id: str
    annotator: str
    choices: Mapping[str, str] = field(default_factory=dict)
    comment: str = ""
    seconds: float = 0.0
    id: str = ""
    created_at: str = ""
    sequence: int = 0

    @property
    def skipped(self) -> bool:
        """Whether the task was put off."""
        return not self.choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjudication:
    """The final choice for a question about an item on which annotators disagreed, and who made it."""

    item_id: str
    question: str
    choice: str
    adjudicator: str
    comment: str = ""
    created_at: str = ""


def new_rating(
    study: Study, task: Task, annotator: str, choices: Mapping[str, str], comment: str = "", seconds: float = 0.0
) -> Rating:
    """Return a checked rating with the sides of a comparison resolved; no choices mean that the task is skipped.

    Raises:
        DatasetError: the task is somebody else's, a question is missing or unknown, or a choice is.
    """
    if task.annotator != annotator:
        raise DatasetError(f"The task '{task.id}' is not assigned to {annotator}.", "a task of your own list")
    if len(comment) > LONGEST_COMMENT:
        raise DatasetError(f"The comment has {len(comment)} characters.", f"at most {LONGEST_COMMENT}")
    if choices and set(choices) != set(study.questions):
        raise DatasetError(
            f"The questions {', '.join(sorted(choices))} were answered.", f"exactly {', '.join(study.questions)}"
        )
    for question, choice in choices.items():
        if choice not in study.choices:
            raise DatasetError(f"The choice for '{question}' is '{choice}'.", f"one of {', '.join(study.choices)}")
    stored = {question: _winner(choice, task.swapped) for question, choice in choices.items()}
    return Rating(
        task_id=task.id, annotator=annotator, choices=stored, comment=comment.strip(), seconds=max(0.0, seconds)
    )


def _winner(choice: str, swapped: bool) -> str:
    """Return `first` or `second` for a side, and any other choice as it is."""
    if choice not in ("left", "right"):
        return choice
    return "second" if (choice == "left") == swapped else "first"


def side(choice: str, swapped: bool) -> str:
    """Return the side that a stored choice was on, and any other choice as it is."""
    if choice not in ("first", "second"):
        return choice
    return "right" if (choice == "first") == swapped else "left"


def shown(item: StudyItem, task: Task) -> tuple[ShownAnswer, ...]:
    """Return the answers in the order in which the annotator sees them, from left to right."""
    return tuple(reversed(item.answers)) if task.swapped else item.answers


def annotator_name(name: str) -> str:
    """Return the name without spaces around it; raise DatasetError if it is empty or too long."""
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise DatasetError(f"The name of the annotator has {len(name)} characters.", f"1 to {MAX_NAME_CHARACTERS}")
    return name


def tasks_of(study: Study, annotator: str, items: Sequence[StudyItem], after: int = 0) -> list[Task]:
    """Return an annotator's tasks for these items in an order of their own, with hidden repeats.

    A repeat stands at least half the list behind its original.

    Args:
        study: the study; its seed orders the list.
        annotator: whose list it is.
        items: the items that were assigned.
        after: number of tasks that the annotator's list has already.
    """
    order = sorted(items, key=lambda item: draw(study.seed, "order", annotator, item.id))
    # Half of the sides are swapped, and two annotators of an item do not always see the same side.
    first_swapped = draw(study.seed, "side", annotator) < 0.5
    swapped = {
        item.id: study.mode == "pairwise" and (place % 2 == 0) == first_swapped for place, item in enumerate(order)
    }
    number = max(1, round(REPEAT_SHARE * len(order))) if len(order) >= FEWEST_TO_REPEAT else 0
    earlier = order[: len(order) // 2]
    repeated = sorted(earlier, key=lambda item: draw(study.seed, "repeat", annotator, item.id))[:number]
    listed = [(item, swapped[item.id], False) for item in order]
    for place, item in enumerate(repeated):
        # From the end of the list forwards, one place apart, so that repeats do not follow each other.
        at = max(order.index(item) + 1 + len(order) // 2, len(listed) - 2 * place)
        listed.insert(at, (item, study.mode == "pairwise" and not swapped[item.id], True))
    return [
        Task(
            id="t" + content_id(study.name, item.id, annotator, str(repeat)),
            study=study.name,
            item_id=item.id,
            annotator=annotator,
            position=after + place,
            swapped=is_swapped,
            repeat=repeat,
        )
        for place, (item, is_swapped, repeat) in enumerate(listed)
    ]
