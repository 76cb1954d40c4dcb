"""The review desk: the pairs that people review, the passages behind them, and the progress of the reviews."""

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
    """A dataset's pairs, all candidates that were written for it, and the passages."""

    version: str
    pairs: list[QAPair]
    candidates: list[QAPair]
    chunks: dict[str, Chunk]
    by_key: dict[str, QAPair]


class ReviewDesk:
    """The reviews of one home. It loads the dataset again when a newer one was built."""

    def __init__(self, settings: Settings) -> None:
        self.reviews_per_pair = settings.dataset.reviews_per_pair
        self.reviews = ReviewStore(settings.feedback_url)
        self._artifacts = ArtifactStore(settings.home / "artifacts")
        self._loaded: ReviewableDataset | None = None

    def dataset(self) -> ReviewableDataset:
        """Return the newest dataset; raise DatasetError if there is none yet."""
        ref = self._artifacts.current("qa_dataset")
        if ref is None:
            raise DatasetError(
                "There is no dataset to review yet.", fix="run `ragtune materialize --select '*qa_dataset'`"
            )
        dataset = self._loaded
        if dataset is None or dataset.version != ref.sha256:
            chunks = {chunk.id: chunk for chunk in self._artifacts.read_records(self._ref("chunks"), Chunk)}
            candidates = self._artifacts.read_records(self._ref("qa_candidates"), QAPair)
            pairs = self._artifacts.read_records(ref, QAPair)
            by_key = {pair_key(pair): pair for pair in (*candidates, *pairs)}
            dataset = ReviewableDataset(ref.sha256, pairs, candidates, chunks, by_key)
            self._loaded = dataset
        return dataset

    def open_pairs(self) -> list[QAPair]:
        """Return the pairs without a settled verdict, including those on which reviewers disagree."""
        verdicts = newest_verdicts(self.reviews.decisions())
        return [
            pair
            for pair in self.dataset().pairs
            if REVIEWED not in pair.scores
            and winning_decision(verdicts.get(pair_key(pair), {}).values(), self.reviews_per_pair) is None
        ]

    def claim(self, reviewer: str, count: int) -> int:
        """Assign up to `count` open pairs to a reviewer, and return how many were assigned.

        A pair on which reviewers disagree needs one more reviewer than have decided it. Such pairs go first.
        """
        verdicts = newest_verdicts(self.reviews.decisions())
        pairs_by_need: dict[int, list[QAPair]] = defaultdict(list)
        for pair in self.open_pairs():
            deciders = verdicts.get(pair_key(pair), {})
            if reviewer in deciders:
                continue
            disputed = len(deciders) >= self.reviews_per_pair
            pairs_by_need[len(deciders) + 1 if disputed else self.reviews_per_pair].append(pair)
        assigned = 0
        for need in sorted(pairs_by_need, reverse=True):
            assigned += self.reviews.claim(pairs_by_need[need], reviewer, count - assigned, need)
        return assigned

    def progress(self) -> dict[str, Any]:
        """Return the number of pairs by outcome of the review, and the progress of each reviewer."""
        dataset = self.dataset()
        reviewed = apply_reviews(dataset.candidates, self.reviews.decisions(), verdicts_needed=self.reviews_per_pair)
        reviewers = self.reviews.progress(list(dataset.by_key.values()))
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
                for name, (decided, assigned) in reviewers.items()
            ],
        }

    def _ref(self, name: str) -> ArtifactRef:
        ref = self._artifacts.current(name)
        if ref is None:
            raise DatasetError(f"The dataset is there, but its {name} are missing.", fix="run `ragtune materialize`")
        return ref
