"""Measures reading adapters on people's questions, and on generated ones, from equal prompts.

Run: python -m benchmarks.default_model.people DIR --adapter shipped=ragtune/model/smollm2_grounded

DIR has the public question sets that the model card names; their `dev` split is asked. The other sets are
`benchmarks/questions/*.dev.jsonl` over documents in `examples/`, and questions that the rule-based writer asks about
two packages. Prompts and answers are kept in the home, so an interrupted run goes on. An answer counts as the model
writes it, without the decision to refuse or to quote that serving adds. Writes `people.json`.
"""

import argparse
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.questions.measure import is_right
from benchmarks.retrieval.results import as_text
from grounding.collection import context_documents
from ragtune.answer.answering import Answerer
from ragtune.answer.citations import cited_numbers
from ragtune.answer.refusals import is_refusal
from ragtune.backends.catalog import embedder_from, line_similarity_from, retriever_over, search_index_from
from ragtune.dataset.checks.quality import check_pairs
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.people import SpanQuestion, clean_context
from ragtune.draws import draw
from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.metrics import token_f1
from ragtune.evaluation.resampling import mean_interval
from ragtune.knowledge.chunk_updates import chunk_changed
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.sources import read_sources
from ragtune.model.base.pretrained import resolve_base_model
from ragtune.model.training.adapters import WEIGHTS
from ragtune.model.training.validation import generated_answers
from ragtune.model_settings import BaseModelSettings
from ragtune.records import Chunk, Document, Message
from ragtune.settings import Settings, load_settings, prepare_process
from ragtune.store.artifacts import ArtifactStore, file_sha256

HERE = Path(__file__).parent
SETS = HERE.parent / "questions"
HOME = Path(".benchmarks/people")
TYPED = {"manual": "folder:examples/manual", "faq": "folder:examples/faq", "releases": "folder:examples/releases"}
NATURAL = ("nq", "tydi")
GENERATED = ("package:starlette", "package:rich")
SEED = 17
_AT_ONCE = 48
"""Answers between two writes to the file. Chosen by hand."""
_MOST_TOKENS = 64
"""Tokens of an answer: more than 40 words, beyond which none is right."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question with the messages that serving would send.

    `accepted` are strings of which a right answer has one; `cited` says which passages hold one of them.
    """

    id: str
    set: str
    question: str
    accepted: tuple[str, ...]
    answerable: bool
    document: str
    messages: tuple[Message, ...]
    cited: tuple[int, ...]
    evidence: str = ""
    siblings: tuple[()] = ()


def main() -> None:
    """Ask every adapter, and write the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--adapter", action="append", required=True, help="NAME=FOLDER")
    parser.add_argument("--limit", type=int, default=100, help="questions of each set, chosen by a seed")
    options = parser.parse_args()
    prepare_process()
    prompts = all_prompts(options.questions, options.limit)
    adapters = dict(adapter.split("=", 1) for adapter in options.adapter)
    results: dict[str, Any] = {
        "command": f"python -m benchmarks.default_model.people DIR --limit {options.limit}",
        "hardware": hardware(),
        "seed": SEED,
        "adapters_sha256": {
            name: file_sha256(Path(folder) / "adapter_model.safetensors") for name, folder in adapters.items()
        },
        "scores": {},
    }
    for name, folder in adapters.items():
        answers = answers_of(Path(folder), prompts)
        results["scores"][name] = scores(prompts, answers)
        for part, row in results["scores"][name].items():
            print(name, part, row, flush=True)
    (HERE / "people.json").write_text(as_text(results))


def all_prompts(folder: Path, limit: int) -> list[Prompt]:
    """Return the prompts of every set, from the home if they were built before."""
    prompts: list[Prompt] = []
    for name in (*TYPED, *NATURAL, "generated"):
        kept = HOME / f"{name}.prompts.jsonl"
        if not kept.is_file():
            made = prompts_of(name, folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text("".join(json.dumps(asdict(prompt)) + "\n" for prompt in made))
        rows = [json.loads(line) for line in kept.read_text().splitlines()]
        chosen = sorted(rows, key=lambda row: draw(SEED, "ask", row["id"]))[:limit]
        prompts += [_prompt(row) for row in chosen]
    return prompts


def _prompt(row: dict[str, Any]) -> Prompt:
    messages = tuple(Message(**message) for message in row["messages"])
    lists = {name: tuple(row[name]) for name in ("accepted", "cited", "siblings")}
    return Prompt(**{**row, **lists, "messages": messages})


def prompts_of(name: str, folder: Path) -> list[Prompt]:
    """Return the prompts of one set, at most 200, over an index of its documents alone."""
    settings = load_settings({"home": HOME / name})
    if name in TYPED:
        rows = [json.loads(line) for line in (SETS / f"{name}.dev.jsonl").read_text().split("\n") if line.strip()]
        return _asked(name, rows, _chunks(read_sources([TYPED[name]]).documents, settings), settings)
    if name in NATURAL:
        questions = natural_questions(folder, name)
        # The paragraphs of both sets, so that the search has more to choose from.
        contexts = [question for each in NATURAL for question, _ in natural_questions(folder, each)]
        chunks = _chunks(context_documents(contexts), settings)
        rows = [
            {"id": f"{name}-{number}", "question": question.question, "answers": [answer], "document": question.title}
            for number, (question, answer) in enumerate(questions)
        ]
        return _asked(name, rows, chunks, settings)
    chunks = _chunks(read_sources(GENERATED).documents, settings)
    pairs = check_pairs(ExtractiveWriter(SEED).write(chunks), chunks, settings.dataset).pairs
    pairs = sorted(pairs, key=lambda pair: draw(SEED, "generated", pair.id))[:200]
    rows = [
        {
            "id": pair.id,
            "question": pair.question,
            "answers": [pair.answer],
            "answerable": pair.answerable,
            "document": pair.document_id,
            "chunk": pair.chunk_id,
        }
        for pair in pairs
    ]
    return _asked(name, rows, chunks, settings)


def natural_questions(folder: Path, name: str) -> list[tuple[SpanQuestion, str]]:
    """Return the questions of a public set's `dev` split with their answers."""
    path = next(path for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz") if path.is_file())
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in data.decode().splitlines()]
    return [
        (
            SpanQuestion(
                origin=name,
                title=row["title"],
                context=clean_context(row["context"]),
                question=row["question"],
                span=(0, 0),
            ),
            clean_context(row["answer"]),
        )
        for row in rows
        if row["split"] == "dev"
    ]


