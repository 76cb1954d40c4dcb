"""What each model answers about prose that no training saw, before and after a training on API text.

    python -m benchmarks.default_model.prose --home .benchmarks/default_model

Needs the home of `benchmarks.default_model.answers`, whose models are asked. Without --questions the prose is that
of prose.yaml, with passages from its own hybrid index. A file of questions has in each line `question`, `answer` and
`context`, a text that holds the answer; its passages are then the contexts most similar to the question.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ragtune.answer.answering import RememberingAnswerer
from ragtune.backends.catalog import embedder_from, engine_from, retriever_from
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.held_out import Contender, Exam, HeldOutAnswers
from ragtune.evaluation.metrics import answer_tokens
from ragtune.evaluation.outside import FixedPassages, OutsideQuestion, with_nearest_passages
from ragtune.evaluation.resampling import mean_interval
from ragtune.knowledge.chunking import cut
from ragtune.model.pretrained import raw_model
from ragtune.records import Document, QAPair, ScoredAnswer, SplitItem, content_id
from ragtune.settings import Settings, child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets.line_up import BASE, CANDIDATE, RAW
from ragtune_assets.progress import LoggedProgress

HERE = Path(__file__).parent
SAMPLES = 2000


def questions_of(file: Path, settings: Settings) -> list[OutsideQuestion]:
    """Return the questions of a JSONL file with their passages; say which line does not hold its answer."""
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    contexts = {context: content_id(context) for context in (line["context"] for line in lines)}
    documents = [Document(name, str(file), name, "", text, name) for text, name in contexts.items()]
    embedder = embedder_from(settings)
    chunks = [chunk for chunk in cut(documents, settings.chunking, embedder.count_tokens) if not chunk.duplicate_of]
    pairs = []
    for number, line in enumerate(lines, 1):
        name = contexts[line["context"]]
        holding = [c for c in chunks if c.document_id == name and line["answer"] in c.text]
        if not holding:
            raise SystemExit(f"{file}, line {number}: no passage of the context holds the answer {line['answer']!r}.")
        start = holding[0].text.index(line["answer"])
        span = (start, start + len(line["answer"]))
        own = content_id(line["question"], name)
        pairs.append(QAPair(own, line["question"], line["answer"], "public", name, holding[0].id, span))
    return with_nearest_passages(pairs, chunks, embedder, settings.answer.passages)


def contains(answer: ScoredAnswer) -> float:
    """Return 1 when the answer holds the expected one, word by word."""
    want, got = answer_tokens(answer.expected), answer_tokens(answer.answer)
    return float(any(got[i : i + len(want)] == want for i in range(len(got) - len(want) + 1)))


def scores(answers: Sequence[ScoredAnswer], seed: int) -> dict[str, list[float]]:
    """Return {measure: [mean, low, high, n]} with 95% intervals, resampled by document."""
    shown = [a for a in answers if a.answerable and a.retrieved]
    hidden = [a for a in answers if not a.answerable]
    rows = {
        "token_f1": [(a, a.metrics["token_f1"]) for a in answers],
        "contains_expected": [(a, contains(a)) for a in shown],
        "citation": [(a, a.metrics["citation"]) for a in shown],
        "false_refusal": [(a, a.metrics["false_refusal"]) for a in shown],
        "refusal_recall": [(a, a.metrics["refusal_recall"]) for a in hidden],
    }
    table = {}
    for name, row in rows.items():
        if row:
            values = mean_interval([value for _, value in row], [a.document_id for a, _ in row], SAMPLES, seed)
            table[name] = [*(round(value, 4) for value in values), len(row)]
    return table


def main() -> None:
    """Build the dataset and the index, ask the models and write `prose.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="whose models answer")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--questions", type=Path, help="a JSONL file instead of the dataset's own questions")
    parser.add_argument("--out", type=Path, default=HERE / "prose.json")
    chosen = parser.parse_args()
    os.environ.setdefault("RAGTUNE_CONFIG", str(HERE / "prose.yaml"))
    settings = load_settings()
    store, models = ArtifactStore(settings.home / "artifacts"), ArtifactStore(chosen.home / "artifacts")
    finder: Any
    if chosen.questions:
        asked = questions_of(chosen.questions, settings)
        pairs, finder = [question.pair for question in asked], FixedPassages(asked)
    else:
        build = [
            sys.executable,
            "-m",
            "ragtune_assets.materialize",
            "--select",
            "*search_index",
            "--select",
            "*qa_splits",
        ]
        subprocess.run(build, env=child_environment(), check=True)
        splits = store.current("qa_splits")
        pairs = [item.pair for item in store.read_records(splits, SplitItem)] if splits else []
        finder = retriever_from(settings)
    pairs = sorted(pairs, key=lambda pair: content_id(str(settings.seed), pair.id))[: chosen.items]
    built = {
        RAW: raw_model(settings.base_model, models),
        BASE: models.current("base_model"),
        CANDIDATE: models.current("merged_model"),
    }
    folders = {name: models.folder(ref) for name, ref in built.items() if ref}
    if len(folders) < len(built):
        raise SystemExit(f"{chosen.home} holds only {', '.join(folders)}; run benchmarks.default_model.answers first.")
    exam = Exam(RememberingAnswerer(finder, settings.answer), content_id(*(pair.id for pair in pairs)))
    contenders = [Contender(name, "bf16", folder, name, {"test": pairs}) for name, folder in folders.items()]
    answering = HeldOutAnswers(
        engine_from(settings), {"test": exam}, store, settings.evaluation, settings.seed, LoggedProgress()
    )
    found = [each["test"] for each in answering.of_all(contenders, at_once=2)]
    table = {one.model: scores(answers, settings.seed) for one, answers in zip(contenders, found, strict=True)}
    bad = [a for a in found[-1] if a.answerable and a.retrieved and not contains(a)][:12]
    result = {
        "command": "python -m benchmarks.default_model.prose " + " ".join(sys.argv[1:]),
        "sources": [str(chosen.questions)] if chosen.questions else settings.sources,
        "seed": settings.seed,
        "questions_sha256": content_id(*(f"{pair.id} {pair.question} {pair.answer}" for pair in pairs)),
        "hardware": hardware(),
        "scores": table,
        "where_it_breaks": [{"question": a.question, "expected": a.expected, "answer": a.answer} for a in bad],
    }
    chosen.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    for name, row in table.items():
        print(
            f"{name:12}", *(f"{measure} {value[0]:.3f} (n={value[3]:.0f})" for measure, value in row.items()), sep="  "
        )


if __name__ == "__main__":
    main()
