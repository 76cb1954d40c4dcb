"""What every model answers over packages that no training saw, kind by kind, beside two answers without a model.

Run: python -m benchmarks.default_model.answers (the graph is built first; minutes for each model on two cores)
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
from ragtune.backends.catalog import retriever_from
from ragtune.dataset.sentences import collapse_whitespace, sentences
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.gate import paired_gain
from ragtune.evaluation.held_out import held_out
from ragtune.evaluation.metrics import METRICS, SIGNATURES
from ragtune.evaluation.resampling import mean_interval
from ragtune.evaluation.scoring import score_model
from ragtune.model.pretrained import raw_model
from ragtune.ports import ChatModel, Embedder
from ragtune.records import Completion, Message, ScoredAnswer, SplitItem
from ragtune.settings import child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets.contenders import AnswerSet

HERE = Path(__file__).parent
SAMPLES = 2000
MODELS = ("base_model", "merged_model", "quantized_model")
COMPARED = ("token_f1", "citation", "refusal_recall", "false_refusal")
Answers = Sequence[ScoredAnswer]


class SentencePicker(ChatModel):
    """Answers with one sentence of the prompt's passages: the most similar one, or the first of the first passage."""

    def __init__(self, name: str, embedder: Embedder | None) -> None:
        self.name, self.embedder = name, embedder

    def complete(self, messages: Sequence[Message], **_: object) -> Completion:
        """Return the sentence with the number of its passage."""
        passages, _, question = messages[-1].content.rpartition("\n\nQuestion: ")
        found = re.findall(r"^\[(\d)\] [^\n]*\n(.*?)(?=^\[\d\] |\Z)", passages, re.MULTILINE | re.DOTALL)
        units = [
            (number, collapse_whitespace(text[a:b])) for number, text in found for a, b in sentences(text, 0, len(text))
        ]
        best = 0
        if self.embedder is not None:
            vectors = self.embedder.embed([question, *(text for _, text in units)])
            best = int((vectors[1:] @ vectors[0]).argmax())
        number, text = units[best]
        return Completion(f"{text} [{number}]", 0, 0, 0.0, 0.0)


def main() -> None:
    """Build the graph on its own settings and write the tables as JSON."""
    os.environ.setdefault("RAGTUNE_CONFIG", str(HERE / "ragtune.yaml"))
    settings = load_settings()
    command = [sys.executable, "-m", "ragtune_assets.materialize", "--select", "*eval_scores"]
    subprocess.run(command, env=child_environment(), check=True)
    store = ArtifactStore(settings.home / "artifacts")
    splits, told = store.current("qa_splits"), store.current("eval_answers")
    if splits is None or told is None:
        raise SystemExit("The graph made no answers.")
    sets = [one for one in store.read_records(told, AnswerSet) if one.split == "test"]
    answers: dict[str, Answers] = {f"{one.model} {one.precision}": one.answers for one in sets}
    retriever = retriever_from(settings)
    answerer = Answerer(retriever, settings.answer)
    asked = held_out(store.read_records(splits, SplitItem), "test", settings.evaluation.test_items, settings.seed)
    for picker in (
        SentencePicker("most similar sentence", retriever.embedder),
        SentencePicker("first sentence of the best passage", None),
    ):
        answers[picker.name] = score_model(asked, answerer, picker, concurrency=1)
    table = {name: scores(each, settings.seed) for name, each in answers.items()}
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
            metric: {name: by_kind(each, metric, settings.seed) for name, each in answers.items()}
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
    found = {}
    for metric in METRICS:
        chosen = [answer for answer in answers if metric in answer.metrics]
        if chosen:
            found[metric] = _interval(chosen, [answer.metrics[metric] for answer in chosen], seed)
    cited = [answer for answer in answers if "citation" in answer.metrics]
    found["right_citation_alone"] = _interval(cited, [float(a.metrics["citation"] == 1) for a in cited], seed)
    return found


def by_kind(answers: Answers, metric: str, seed: int) -> dict[str, list[float]]:
    """Return {kind of question: [mean, low, high, n]} of a metric, where it applies."""
    kinds: dict[str, list[ScoredAnswer]] = defaultdict(list)
    for answer in answers:
        if metric in answer.metrics:
            kinds[answer.kind].append(answer)
    return {kind: _interval(of, [a.metrics[metric] for a in of], seed) for kind, of in sorted(kinds.items())}


def gains(answers: Mapping[str, Answers], seed: int) -> list[dict[str, Any]]:
    """Return what each step gains over the one before it, paired by question, with two-sided 95% intervals."""
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
            first = answers[after][: len(answers[before])]  # the raw model may be asked fewer, the first ones
            gain = paired_gain(answers[before], first, metric, alpha=0.025, samples=SAMPLES, seed=seed)
            interval = [round(each, 4) for each in (gain.gain, gain.low, gain.high)]
            rows.append({"from": before, "to": after, "metric": metric, "gain": interval, "n": gain.n})
    return rows


def _interval(answers: Answers, values: Sequence[float], seed: int) -> list[float]:
    documents = [answer.document_id for answer in answers]
    return [*(round(each, 4) for each in mean_interval(values, documents, SAMPLES, seed)), len(answers)]


if __name__ == "__main__":
    main()