def _chunks(documents: Sequence[Document], settings: Settings) -> list[Chunk]:
    return chunk_changed(documents, settings, embedder_from(settings))


def _asked(name: str, rows: Iterable[dict[str, Any]], chunks: Sequence[Chunk], settings: Settings) -> list[Prompt]:
    """Return the prompts of questions over these chunks."""
    embedder = embedder_from(settings)
    index = search_index_from(settings, embedder)
    update_index(index, embedder, chunks)
    answerer = Answerer(retriever_over(index, embedder, settings), settings.answer, line_similarity_from(settings))
    prompts = []
    for row in rows:
        history = [Message(turn["role"], turn["content"]) for turn in row.get("history", [])]
        prepared = answerer.prepare(row["question"], history)
        accepted = tuple(row["answers"])
        shown = list(enumerate(prepared.passages or (), 1))
        if "chunk" in row:
            cited = [number for number, hit in shown if hit.chunk.id == row["chunk"]]
        else:
            cited = [number for number, hit in shown if _holds(hit.lines or "", accepted)]
        prompts.append(
            Prompt(
                id=row["id"],
                set=name,
                question=row["question"],
                accepted=accepted,
                answerable=row.get("answerable", True),
                document=row.get("document") or (row.get("sources") or [row["id"]])[0].partition("#")[0],
                messages=(*prepared.messages, Message("assistant", "")),
                cited=tuple(cited),
            )
        )
    return prompts


def _holds(text: str, accepted: Iterable[str]) -> bool:
    return any(part.casefold() in text.casefold() for part in accepted)


def answers_of(adapter: Path, prompts: Sequence[Prompt]) -> dict[str, str]:
    """Return the answers of the raw model with this adapter, by the id of the prompt."""
    from peft import PeftModel

    from ragtune.model.base.loading import load_model, load_tokenizer

    digest = file_sha256(adapter / WEIGHTS)[:16]
    kept = HOME / f"{digest}.answers.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    answers = {row["id"]: row["answer"] for row in rows}
    missing = [prompt for prompt in prompts if prompt.id not in answers]
    if not missing:
        return answers
    store = ArtifactStore(HOME / "artifacts")
    base = store.folder(resolve_base_model(BaseModelSettings(name="smollm2-raw"), store))
    model = PeftModel.from_pretrained(load_model(base), adapter).merge_and_unload()
    tokenizer = load_tokenizer(base)
    with kept.open("a") as stream:
        for start in range(0, len(missing), _AT_ONCE):
            batch = missing[start : start + _AT_ONCE]
            texts = generated_answers(model, tokenizer, batch, _MOST_TOKENS)
            for prompt, text in zip(batch, texts, strict=True):
                answers[prompt.id] = text
                stream.write(json.dumps({"id": prompt.id, "set": prompt.set, "answer": text}) + "\n")
            stream.flush()
            print(f"{adapter}: {start + len(batch)} of {len(missing)}", flush=True)
    return answers


def scores(prompts: Sequence[Prompt], answers: dict[str, str]) -> dict[str, dict[str, list[float]]]:
    """Return {set: {metric: [mean, low, high, n]}} with 95% intervals, resampled by document.

    `shown` is the share of prompts that hold an accepted answer. Of public sets an answer is right if it contains the
    span, of the others by the rules in `benchmarks/questions/README.md`. Token F1 is of generated questions.
    """
    values: dict[str, dict[str, list[tuple[float, str]]]] = defaultdict(lambda: defaultdict(list))
    for prompt in prompts:
        text = answers[prompt.id]
        refused = is_refusal(text)
        row = values[prompt.set]
        if not prompt.answerable:
            row["unanswerable refused"].append((float(refused), prompt.document))
            continue
        plain = re.sub(r" ?\[\d+\]", "", text)
        row["shown"].append((float(bool(prompt.cited)), prompt.document))
        row["refused"].append((float(refused), prompt.document))
        if prompt.set == "generated":
            row["token F1"].append((0.0 if refused else token_f1(prompt.accepted[0], plain), prompt.document))
        else:
            right = _holds(plain, prompt.accepted) if prompt.set in NATURAL else is_right(text, prompt.accepted)
            row["right"].append((float(right and not refused), prompt.document))
        if not refused:
            row["right passage cited"].append((float(bool({*cited_numbers(text)} & {*prompt.cited})), prompt.document))
    return {name: {metric: _interval(pairs) for metric, pairs in sorted(row.items())} for name, row in values.items()}


def _interval(pairs: Sequence[tuple[float, str]]) -> list[float]:
    mean, low, high = mean_interval([value for value, _ in pairs], [name for _, name in pairs], 2000, SEED)
    return [round(mean, 3), round(low, 3), round(high, 3), len(pairs)]


if __name__ == "__main__":
    main()
