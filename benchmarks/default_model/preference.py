"""Compares SFT alone with SFT and then KTO or DPO on simulated feedback; the same questions, the same prompts.

Run: python -m benchmarks.default_model.preference --seeds 1

SFT alone is the shipped reading adapter. The development questions over the documents in `examples/` are divided into
two halves, so that all questions about one document are in one half. The model answers all of them. A thumb is up if an
answer is right by the rules in `benchmarks/questions/README.md`, and down if not. A wrong answer gets a correction if a
shown passage holds the answer: its sentence, or the refusal if the documents do not answer. KTO learns from the thumbs
of one half, DPO from its corrections, and both answer the other half, on which nobody gave feedback. Questions over
another collection show what is forgotten. An answer counts as the model writes it. Prompts, answers and adapters are
kept in the home, so an interrupted run goes on. Writes `preference.json`.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.questions.measure import is_right, read_lines
from benchmarks.retrieval.results import as_text
from ragtune.answer.answering import Answerer
from ragtune.answer.citations import without_citations
from ragtune.answer.evidence import rank_evidence
from ragtune.answer.prompt import REFUSAL, target_text
from ragtune.answer.refusals import is_refusal
from ragtune.backends.catalog import (
    embedder_from,
    evidence_from,
    line_similarity_from,
    retriever_over,
    search_index_from,
)
from ragtune.dataset.checks.quality import check_pairs
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.draws import draw
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.resampling import mean_interval
from ragtune.knowledge.chunk_updates import chunk_changed
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.sources import read_sources
from ragtune.model.base.capacity import Machine, use_threads
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.base.pretrained import READING_ADAPTER, resolve_base_model
from ragtune.model.examples.builder import ExampleBuilder
from ragtune.model.examples.preferences import PreferenceExample
from ragtune.model.training.adapters import WEIGHTS
from ragtune.model.training.preference import PreferenceData, PreferenceJob, read_preference, train_preference
from ragtune.model.training.tracking import Tracker
from ragtune.model.training.validation import generated_answers
from ragtune.model_settings import BaseModelSettings, PreferenceSettings, TrainingSettings
from ragtune.records import Hit, Message, SplitItem
from ragtune.settings import Settings, load_settings, prepare_process
from ragtune.store.artifacts import ArtifactStore, file_sha256
from ragtune.text.sentences import split_sentences

HERE = Path(__file__).parent
SETS = HERE.parent / "questions"
HOME = Path(".benchmarks/preference")
RATED = {"manual": "folder:examples/manual", "faq": "folder:examples/faq", "releases": "folder:examples/releases"}
OTHER = {"networkx": "package:networkx"}
"""The collection without feedback, which shows what is forgotten."""
SEED = 17
_MOST_TOKENS = 64
"""Tokens of an answer: more than 40 words, beyond which none is right."""
_AT_ONCE = 24
"""Questions that are answered in one batch. Chosen by hand."""
_REPLAYED, _WATCHED = 64, 8
"""Conversations of SFT, and how many of them show what is forgotten; the others are replayed. Chosen by hand."""
_SAMPLES = 5000
"""Resamples of an interval. Chosen by hand."""
Arm = Literal["kto", "dpo"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the messages of its prompt, and the correction that a person could give, "" if there is none.

    `evidence` and `siblings` make it an `Example`, which the model can be asked.
    """

    id: str
    set: str
    document: str
    accepted: tuple[str, ...]
    answerable: bool
    messages: tuple[Message, ...]
    correction: str
    evidence: str = ""
    siblings: tuple[()] = ()


