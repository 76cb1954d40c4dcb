"""Simulates campaigns that poison the corrections, and counts how many of them reach training.

Run: python benchmarks/dataset/poisoning.py --source package:filelock --out benchmarks/dataset
Three campaigns send 1000 bad corrections each: with one key in a day, with 50 keys in a day, and with one key over
200 days. Six honest users correct 60 answers meanwhile. Every bad correction is a sentence of the right passage that
does not answer the question, which is the hardest kind to find: no word of it is foreign to the passage.
Simulated reviewers decide about everything in their queue and accept a share of the bad corrections by mistake.
"""

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ragtune.backends.catalog import embedder_from
from ragtune.dataset.corrections import CorrectionStatus, correction_statuses, trainable_pairs
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.reviews.decisions import Decision, new_decision
from ragtune.evaluation.feedback_trends import wilson
from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.sources import read_sources
from ragtune.records import Chunk, FeedbackEvent, QAPair
from ragtune.settings import ChunkingSettings, DatasetSettings, FeedbackSettings, load_settings

BAD, HONEST = 1000, 60
KEYS, HONEST_KEYS = 50, 6
DAYS, BUILD_DAYS = 200, 10
"""The slow campaign sends five corrections a day; a dataset is built every ten days."""
MISTAKES = (0.0, 0.05, 0.2)
"""Shares of the bad corrections that reviewers accept by mistake. Chosen by hand: none, few, a tired reviewer."""
WITHOUT_CAP = 1_000_000
KINDS = {
    "words of the passage": "{text}",
    "invented": "Purple zebras dance {n} times under the moonlight.",
    "with a secret": "Use AKIAIOSFODNN7EXAM{n:03}. {text}",
    "with a mail address": "Write to user{n}@example.org. {text}",
}


@dataclass(frozen=True, slots=True)
class Campaign:
    """Who sends bad corrections: with how many keys, and over how many days."""

    name: str
    keys: int
    days: int


CAMPAIGNS = (Campaign("one key", 1, 1), Campaign("many keys", KEYS, 1), Campaign("slow", 1, DAYS))


def wrong_answer(chunk: Chunk, generator: random.Random) -> str:
    """Return twelve words of the passage from a random place."""
    words = chunk.text.split()
    first = generator.randrange(max(1, len(words) - 12))
    return " ".join(words[first : first + 12])


def event(number: int, pair: QAPair, correction: str, user: str, day: int) -> FeedbackEvent:
    """Return the correction of an answer to the question of a pair, asked in an own way."""
    return FeedbackEvent(
        id=f"fb-{number}",
        sequence=number,
        created_at=f"{day:04}",
        response_id=f"r{number}",
        rating="down",
        correction=correction,
        user=user,
        question=f"case{number}: {pair.question}",
        chunk_ids=(pair.chunk_id,),
    )


