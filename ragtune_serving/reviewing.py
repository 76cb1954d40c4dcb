"""What people review: the pairs of the newest dataset with the texts behind them, and how far they are."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from ragtune.dataset.reviews.decisions import REVIEWED, newest_verdicts, pair_key
from ragtune.dataset.reviews.outcome import apply_reviews, winning_decision
from ragtune.dataset.reviews.store import ReviewStore
from ragtune.errors import DatasetError
from ragtune.records import ArtifactRef, Chunk, QAPair
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore


@dataclass(frozen=True, slots=True)
class ReviewableDataset:
    """The pairs of a dataset, everything that was written for it, and the passages."""

    version: str
    pairs: list[QAPair]
    candidates: list[QAPair]
    chunks: dict[str, Chunk]
    by_key: dict[str, QAPair]


class ReviewDesk:
    """Reviews of one home; the dataset is read again when a newer one was built."""

    def __init__(self, settings: Settings) -> None:
        self.wanted = settings.dataset.reviews_per_pair
        self.reviews = ReviewStore(settings.feedback_url)
        self._artifacts = ArtifactStore(settings.home / "artifacts")
        self._read: ReviewableDataset | None = None

    def dataset(self) -> ReviewableDataset:
        """Return the newest dataset; raise DatasetError when none was built yet."""
        ref = self._artifacts.current("qa_dataset")
        if ref is None:
            raise DatasetError(
                "There is no dataset to review yet.", fix="run `ragtune materialize --select '*qa_dataset'`"
            )
        found = self._read
        if found is None or found.version != ref.sha256:
            chunks = {chunk.id: chunk for chunk in self._artifacts.read_records(self._ref("chunks"), Chunk)}
            candidates = self._artifacts.read_records(self._ref("qa_candidates"), QAPair)
            pairs = self._artifacts.read_records(ref, QAPair)
            by_key = {pair_key(pair): pair for pair in (*candidates, *pairs)}
            found = ReviewableDataset(ref.sha256, pairs, candidates, chunks, by_key)
            self._read = found
        return found

    def open_pairs(self) -> list[QAPair]:
        """Return the pairs of the dataset that no verdict settled, those in conflict included."""
        verdicts = newest_verdicts(self.reviews.decisions())
        undecided = [pair for pair in self.dataset().pairs if REVIEWED not in pair.scores]
        return [
            pair
            for pair in undecided
            if winning_decision(verdicts.get(pair_key(pair), {}).values(), self.wanted) is None
        ]

    def claim(self, reviewer: str, count: int) -> int:
        """Give a reviewer up to `count` open pairs that have too few reviewers; return how many.

        A pair in conflict gets one reviewer more than have decided it, before the others are given out.
        """
        verdicts = newest_verdicts(self.reviews.decisions())
        wanted: dict[int, list[QAPair]] = defaultdict(list)
        for pair in self.open_pairs():
            said = verdicts.get(pair_key(pair), {})
            if reviewer not in said:
                wanted[max(self.wanted, len(said) + 1 if len(said) >= self.wanted else 0)].append(pair)
        given = 0
        for people in sorted(wanted, reverse=True):
            given += self.reviews.claim(wanted[people], reviewer, count - given, people)
        return given

    def progress(self) -> dict[str, Any]:
        """Return how many of the written pairs were settled, and how, and how far each reviewer is."""
        dataset = self.dataset()
        reviewed = apply_reviews(dataset.candidates, self.reviews.decisions(), verdicts_needed=self.wanted)
        people = self.reviews.progress(list(dataset.by_key.values()))
        return {
            "pairs": len(dataset.candidates),
            "undecided": len(reviewed.undecided),
            "accepted": reviewed.accepted,
            "rejected": len(reviewed.rejected),
            "corrected": len(reviewed.corrected),
            "conflicts": len(reviewed.conflicts),
            "orphans": len(reviewed.orphans),
            "reviewers": [
                {"reviewer": name, "decided": decided, "assigned": assigned}
                for name, (decided, assigned) in people.items()
            ],
        }

    def _ref(self, name: str) -> ArtifactRef:
        ref = self._artifacts.current(name)
        if ref is None:
            raise DatasetError(f"There is no {name} beside the dataset.", fix="run `ragtune materialize`")
        return ref
