"""The review desk: the pairs that people review, the passages behind them, and the progress of the reviews."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ragtune.dataset.corrections import CorrectionStatus, correction_statuses
from ragtune.dataset.feedback_trace import Built, FeedbackTrace, trace_feedback
from ragtune.dataset.reviews.decisions import REVIEWED, newest_verdicts, pair_key
from ragtune.dataset.reviews.outcome import apply_reviews, winning_decision
from ragtune.dataset.reviews.store import ReviewStore
from ragtune.errors import DatasetError
from ragtune.evaluation.review_agreement import ReviewAgreement, review_agreement
from ragtune.records import ArtifactRef, Chunk, QAPair, RegisteredModel, SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune_serving.keys import Key
from ragtune_serving.reviewer import Reviewer

LEADING = "/v1/review/progress"
"""Who may call this route sees the progress of everybody, assigns pairs to others and settles conflicts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewableDataset:
    """The pairs of a dataset, all candidates that were written for it, and the passages.

    `corrections` are users' corrections that are not in the dataset: they wait for approval, or were decided since.
    `candidates` has these, too.
    """

    version: str
    built: list[QAPair]
    corrections: list[QAPair]
    candidates: list[QAPair]
    chunks: dict[str, Chunk]
    by_key: dict[str, QAPair]

    @property
    def pairs(self) -> list[QAPair]:
        """What people review: corrections first, because they train only after somebody accepted them."""
        return [*self.corrections, *self.built]