def sent(campaign: Campaign, pairs: list[QAPair], chunk_by_id: dict[str, Chunk], seed: int) -> list[FeedbackEvent]:
    """Return the bad and the honest corrections, in the order in which they came."""
    generator = random.Random(seed)
    drafts = []
    for number in range(BAD):
        pair = generator.choice(pairs)
        text = wrong_answer(chunk_by_id[pair.chunk_id], generator)
        drafts.append((number * campaign.days // BAD, pair, text, f"eve-{number % campaign.keys}"))
    for number in range(HONEST):
        pair = generator.choice(pairs)
        drafts.append((number * campaign.days // HONEST, pair, pair.answer, f"honest-{number % HONEST_KEYS}"))
    generator.shuffle(drafts)
    drafts.sort(key=lambda draft: draft[0])
    return [event(number, pair, text, user, day) for number, (day, pair, text, user) in enumerate(drafts, 1)]


def reviewed(
    look: Callable[[list[Decision]], list[CorrectionStatus]],
    decisions: list[Decision],
    mistakes: float,
    generator: random.Random,
) -> list[CorrectionStatus]:
    """Let a reviewer decide about everything that waits, again and again until nothing does."""
    statuses = look(decisions)
    while waiting := [one for one in statuses if one.status == "waiting"]:
        for one in waiting:
            accepts = not is_bad(one.event) or generator.random() < mistakes
            assert one.made is not None, "reviewers get only corrections that became a pair"
            decision = new_decision(one.made, "ada", "accept" if accepts else "reject")
            decisions.append(replace(decision, sequence=len(decisions) + 1))
        statuses = look(decisions)
    return statuses


def is_bad(feedback: FeedbackEvent) -> bool:
    """Return whether the campaign sent it."""
    return feedback.user.startswith("eve")


def simulate(
    events: list[FeedbackEvent], chunks: list[Chunk], feedback: FeedbackSettings, mistakes: float, seed: int
) -> dict[str, object]:
    """Return which shares of the bad and of the honest corrections were in a dataset at least once."""
    generator, decisions = random.Random(seed), list[Decision]()
    trained: set[str] = set()
    last = int(events[-1].created_at)
    for day in range(min(last, BUILD_DAYS - 1), last + BUILD_DAYS, BUILD_DAYS):
        so_far = [one for one in events if int(one.created_at) <= day]

        def look(made: list[Decision], so_far: list[FeedbackEvent] = so_far) -> list[CorrectionStatus]:
            return correction_statuses(so_far, chunks, made, feedback, DatasetSettings())

        statuses = reviewed(look, decisions, mistakes, generator)
        trained |= {pair.feedback_id for pair in trainable_pairs(statuses)}
    bad = sum(is_bad(one) for one in events if one.id in trained)
    honest = len(trained) - bad
    low, high = wilson(bad / BAD, BAD)
    return {
        "bad_trained": bad,
        "bad_share": round(bad / BAD, 4),
        "bad_interval": [round(low, 4), round(high, 4)],
        "honest_trained": honest,
        "honest_share": round(honest / HONEST, 4),
        "decisions": len(decisions),
    }


def checked(pairs: list[QAPair], chunks: list[Chunk], chunk_by_id: dict[str, Chunk], seed: int) -> dict[str, float]:
    """Return {kind of bad correction: the share of 200 that passes the checks}."""
    generator, n = random.Random(seed), 200
    shares = {}
    for name, form in KINDS.items():
        chosen = [generator.choice(pairs) for _ in range(n)]
        texts = [wrong_answer(chunk_by_id[pair.chunk_id], generator) for pair in chosen]
        drafts = enumerate(zip(chosen, texts, strict=True))
        events = [event(i, pair, form.format(text=text, n=i), f"key-{i}", 0) for i, (pair, text) in drafts]
        statuses = correction_statuses(events, chunks, [], FeedbackSettings(), DatasetSettings())
        shares[name] = sum(one.made is not None for one in statuses) / n
    return shares


def main() -> None:
    """Simulate and write `poisoning.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", action="append", required=True, help="a source of documents; may be repeated")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, required=True, help="folder for poisoning.json")
    options = parser.parse_args()
    count_tokens = embedder_from(load_settings()).count_tokens
    chunks = chunk_documents(read_sources(options.source).documents, ChunkingSettings(), count_tokens)
    chunk_by_id = {chunk.id: chunk for chunk in chunks}
    pairs = [pair for pair in ExtractiveWriter(options.seed).write(chunks) if pair.answerable]
    policies: dict[str, tuple[FeedbackSettings, float]] = {
        "checks only, as before": (FeedbackSettings(approval=False, per_key=WITHOUT_CAP), 0.0),
        "approval off": (FeedbackSettings(approval=False), 0.0),
        **{f"approval on, {share:.0%} mistakes": (FeedbackSettings(), share) for share in MISTAKES},
    }
    rows: dict[str, dict[str, object]] = {}
    for campaign in CAMPAIGNS:
        events = sent(campaign, pairs, chunk_by_id, options.seed)
        for name, (feedback, mistakes) in policies.items():
            row = simulate(events, chunks, feedback, mistakes, options.seed)
            rows[f"{campaign.name}, {name}"] = row
            print(campaign.name, name, row, flush=True)
    result = {
        "sources": options.source,
        "passages": len(chunks),
        "bad_corrections": BAD,
        "honest_corrections": HONEST,
        "per_key": FeedbackSettings().per_key,
        "pass_the_checks": checked(pairs, chunks, chunk_by_id, options.seed),
        "campaigns": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "poisoning.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
