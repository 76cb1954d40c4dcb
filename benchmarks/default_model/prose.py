"""Measures each model's answers about prose that no training saw, before and after a training on API text.

    python -m benchmarks.default_model.prose --home .benchmarks/default_model

Needs the home of `benchmarks.default_model.answers`, whose models answer. Without --questions the prose is that of
prose.yaml, with passages from its own hybrid index. Each line of a file of questions has `question`, `answer` and
`context`, a text that contains the answer; the passages are then the contexts most similar to the question.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.retrieval.results import as_text
from ragtune.answer.answering import RememberingAnswerer
from ragtune.answer.citations import answer_tokens, occurs_in
from ragtune.backends.catalog import embedder_from, engine_from, line_similarity_from, retriever_from
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.held_out import Contender, Exam, HeldOutAnswers
from ragtune.evaluation.out_of_domain import FixedPassages, OutOfDomainQuestion, with_nearest_passages
from ragtune.evaluation.resampling import mean_interval
from ragtune.knowledge.chunking import chunk_documents
from ragtune.model.base.capacity import chosen_device
from ragtune.model.base.pretrained import raw_model
from ragtune.records import Document, QAPair, ScoredAnswer, SplitItem, content_id
from ragtune.settings import Settings, child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets.contenders import BASE, CANDIDATE, RAW
from ragtune_assets.progress import LoggedProgress, log_to

HERE = Path(__file__).parent
SAMPLES = 2000


def questions_of(file: Path, settings: Settings) -> list[OutOfDomainQuestion]:
    """Return the questions of a JSONL file with their passages; an empty answer means that the question has none.

    Questions whose answer is in no passage as a whole are left out, and so are repeated questions.
    """
    lines = {line["question"]: line for line in map(json.loads, filter(str.strip, file.read_text().splitlines()))}
    contexts = {context: content_id(context) for context in (line["context"] for line in lines.values())}
    documents = [
        Document(id=name, source=str(file), path=name, title="", text=text, sha256=name)
        for text, name in contexts.items()
    ]
    embedder = embedder_from(settings)
    chunks = [
        chunk
        for chunk in chunk_documents(documents, settings.chunking, embedder.count_tokens)
        if not chunk.duplicate_of
    ]
    pairs = []
    for question, line in lines.items():
        name, answer = contexts[line["context"]], line["answer"]
        matches = [chunk for chunk in chunks if chunk.document_id == name and answer in chunk.text]
        if matches:
            start = matches[0].text.index(answer)
            span = (start, start + len(answer))
            own = content_id(question, name)
            pairs.append(
                QAPair(
                    id=own,
                    question=question,
                    answer=answer,
                    kind="public",
                    document_id=name,
                    chunk_id=matches[0].id,
                    span=span,
                    answerable=bool(answer),
                )
            )
    print(f"{len(pairs)} of {len(lines)} questions have an answer that stands in a passage.")
    return with_nearest_passages(pairs, chunks, embedder, settings.answer.passages)


def contains(answer: ScoredAnswer) -> float:
    """Return 1 if the answer contains the expected one word for word and is not a refusal, else 0."""
    expected, words = answer_tokens(answer.expected), answer_tokens(answer.answer)
    return float(bool(expected) and occurs_in(expected, words) and not answer.refused)


def values(answers: Sequence[ScoredAnswer]) -> dict[str, dict[str, float]]:
    """Return {measure: {pair id: value}}.

    Citations, false refusals and contained answers count only if the right passage was shown.
    """
    with_passage = [a for a in answers if a.answerable and a.retrieved]
    return {
        "token_f1": {a.pair_id: a.metrics["token_f1"] for a in answers},
        "contains_expected": {a.pair_id: contains(a) for a in with_passage},
        "citation": {a.pair_id: a.metrics["citation"] for a in with_passage},
        "false_refusal": {a.pair_id: a.metrics["false_refusal"] for a in with_passage},
        "refusal_recall": {a.pair_id: a.metrics["refusal_recall"] for a in answers if not a.answerable},
    }


def table(rows: Mapping[str, Mapping[str, float]], documents: Mapping[str, str], seed: int) -> dict[str, list[float]]:
    """Return {measure: [mean, low, high, n]} with 95% intervals, resampled by document."""
    intervals = {}
    for name, row in rows.items():
        if row:
            interval = mean_interval([*row.values()], [documents[pair_id] for pair_id in row], SAMPLES, seed)
            intervals[name] = [*(round(value, 4) for value in interval), len(row)]
    return intervals


def main() -> None:
    """Build the dataset and the index, let the models answer and write `prose.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="the home whose models answer")
    parser.add_argument("--items", type=int, default=300, help="number of questions")
    parser.add_argument("--questions", type=Path, help="a JSONL file instead of the dataset's own questions")
    parser.add_argument("--out", type=Path, default=HERE / "prose.json")
    options = parser.parse_args()
    log_to(sys.stderr)
    os.environ.setdefault("RAGTUNE_CONFIG", str(HERE / "prose.yaml"))
    settings = load_settings()
    store, models = ArtifactStore(settings.home / "artifacts"), ArtifactStore(options.home / "artifacts")
    finder: Any
    answers_key = settings.fingerprint("answer", "index", "engine")
    if options.questions:
        questions = questions_of(options.questions, settings)
        pairs, finder = [question.pair for question in questions], FixedPassages(questions)
        answers_key += content_id(*(chunk.id for question in questions for chunk in question.passages))
    else:
        needed = ("--select", "*search_index", "--select", "*qa_splits")
        command = [sys.executable, "-m", "ragtune_assets.materialize", *needed]
        subprocess.run(command, env=child_environment(), check=True)
        splits, index = store.current("qa_splits"), store.current("search_index")
        if splits is None or index is None:
            raise SystemExit("The graph has no qa_splits or no search_index. Expected: a run that builds both.")
        pairs, finder = [item.pair for item in store.read_records(splits, SplitItem)], retriever_from(settings)
        answers_key += index.sha256
    pairs = sorted(pairs, key=lambda pair: content_id(str(settings.seed), pair.id))[: options.items]
    built = {
        RAW: raw_model(settings.base_model, models),
        BASE: models.current("base_model"),
        CANDIDATE: models.current("merged_model"),
    }
    folders = {name: models.folder(ref) for name, ref in built.items() if ref}
    if len(folders) < len(built):
        raise SystemExit(f"{options.home} holds only {', '.join(folders)}; run benchmarks.default_model.answers first.")
    exam = Exam(RememberingAnswerer(finder, settings.answer, line_similarity_from(settings)), answers_key)
    contenders = [Contender(name, "bf16", folder, name, {"test": pairs}) for name, folder in folders.items()]
    answering = HeldOutAnswers(
        engine_from(settings), {"test": exam}, store, settings.evaluation, settings.seed, LoggedProgress()
    )
    at_once = 2 if chosen_device(settings.device) == "cpu" else 1
    answer_sets = answering.of_all(contenders, at_once)
    by_model = {contender.model: answers["test"] for contender, answers in zip(contenders, answer_sets, strict=True)}
    documents = {pair.id: pair.document_id for pair in pairs}
    measured = {name: values(answers) for name, answers in by_model.items()}
    gains = {
        f"{name} over raw": {
            measure: {pair: value - measured[RAW][measure][pair] for pair, value in row.items()}
            for measure, row in measured[name].items()
        }
        for name in (BASE, CANDIDATE)
    }
    wrong = [a for a in by_model[CANDIDATE] if a.answerable and a.retrieved and not contains(a)][:12]
    result: dict[str, Any] = {
        "command": "python -m benchmarks.default_model.prose " + " ".join(sys.argv[1:]),
        "sources": [str(options.questions)] if options.questions else settings.sources,
        "seed": settings.seed,
        "questions_sha256": content_id(*(f"{pair.id} {pair.question} {pair.answer}" for pair in pairs)),
        "model_versions": {name: ref.sha256 for name, ref in built.items() if ref},
        "hardware": hardware(),
        "scores": {name: table(rows, documents, settings.seed) for name, rows in measured.items()},
        "paired_gains": {name: table(rows, documents, settings.seed) for name, rows in gains.items()},
        "where_it_breaks": [{"question": a.question, "expected": a.expected, "answer": a.answer} for a in wrong],
    }
    options.out.write_text(as_text(result))
    for name, row in {**result["scores"], **result["paired_gains"]}.items():
        print(
            f"{name:22}", *(f"{measure} {value[0]:.3f} (n={value[3]:.0f})" for measure, value in row.items()), sep="  "
        )


if __name__ == "__main__":
    main()