class ReviewDesk:
    """The reviews of one home. It loads the dataset again when a newer one was built."""

    def __init__(self, settings: Settings) -> None:
        self.reviews_per_pair = settings.dataset.reviews_per_pair
        self.reviews = ReviewStore(settings.feedback_url)
        self.log = FeedbackLog(settings.feedback_url)
        self.needs_approval = settings.feedback.approval
        self._settings = settings
        self._artifacts = ArtifactStore(settings.home / "artifacts")
        self._loaded: ReviewableDataset | None = None
        self._with_corrections: tuple[object, ReviewableDataset] | None = None
        self._statuses: tuple[object, list[CorrectionStatus]] = (None, [])
        self._items: tuple[str, list[SplitItem]] = ("", [])
        self._agreement: tuple[int, ReviewAgreement] | None = None

    def dataset(self) -> ReviewableDataset:
        """Return the newest dataset with the corrections; raise DatasetError if there is no dataset yet."""
        ref = self._artifacts.current("qa_dataset")
        if ref is None:
            raise DatasetError(
                "There is no dataset to review yet.", fix="run `ragtune materialize --select '*qa_dataset'`"
            )
        dataset = self._loaded
        if dataset is None or dataset.version != ref.sha256:
            dataset = self._load(ref)
            self._loaded = dataset
        state = (ref.sha256, self._state())
        if self._with_corrections is None or self._with_corrections[0] != state:
            self._with_corrections = (state, _with_corrections(dataset, self.statuses()))
        return self._with_corrections[1]

    def statuses(self) -> list[CorrectionStatus]:
        """Return what became of each correction, oldest first."""
        state = self._state()
        if self._statuses[0] != state:
            ref = self._artifacts.current("chunks")
            chunks = self._artifacts.read_records(ref, Chunk) if ref else []
            settings = self._settings
            statuses = correction_statuses(
                self.log.corrections(), chunks, self.reviews.decisions(), settings.feedback, settings.dataset
            )
            self._statuses = (state, statuses)
        return self._statuses[1]

    def trace(self, feedback_id: str, models: Callable[[], list[RegisteredModel]]) -> FeedbackTrace:
        """Return what became of a verdict; raise FeedbackError if there is none with this id.

        `models` returns the released versions. It is called only for a correction.
        """
        event = self.log.event(feedback_id)
        response = self.log.response(event.response_id) if event else None
        if event is None or not event.correction:
            return trace_feedback(feedback_id, event, response, [], Built())
        built = Built(*self._splits(), models())
        return trace_feedback(feedback_id, event, response, self.statuses(), built)

    def close(self) -> None:
        """Close the databases; the desk can be used again afterwards."""
        self.reviews.close()
        self.log.close()

    def open_pairs(self) -> list[QAPair]:
        """Return the pairs without a settled verdict, including those on which reviewers disagree."""
        verdicts = newest_verdicts(self.reviews.decisions())
        return [
            pair
            for pair in self.dataset().pairs
            if REVIEWED not in pair.scores
            and winning_decision(verdicts.get(pair_key(pair), {}).values(), self.reviews_per_pair) is None
        ]

    def reviewer(self, key: Key) -> Reviewer:
        """Return the owner of a key as a reviewer of the current dataset."""
        left = self.reviews.pairs_to_review(key.name, self.dataset().pairs)
        return Reviewer(key.name, key.may_call(LEADING), len(left))

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
            "waiting": sum(one.status == "waiting" for one in self.statuses()),
            "reviewers": [
                {"reviewer": name, "decided": decided, "assigned": assigned}
                for name, (decided, assigned) in reviewers.items()
            ],
        }

    def agreement(self) -> ReviewAgreement:
        """Return how far reviewers agree; it is computed again only after a new decision."""
        newest = self.reviews.newest_sequence()
        if self._agreement is None or self._agreement[0] != newest:
            self._agreement = (newest, review_agreement(self.reviews.decisions(), seed=self._settings.seed))
        return self._agreement[1]

    def agreement_for(self, reviewer: Reviewer) -> ReviewAgreement:
        """Return how far reviewers agree, without the disputed pairs whose verdicts could lead this reviewer."""
        verdicts, result = newest_verdicts(self.reviews.decisions()), self.agreement()
        disputed = [
            one for one in result.disputed if reviewer.may_see(verdicts.get(one.pair_key, {}), self.reviews_per_pair)
        ]
        return replace(result, disputed=tuple(disputed))

    def _load(self, ref: ArtifactRef) -> ReviewableDataset:
        chunks = {chunk.id: chunk for chunk in self._artifacts.read_records(self._ref("chunks"), Chunk)}
        candidates = self._artifacts.read_records(self._ref("qa_candidates"), QAPair)
        pairs = self._artifacts.read_records(ref, QAPair)
        by_key = {pair_key(pair): pair for pair in (*candidates, *pairs)}
        return ReviewableDataset(
            version=ref.sha256, built=pairs, corrections=[], candidates=candidates, chunks=chunks, by_key=by_key
        )

    def _state(self) -> object:
        """Return what changes when the statuses of corrections may change."""
        ref = self._artifacts.current("chunks")
        return ref.sha256 if ref else "", self.log.newest_correction(), self.reviews.newest_sequence()

    def _splits(self) -> tuple[list[SplitItem], str]:
        """Return the pairs of the current dataset with their splits, and its version."""
        ref = self._artifacts.current("qa_splits")
        if ref is None:
            return [], ""
        if self._items[0] != ref.sha256:
            self._items = (ref.sha256, self._artifacts.read_records(ref, SplitItem))
        return self._items[1], ref.sha256[:12]

    def _ref(self, name: str) -> ArtifactRef:
        ref = self._artifacts.current(name)
        if ref is None:
            raise DatasetError(f"The dataset is there, but its {name} are missing.", fix="run `ragtune materialize`")
        return ref


def _with_corrections(dataset: ReviewableDataset, statuses: list[CorrectionStatus]) -> ReviewableDataset:
    """Return the dataset with the corrections that people may review and that it does not contain."""
    made = {pair_key(one.made): one.made for one in statuses if one.made is not None and one.is_reviewable}
    built = {pair.feedback_id for pair in dataset.built}
    corrections = [pair for pair in made.values() if pair.feedback_id not in built]
    written = [pair for key, pair in made.items() if key not in dataset.by_key]
    return replace(
        dataset,
        corrections=corrections,
        candidates=[*written, *dataset.candidates],
        by_key={**made, **dataset.by_key},
    )
