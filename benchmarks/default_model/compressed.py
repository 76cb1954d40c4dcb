"""What the benchmarks of QAT and of precisions share: conversations of held-out documents, models, and predictions.

Everything is kept in the home, so an interrupted benchmark goes on.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ragtune.answer.passages import hits_needed
from ragtune.backends.catalog import embedder_from, line_similarity_from, retriever_over, search_index_from
from ragtune.dataset.checks.quality import check_pairs
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.draws import draw
from ragtune.knowledge.chunk_updates import chunk_changed
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.sources import read_sources
from ragtune.model.base.loading import load_model, load_tokenizer
from ragtune.model.base.merge import merge_adapter
from ragtune.model.base.pretrained import resolve_base_model
from ragtune.model.examples.builder import ExampleBuilder
from ragtune.model.examples.dataset_conversations import batched_search
from ragtune.model.examples.example import TrainingExample
from ragtune.model.examples.mixture import Mixture
from ragtune.model.examples.tokens import tokenize
from ragtune.model.runs.conversations import packed, unpacked
from ragtune.model_settings import BaseModelSettings
from ragtune.records import SplitItem
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore

HOME = Path(".benchmarks/compression")
SOURCES = ("package:networkx",)
DOCUMENTS = 80
"""Documents of the sources, drawn by seed."""
SEED = 17
SHIPPED = Path("ragtune/model/smollm2_grounded")
TEST_SHARE = 0.3
"""Share of the documents whose questions are held out."""
LONGEST = 512
"""Tokens of a conversation with its siblings."""
TOGETHER = 8
HELD_OUT = 16
"""Prompts that are held out; most are shared by several questions."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a model predicts one held-out answer: means over its tokens, in nats.

    `nll` is the negative log-likelihood of the right answer, `kl` the divergence from the reference model, `same` the
    share of tokens for which both expect the same one. `row` is the prompt that the answer shares with others.
    """

    row: int
    nll: float
    kl: float
    same: float
    tokens: int


def conversations() -> tuple[list[TrainingExample], list[TrainingExample]]:
    """Return the conversations to train on, and those of other documents to measure on; up to 8 share a prompt."""
    kept = HOME / "conversations.gz"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(packed(_built(load_settings({"home": HOME}))))
    training, held_out = unpacked(kept.read_bytes())
    return training, held_out


def _built(settings: Settings) -> list[list[TrainingExample]]:
    embedder = embedder_from(settings)
    documents = sorted(read_sources(SOURCES).documents, key=lambda document: draw(SEED, "documents", document.id))
    chunks = chunk_changed(documents[:DOCUMENTS], settings, embedder)
    index = search_index_from(settings, embedder)
    update_index(index, embedder, chunks)
    retriever = retriever_over(index, embedder, settings)
    pairs = check_pairs(ExtractiveWriter(SEED).write(chunks), chunks, settings.dataset).pairs
    pairs = sorted(pairs, key=lambda pair: draw(SEED, "order", pair.id))
    sets: list[list[TrainingExample]] = []
    for held_out in (False, True):
        own = [pair for pair in pairs if (draw(SEED, "test", pair.document_id) < TEST_SHARE) == held_out]
        items = [SplitItem(pair, "test" if held_out else "train", pair.document_id) for pair in own]
        search = batched_search(retriever, [pair.question for pair in own], hits_needed(settings.answer.passages))
        mixture = Mixture(small_talk=0.0) if held_out else Mixture()
        builder = ExampleBuilder(chunks, search, settings.answer, SEED, mixture, line_similarity_from(settings))
        sets.append(builder.build(items, TOGETHER, HELD_OUT if held_out else 160))
    return sets


def base_model() -> Path:
    """Return the folder of the model as it was published."""
    store = ArtifactStore(HOME / "artifacts")
    return store.folder(resolve_base_model(BaseModelSettings(name="smollm2-raw"), store))


def made(name: str, make: Callable[[Path], Any]) -> Path:
    """Return a folder of the home, which `make` writes if it is not there."""
    folder = HOME / "models" / name
    if not folder.is_dir():
        make(folder)
    return folder


def merged(name: str, adapter: Path) -> Path:
    """Return the folder of the published model with an adapter added."""
    return made(name, lambda folder: merge_adapter(base_model(), adapter, folder))


def predictions(name: str, model: Callable[[], Any], reference: str, seconds: Callable[[], float]) -> list[Answer]:
    """Return how a model predicts the held-out answers; `reference` is the name of the one to compare with.

    The reference model itself comes first: its predictions are kept in the home.

    Stops with SystemExit if `seconds` says that no time is left; what was measured is kept.
    """
    kept = HOME / "predictions" / f"{name}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    rows, _ = tokenize(load_tokenizer(base_model()), conversations()[1], LONGEST)
    answers = [Answer(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.is_file() else []
    done = {answer.row for answer in answers}
    missing = [place for place in range(len(rows)) if place not in done]
    if not missing:
        return answers
    measured = model()
    with kept.open("a") as stream:
        for place in missing:
            if seconds() <= 0:
                raise SystemExit(f"{name}: {len(done)} of {len(rows)} prompts; run the command again.")
            plain = HOME / "predictions" / f"{reference}-{place}.pt"
            for answer in _answers_of(place, rows[place], measured, plain, keep=name == reference):
                answers.append(answer)
                stream.write(json.dumps(asdict(answer)) + "\n")
            stream.flush()
            done.add(place)
    return answers


def _answers_of(place: int, row: Any, model: Any, kept: Path, keep: bool) -> list[Answer]:
    import torch

    from ragtune.model.training.trainer import Collator

    batch = Collator(0)([{name: getattr(row, name) for name in ("input_ids", "labels", "branches", "segments")}])
    labels, branches = batch.pop("labels")[0, 1:], torch.tensor(row.branches)[1:]
    learnt = labels != -100
    with torch.inference_mode():
        q = torch.log_softmax(model(**batch).logits[0, :-1][learnt].float(), dim=-1)
    if keep:
        torch.save(q.half(), kept)
    p = q if keep else torch.log_softmax(torch.load(kept).float(), dim=-1)
    nll = -q.gather(1, labels[learnt][:, None])[:, 0]
    kl = (p.exp() * (p - q)).sum(-1)
    same = (p.argmax(-1) == q.argmax(-1)).float()
    of = branches[learnt]
    return [
        Answer(
            row=place,
            nll=float(nll[own].mean()),
            kl=float(kl[own].mean()),
            same=float(same[own].mean()),
            tokens=int(own.sum()),
        )
        for own in (of == branch for branch in of.unique())
    ]


def loaded(folder: Path) -> Any:
    """Return a model whose layers have the weights that they stand for."""
    return load_model(folder)


def calibration(count: int) -> Sequence[TrainingExample]:
    """Return the first training conversations."""
    return conversations()[0][:count]
