"""The order of training examples: all kinds mixed evenly, since a run may stop at any time."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ragtune.draws import draw
from ragtune.model.examples.example import TrainingExample


def mix_kinds(examples: Iterable[TrainingExample], seed: int) -> list[TrainingExample]:
    """Spread the examples of each kind evenly over the whole list, so that a run that stops early has seen them all."""
    by_kind: dict[str, list[TrainingExample]] = defaultdict(list)
    for example in sorted(examples, key=lambda example: draw(seed, "mix", example.pair_id)):
        by_kind[example.kind].append(example)
    positions = [
        ((place + draw(seed, "phase", kind)) / len(group), kind, place)
        for kind, group in by_kind.items()
        for place in range(len(group))
    ]
    return [by_kind[kind][place] for _, kind, place in sorted(positions)]


def interleave(
    examples: Sequence[TrainingExample], others: Sequence[TrainingExample], share: float, limit: int
) -> list[TrainingExample]:
    """Return up to `limit` examples in which `others` are spread evenly and make up `share`, until they run out."""
    mixed: list[TrainingExample] = []
    others_used = 0
    for place in range(limit):
        others_due = int((place + 1) * share)
        if others_used < min(others_due, len(others)):
            mixed.append(others[others_used])
            others_used += 1
        elif place - others_used < len(examples):
            mixed.append(examples[place - others_used])
    return mixed
