"""The page Review pairs: queues, one pair next to its passage, the progress, and who reviews what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import FastAPI, Form, Query, Request, Response

from ragtune.dataset.reviews.decisions import REVIEWED, Decision, newest_verdicts, pair_key
from ragtune.dataset.reviews.guideline import GUIDELINE, REASONS
from ragtune.dataset.reviews.outcome import winning_decision
from ragtune.errors import DatasetError
from ragtune.records import Chunk, QAPair
from ragtune.store.feedback import LONGEST_TEXT
from ragtune_serving.console.marking import Segment, cut, literal_span
from ragtune_serving.console.pages import render, session_of
from ragtune_serving.keys import Key, KeyStore
from ragtune_serving.reviewer import Reviewer
from ragtune_serving.reviewing import LEADING, ReviewDesk

Queue = Literal["mine", "open", "conflicts", "decided", "all", "corrections"]
QUEUES: dict[Queue, str] = {
    "mine": "Mine",
    "open": "Not settled",
    "conflicts": "Conflicts",
    "decided": "Decided by me",
    "all": "All",
    "corrections": "Corrections by users",
}
PAGE_SIZE = 50
"""Pairs in the list next to the pair; chosen by hand, not sensitive."""
_REVIEWING = "/v1/review/decisions"
_SEARCHING = "/console/knowledge/search"
KeyedPairs = list[tuple[str, QAPair]]
Verdicts = Mapping[str, Mapping[str, Decision]]


@dataclass(frozen=True, slots=True)
class PairView:
    """What the page shows of one pair.

    `others` are the verdicts of other reviewers, or empty if they could lead the one who looks; `hidden` counts those.
    """

    key: str
    pair: QAPair
    chunk: Chunk | None
    passage: list[Segment]
    evidence: list[Chunk]
    own: Decision | None
    others: list[Decision]
    hidden: int
    reviewers: list[str]
    is_conflict: bool


class PairQueues:
    """The pairs of the dataset by what still has to be done with them."""

    def __init__(self, desk: ReviewDesk) -> None:
        self.desk = desk
        self._keyed: tuple[str, KeyedPairs] = ("", [])

    def queues(self, user: str) -> tuple[dict[Queue, KeyedPairs], Verdicts]:
        """Return the pairs of every queue for a reviewer, in the order of the dataset, and the verdicts so far."""
        verdicts = newest_verdicts(self.desk.reviews.decisions())
        assignments = self.desk.reviews.assignments()
        needed = self.desk.reviews_per_pair
        queues: dict[Queue, KeyedPairs] = {name: [] for name in QUEUES}
        for keyed in self._pairs():
            key, pair = keyed
            own = verdicts.get(key, {})
            is_settled = REVIEWED in pair.scores or winning_decision(own.values(), needed) is not None
            queues["all"].append(keyed)
            if user in own:
                queues["decided"].append(keyed)
            elif user in assignments.get(key, ()):
                queues["mine"].append(keyed)
            if not is_settled:
                queues["open"].append(keyed)
                if pair.feedback_id:
                    queues["corrections"].append(keyed)
                if len(own) >= needed:
                    queues["conflicts"].append(keyed)
        return queues, verdicts

    def view(self, key: str, reviewer: Reviewer, verdicts: Verdicts) -> PairView | None:
        """Return what to show a reviewer of a pair, or None if the dataset has no such pair."""
        dataset = self.desk.dataset()
        pair = dataset.by_key.get(key)
        if pair is None:
            return None
        chunk = dataset.chunks.get(pair.chunk_id)
        own = verdicts.get(key, {})
        needed = self.desk.reviews_per_pair
        is_conflict = len(own) >= needed and winning_decision(own.values(), needed) is None
        others = sorted((one for name, one in own.items() if name != reviewer.name), key=lambda one: one.sequence)
        may_see = reviewer.may_see(own, needed)
        return PairView(
            key=key,
            pair=pair,
            chunk=chunk,
            passage=_passage(chunk.text, pair) if chunk else [],
            evidence=[dataset.chunks[one] for one in pair.evidence_ids if one in dataset.chunks],
            own=own.get(reviewer.name),
            others=others if may_see else [],
            hidden=0 if may_see else len(others),
            reviewers=sorted(self.desk.reviews.assignments().get(key, ())),
            is_conflict=is_conflict,
        )

    def matching(self, pairs: KeyedPairs, text: str) -> KeyedPairs:
        """Return the pairs whose question, answer, kind, writer or document contain every word of the text."""
        words = text.lower().split()
        if not words:
            return pairs
        chunks = self.desk.dataset().chunks

        def described(pair: QAPair) -> str:
            chunk = chunks.get(pair.chunk_id)
            where = (chunk.title, chunk.origin) if chunk else ()
            return " ".join((pair.question, pair.answer, pair.kind, pair.writer, *where)).lower()

        return [keyed for keyed in pairs if all(word in described(keyed[1]) for word in words)]

    def _pairs(self) -> KeyedPairs:
        """Return the pairs with their keys, which take longer to compute than everything else."""
        dataset = self.desk.dataset()
        if self._keyed[0] != dataset.version:
            self._keyed = (dataset.version, [(pair_key(pair), pair) for pair in dataset.built])
        return [*((pair_key(pair), pair) for pair in dataset.corrections), *self._keyed[1]]


def add_review_pages(app: FastAPI, desk: ReviewDesk, keys: KeyStore) -> None:
    """Add the page Review pairs. Its script sends decisions to `/v1/review` below `/console`."""
    queues = PairQueues(desk)

    @app.get("/console/reviews")
    def reviews(
        request: Request,
        show: Queue = "mine",
        key: str = "",
        page: Annotated[int, Query(ge=0)] = 0,
        q: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        session = session_of(request)
        leads = session.key.may_call(LEADING)
        try:
            by_name, verdicts = queues.queues(session.key.name)
        except DatasetError as error:
            return render(request, "reviews_missing.html", message=error.found, fix=error.fix)
        pairs = queues.matching(by_name[show], q)
        place = next((place for place, (one, _) in enumerate(pairs) if one == key), -1)
        if place >= 0:
            page = place // PAGE_SIZE
        page = min(page, max(0, (len(pairs) - 1) // PAGE_SIZE))
        shown = pairs[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
        chosen = key or (shown[0][0] if shown else "")
        reviewer = Reviewer(session.key.name, leads, len(by_name["mine"]))
        return render(
            request,
            "reviews.html",
            tabs=[(name, title, len(by_name[name])) for name, title in QUEUES.items()],
            show=show,
            q=q,
            suffix="&" + urlencode({"q": q}) if q else "",
            shown=shown,
            first=page * PAGE_SIZE,
            page=page,
            more=(page + 1) * PAGE_SIZE < len(pairs),
            total=len(pairs),
            view=queues.view(chosen, reviewer, verdicts) if chosen else None,
            wanted=key,
            decided=len(by_name["decided"]),
            leads=leads,
            may_search=session.key.may_call(_SEARCHING),
            longest_text=LONGEST_TEXT,
            approval=desk.needs_approval,
            guideline=GUIDELINE,
            reasons=REASONS,
        )

    _add_progress(app, desk, keys)


def _add_progress(app: FastAPI, desk: ReviewDesk, keys: KeyStore) -> None:
    @app.get("/console/reviews/progress")
    def progress(request: Request) -> Response:
        return _progress(request, desk, keys)

    @app.post("/console/reviews/progress")
    def assign(
        request: Request,
        count: Annotated[int, Form(ge=1, le=1000)],
        names: Annotated[Sequence[str], Form()] = (),
    ) -> Response:
        if not session_of(request).key.may_call(LEADING):
            return _refused(request)
        known = _reviewers(keys.all())
        wanted = [name for name in names if name in known]
        if not wanted:
            return _progress(request, desk, keys, "Choose at least one reviewer.")
        pairs = desk.open_pairs()[:count]
        new = desk.reviews.assign(pairs, wanted, min(desk.reviews_per_pair, len(wanted)))
        given = ", ".join(f"{name} got {number}" for name, number in new.items())
        return _progress(request, desk, keys, f"Assigned: {given}.")


def _progress(request: Request, desk: ReviewDesk, keys: KeyStore, message: str = "") -> Response:
    if not session_of(request).key.may_call(LEADING):
        return _refused(request)
    return render(
        request,
        "reviews_progress.html",
        left=desk.reviewer(session_of(request).key).left,
        progress=desk.progress(),
        agreement=desk.agreement(),
        per_pair=desk.reviews_per_pair,
        names=_reviewers(keys.all()),
        message=message,
    )


def _refused(request: Request) -> Response:
    message = "Your role does not include the progress of others."
    return render(request, "message.html", 403, title="Not for your role", message=message, fix="")


def _reviewers(keys: Sequence[Key]) -> list[str]:
    return sorted(key.name for key in keys if key.may_call(_REVIEWING) and not key.expired)


def _passage(text: str, pair: QAPair) -> list[Segment]:
    """Return the passage with the answer marked, if the answer stands there."""
    start, end = pair.span
    if not pair.answerable:
        return cut(text, [])
    span = (start, end) if 0 <= start < end <= len(text) else literal_span(text, pair.answer)
    return cut(text, [span] if span else [])
