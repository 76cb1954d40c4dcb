"""Measures every model's answers on packages that no training saw, by kind, and two baselines without a model.

Run: python -m benchmarks.default_model.answers (builds the graph first; takes minutes per model on two cores)
"""

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.retrieval.results import as_text
from ragtune.answer.answering import Answerer
from ragtune.backends.catalog import evidence_from, line_similarity_from, retriever_from
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.gate import paired_gain
from ragtune.evaluation.held_out import held_out
from ragtune.evaluation.metrics import METRICS, SIGNATURES
from ragtune.evaluation.resampling import mean_interval
from ragtune.evaluation.scoring import score_model
from ragtune.model.base.pretrained import raw_model
from ragtune.ports import ChatModel, Embedder
from ragtune.records import AnswerSet, Completion, Message, ScoredAnswer, SplitItem
from ragtune.settings import child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.text.sentences import sentence_spans
from ragtune.text.whitespace import collapse_whitespace

HERE = Path(__file__).parent
SAMPLES = 2000
MODELS = ("base_model", "merged_model", "quantized_model")
COMPARED = ("token_f1", "citation", "refusal_recall", "false_refusal")
Answers = Sequence[ScoredAnswer]


class SentencePicker(ChatModel):
    """Answers with a sentence of the passages: the most similar one, or without an embedder the first one."""

    def __init__(self, name: str, embedder: Embedder | None) -> None:
        self.name, self.embedder = name, embedder

    def complete(self, messages: Sequence[Message], **_: object) -> Completion:
        """Return the sentence, with the number of its passage as the citation."""
        passages, _separator, question = messages[-1].content.rpartition("\n\nQuestion: ")
        numbered = re.findall(r"^\[(\d)\] [^\n]*\n(.*?)(?=^\[\d\] |\Z)", passages, re.MULTILINE | re.DOTALL)
        units = [
            (number, collapse_whitespace(text[a:b]))
            for number, text in numbered
            for a, b in sentence_spans(text, 0, len(text))
        ]
        best = 0
        if self.embedder is not None:
            vectors = self.embedder.embed([question, *(text for _, text in units)])
            best = int((vectors[1:] @ vectors[0]).argmax())
        number, sentence = units[best]
        return Completion(
            text=f"{sentence} [{number}]",
            prompt_tokens=0,
            completion_tokens=0,
            first_token_seconds=0.0,
            total_seconds=0.0,
        )


def main() -> None:
    """Build the graph with this benchmark's settings, measure, and write `answers.json`."""
    os.environ.setdefault("RAGTUNE_CONFIG", str(HERE / "ragtune.yaml"))
    settings = load_settings()
    command = [sys.executable, "-m", "ragtune_assets.materialize", "--select", "*eval_scores"]
    subprocess.run(command, env=child_environment(), check=True)
    store = ArtifactStore(settings.home / "artifacts")
    splits, stored = store.current("qa_splits"), store.current("eval_answers")
    if splits is None or stored is None:
        raise SystemExit("The graph has no qa_splits or no eval_answers. Expected: a run that builds both.")
    answer_sets = [entry for entry in store.read_records(stored, AnswerSet) if entry.split == "test"]
    answers: dict[str, Answers] = {f"{entry.model} {entry.precision}": entry.answers for entry in answer_sets}
    retriever = retriever_from(settings)
    answerer = Answerer(retriever, settings.answer, line_similarity_from(settings), evidence_from(settings))
    pairs = held_out(store.read_records(splits, SplitItem), "test", settings.evaluation.test_items, settings.seed)
    for picker in (
        SentencePicker("most similar sentence", retriever.embedder),
        SentencePicker("first sentence of the best passage", None),
    ):
        answers[picker.name] = score_model(pairs, answerer, picker, concurrency=1)
    table = {name: scores(of_model, settings.seed) for name, of_model in answers.items()}
    results = {
        "command": "python -m benchmarks.default_model.answers",
        "sources": settings.sources,
        "seed": settings.seed,
        "dataset_sha256": splits.sha256,
        "artefacts_sha256": {
            **{name: ref.sha256 for name in MODELS if (ref := store.current(name))},
            **({"raw_model": raw.sha256} if (raw := raw_model(settings.base_model, store)) else {}),
        },
        "hardware": hardware(),
        "signatures": SIGNATURES,
        "scores": table,
        "by_kind": {
            metric: {name: by_kind(of_model, metric, settings.seed) for name, of_model in answers.items()}
            for metric in ("token_f1", "exact_match", "citation", "false_refusal")
        },
        "gains": gains(answers, settings.seed),
    }
    (HERE / "answers.json").write_text(as_text(results))
    for name, row in table.items():
        print(f"{name:36}", *(f"{metric} {row[metric][0]:.3f}" for metric in COMPARED if metric in row), sep="  ")


def scores(answers: Answers, seed: int) -> dict[str, list[float]]:
    """Return {metric: [mean, low, high, n]} with 95% intervals, resampled by document.

    `right_citation_alone` counts an answer that cites the right passage and no other.
    """
    table = {}
    for metric in METRICS:
        scored = [answer for answer in answers if metric in answer.metrics]
        if scored:
            table[metric] = _interval(scored, [answer.metrics[metric] for answer in scored], seed)
    cited = [answer for answer in answers if "citation" in answer.metrics]
    table["right_citation_alone"] = _interval(cited, [float(a.metrics["citation"] == 1) for a in cited], seed)
    return table


def by_kind(answers: Answers, metric: str, seed: int) -> dict[str, list[float]]:
    """Return {kind of question: [mean, low, high, n]} of a metric, for the kinds that it applies to."""
    kinds: dict[str, list[ScoredAnswer]] = defaultdict(list)
    for answer in answers:
        if metric in answer.metrics:
            kinds[answer.kind].append(answer)
    return {
        kind: _interval(members, [answer.metrics[metric] for answer in members], seed)
        for kind, members in sorted(kinds.items())
    }


def gains(answers: Mapping[str, Answers], seed: int) -> list[dict[str, Any]]:
    """Return the gain of each step over the one before, paired by question, with two-sided 95% intervals."""
    steps = [
        ("raw bf16", "base bf16"),
        ("raw bf16", "fine-tuned bf16"),
        ("base bf16", "fine-tuned bf16"),
        ("fine-tuned bf16", "fine-tuned w4a16"),
        ("fine-tuned bf16", "fine-tuned w8a8"),
    ]
    rows = []
    for before, after in steps:
        for metric in COMPARED:
            first = answers[after][: len(answers[before])]  # the raw model may answer only the first questions
            gain = paired_gain(answers[before], first, metric, alpha=0.025, samples=SAMPLES, seed=seed)
            interval = [round(value, 4) for value in (gain.gain, gain.low, gain.high)]
            rows.append({"from": before, "to": after, "metric": metric, "gain": interval, "n": gain.n})
    return rows


def _interval(answers: Answers, values: Sequence[float], seed: int) -> list[float]:
    documents = [answer.document_id for answer in answers]
    return [*(round(value, 4) for value in mean_interval(values, documents, SAMPLES, seed)), len(answers)]


if __name__ == "__main__":
    main()