def main() -> None:
    """Answer, train, answer again, and write the scores after each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--arms", nargs="+", default=["kto", "dpo"])
    parser.add_argument("--halves", type=int, nargs="+", default=[0, 1], help="halves whose feedback is learnt from")
    parser.add_argument("--limit", type=int, default=0, help="questions of each kind, drawn by a seed; 0: all")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=PreferenceSettings().learning_rate)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    prepare_process()
    threads = use_threads(0)
    rated, other, replay = prompts()
    if options.limit:
        rated, other = (drawn(part, options.limit) for part in (rated, other))
    store = ArtifactStore(HOME / "artifacts")
    base = store.folder(resolve_base_model(BaseModelSettings(name="smollm2-raw"), store))
    before = answers_of(base, READING_ADAPTER, [*rated, *other])
    preference = PreferenceSettings(
        enabled=True, max_steps=options.steps, max_epochs=100, learning_rate=options.learning_rate, checkpoint_every=4
    )
    results: dict[str, Any] = {
        "command": f"python -m benchmarks.default_model.preference --seeds {' '.join(map(str, options.seeds))} "
        f"--limit {options.limit} --steps {options.steps} --learning-rate {options.learning_rate} "
        f"--halves {' '.join(map(str, options.halves))}",
        "hardware": hardware(),
        "threads": threads,
        "adapter_sha256": file_sha256(READING_ADAPTER / WEIGHTS),
        "questions_sha256": {name: file_sha256(SETS / f"{name}.dev.jsonl") for name in (*RATED, *OTHER)},
        "settings": preference.model_dump(mode="json"),
        "feedback": {half: feedback_numbers(rated, before, half) for half in options.halves},
        "runs": [],
    }
    for seed in options.seeds:
        for arm in options.arms:
            after: dict[str, dict[str, str]] = {}
            trainings = []
            for half in options.halves:
                adapter = trained(base, arm, half, seed, preference, feedback(arm, half, rated, before), replay)
                others = [one for one in rated if half_of(one) != half]
                after[f"half {half}"] = answers_of(base, adapter, [*others, *other])
                report = read_preference(adapter)
                if report is not None:
                    names = ("steps", "seconds", "chosen", "rejected", "pairs", "replayed", "warnings")
                    losses = [row.loss for row in report.validations]
                    trainings.append({**{name: getattr(report, name) for name in names}, "validation_losses": losses})
            results["runs"].append(
                {"arm": arm, "seed": seed, "trainings": trainings, **compared(rated, other, before, after)}
            )
            print(json.dumps(results["runs"][-1], indent=1), flush=True)
            options.out.write_text(as_text(results))


def drawn(questions: Sequence[Asked], limit: int) -> list[Asked]:
    """Return up to `limit` of the questions, drawn by the seed."""
    return sorted(questions, key=lambda one: draw(SEED, "ask", one.id))[:limit]


def prompts() -> tuple[list[Asked], list[Asked], list[Any]]:
    """Return the rated questions, those of the other collection, and conversations of SFT to replay."""
    from pydantic import TypeAdapter

    from ragtune.model.examples.example import TrainingExample

    kept = HOME / "prompts.json"
    kinds: Any = TypeAdapter(tuple[list[Asked], list[Asked], list[TrainingExample]])
    if not kept.is_file():
        replay: list[Any] = []
        rated = [one for name, source in RATED.items() for one in asked(name, source, replay)]
        other = [one for name, source in OTHER.items() for one in asked(name, source, None)]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([[asdict(one) for one in part] for part in (rated, other, replay)]))
    loaded: tuple[list[Asked], list[Asked], list[Any]] = kinds.validate_json(kept.read_bytes())
    return loaded


def asked(name: str, source: str, replay: list[Any] | None) -> list[Asked]:
    """Return the questions of a set as serving would ask the model, and add conversations of SFT to `replay`."""
    settings = load_settings({"home": HOME / name})
    embedder = embedder_from(settings)
    chunks = chunk_changed(read_sources([source]).documents, settings, embedder)
    index = search_index_from(settings, embedder)
    update_index(index, embedder, chunks)
    retriever = retriever_over(index, embedder, settings)
    similarity, evidence = line_similarity_from(settings), evidence_from(settings)
    answerer = Answerer(retriever, settings.answer, similarity, evidence)
    made = []
    for row in read_lines(SETS / f"{name}.dev.jsonl"):
        if row["history"]:
            continue
        prepared = answerer.prepare(row["question"])
        accepted = tuple(row["answers"])
        answerable = row["answerable"]
        correction = (
            _correction(row["question"], prepared.passages or (), accepted, settings) if answerable else REFUSAL
        )
        document = (row.get("sources") or [row["id"]])[0].partition("#")[0]
        messages = (*prepared.messages, Message("assistant", ""))
        made.append(Asked(row["id"], name, f"{name}/{document}", accepted, answerable, messages, correction))
    if replay is not None:
        pairs = check_pairs(ExtractiveWriter(SEED).write(chunks), chunks, settings.dataset).pairs
        chosen = sorted(pairs, key=lambda pair: draw(SEED, "replay", pair.id))[: _REPLAYED // len(RATED)]
        builder = ExampleBuilder(
            chunks, retriever.search, settings.answer, SEED, similarity=similarity, evidence=evidence
        )
        replay += builder.build([SplitItem(pair, "train", pair.document_id) for pair in chosen])
    return made


def _correction(question: str, passages: Sequence[Hit], accepted: Sequence[str], settings: Settings) -> str:
    """Return the sentence of a shown passage that answers best, with its citation, or "" if none is shown."""
    for one in rank_evidence(evidence_from(settings), question, passages):
        if is_right(one.unit.text, accepted):
            return target_text(one.unit.text, one.number)
    for number, hit in enumerate(passages, 1):
        for sentence in split_sentences(hit.lines or ""):
            if is_right(sentence, accepted):
                return target_text(sentence, number)
    return ""


def half_of(one: Asked) -> int:
    """Return the half, 0 or 1, that holds all questions about a document."""
    return int(draw(SEED, "half", one.document) < 0.5)


def right(one: Asked, text: str) -> bool:
    """Return whether an answer is right: an accepted string in 40 words, or a refusal if there is no answer."""
    if not one.answerable:
        return is_refusal(text)
    return is_right(without_citations(text), one.accepted) and not is_refusal(text)


def feedback(arm: str, half: int, rated: Sequence[Asked], answers: dict[str, str]) -> list[PreferenceExample]:
    """Return the thumbs or the corrections that people gave on one half."""
    examples = []
    for one in rated:
        text = answers[one.id]
        if half_of(one) != half or not text:
            continue
        prompt, names, is_up = one.messages[:-1], (one.id,), right(one, text)
        if arm == "kto":
            chosen, rejected = (text, "") if is_up else ("", text)
        elif is_up or not one.correction or one.correction == text:
            continue
        else:
            chosen, rejected = one.correction, text
        examples.append(PreferenceExample(messages=prompt, chosen=chosen, rejected=rejected, feedback_ids=names))
    return examples


def feedback_numbers(rated: Sequence[Asked], answers: dict[str, str], half: int) -> dict[str, int]:
    """Return how many questions of a half got a thumb up, a thumb down and a correction."""
    thumbs, pairs = feedback("kto", half, rated, answers), feedback("dpo", half, rated, answers)
    ups = sum(bool(one.chosen) for one in thumbs)
    return {"up": ups, "down": len(thumbs) - ups, "corrections": len(pairs)}


def trained(
    base: Path,
    arm: Arm,
    half: int,
    seed: int,
    preference: PreferenceSettings,
    examples: list[PreferenceExample],
    replay: list[Any],
) -> Path:
    """Return the adapter that an arm made from the feedback of one half, trained now if it is not in the home."""
    folder = HOME / f"{arm}-{half}-{seed}-{preference.max_steps}-{preference.learning_rate:g}-{len(examples)}"
    if read_preference(folder / "adapter") is None:
        job = PreferenceJob(
            base=base,
            adapter=READING_ADAPTER,
            training=TrainingSettings(),
            preference=preference,
            seed=seed,
            out=folder / "adapter",
            checkpoints=folder / "checkpoints",
        )
        data = PreferenceData(method=arm, examples=examples, replay=replay[_WATCHED:], validation=replay[:_WATCHED])
        train_preference(job, data, Tracker(), Machine("cpu"), lambda what, *_: print(arm, half, what, flush=True))
    return folder / "adapter"


def answers_of(base: Path, adapter: Path, questions: Sequence[Asked]) -> dict[str, str]:
    """Return the greedy answers of the raw model with this adapter, by question; earlier ones are kept."""
    from peft import PeftModel

    kept = HOME / f"{file_sha256(adapter / WEIGHTS)[:16]}.answers.jsonl"
    rows = read_lines(kept) if kept.is_file() else []
    answers = {row["id"]: row["answer"] for row in rows}
    missing = [one for one in questions if one.id not in answers]
    if not missing:
        return answers
    model = PeftModel.from_pretrained(load_model(base), adapter).merge_and_unload()
    tokenizer = load_tokenizer(base)
    with kept.open("a") as stream:
        for start in range(0, len(missing), _AT_ONCE):
            batch = missing[start : start + _AT_ONCE]
            for one, text in zip(batch, generated_answers(model, tokenizer, batch, _MOST_TOKENS), strict=True):
                answers[one.id] = text
                stream.write(json.dumps({"id": one.id, "answer": text}) + "\n")
            stream.flush()
            print(f"{adapter}: {start + len(batch)} of {len(missing)}", flush=True)
    return answers


def compared(
    rated: Sequence[Asked], other: Sequence[Asked], before: dict[str, str], after: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """Return the shares of right answers before and after, with intervals, and the paired difference."""
    held_out = [
        (one, before[one.id], answers[one.id])
        for name, answers in after.items()
        for one in rated
        if f"half {half_of(one)}" != name and one.id in answers
    ]
    elsewhere = [(one, before[one.id], answers[one.id]) for answers in after.values() for one in other]
    parts = {
        "questions without feedback": held_out,
        "of these answerable": [row for row in held_out if row[0].answerable],
        "of these unanswerable": [row for row in held_out if not row[0].answerable],
        "another collection": elsewhere,
    }
    return {name: _scores(rows) for name, rows in parts.items() if rows}


def _scores(rows: Sequence[tuple[Asked, str, str]]) -> dict[str, Any]:
    documents = [one.document for one, _, _ in rows]
    old = [float(right(one, text)) for one, text, _ in rows]
    new = [float(right(one, text)) for one, _, text in rows]
    refused = [
        sum(is_refusal(text) for text in texts) / len(rows)
        for texts in ([text for _, text, _ in rows], [text for _, _, text in rows])
    ]
    return {
        "n": len(rows),
        "documents": len(set(documents)),
        "sft": _interval(old, documents),
        "sft and preferences": _interval(new, documents),
        "difference": _interval([b - a for a, b in zip(old, new, strict=True)], documents),
        "changed answers": sum(a != b for _, a, b in rows),
        "refused": [round(share, 3) for share in refused],
    }


def _interval(values: Sequence[float], clusters: Sequence[str]) -> list[float]:
    return [round(number, 3) for number in mean_interval(values, clusters, _SAMPLES, SEED)]


if __name__ == "__main__":
    main()
