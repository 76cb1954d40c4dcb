"""Lets several models answer the held-out questions; each engine starts once, and some run at the same time.

Decoding is greedy, so the answers depend only on the model, questions, index, prompt and settings. They are stored
under a hash of all these. A model with stored answers is not started again, and an interrupted evaluation continues
with the next model.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from ragtune.answer.answering import Answerer
from ragtune.behaviour import behaviour_sha256
from ragtune.errors import DatasetError
from ragtune.evaluation.scoring import score_model
from ragtune.ports import Engine, Progress, RunningEngine, silent
from ragtune.records import ArtifactRef, QAPair, ScoredAnswer, Split, SplitItem, content_id
from ragtune.settings import EvaluationSettings
from ragtune.store.artifacts import MANIFEST, ArtifactStore, files_sha256, folder_files

ARTIFACT = "answers"
_SHARE_OF_WRITERS = 4
"""One in this number of held-out questions is left to the writers if people asked enough. Chosen by hand."""
# What a question costs a CPU at each precision, relative to w8a8. The order is that of benchmarks/default_model/
# serving.json (55, 85 and 103 tokens per second); the numbers are rough, since they only decide who starts first.
_RELATIVE_COST = {"w4a16": 3, "awq": 3, "bf16": 2, "mixed": 2, "w8a8": 1}


@dataclass(frozen=True)
class Contender:
    """A model folder to evaluate, with the questions of each split that it answers."""

    model: str
    precision: str
    folder: Path
    version: str
    questions: Mapping[Split, Sequence[QAPair]] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Exam:
    """How the questions of a split are answered; `context` names the index and settings, which shape the answers."""

    answerer: Answerer
    context: str


def held_out(items: Sequence[SplitItem], split: Split, limit: int, seed: int) -> list[QAPair]:
    """Return up to `limit` pairs of a split as `chosen` does.

    Raises DatasetError if the split is empty.
    """
    pairs = chosen(items, split, limit, seed)
    if not pairs:
        raise DatasetError(
            f"The split '{split}' holds no question.", expected="at least one", fix="add documents, or raise its share"
        )
    return pairs


def chosen(items: Sequence[SplitItem], split: Split, limit: int, seed: int) -> list[QAPair]:
    """Return up to `limit` pairs of a split, people's questions first.

    A quarter of the limit is left to the writers' questions, so that both are measured. A seeded hash chooses, so that
    the choice is stable as the split grows.
    """
    pairs = sorted(
        (item.pair for item in items if item.split == split), key=lambda pair: content_id(str(seed), pair.id)
    )
    of_people = [pair for pair in pairs if pair.origin != "writer"]
    of_writers = [pair for pair in pairs if pair.origin == "writer"]
    most_of_people = limit - min(len(of_writers), limit // _SHARE_OF_WRITERS)
    return [*of_people[:most_of_people], *of_writers][:limit]


def resampling_groups(items: Sequence[SplitItem]) -> dict[str, str]:
    """Return {pair id: what its answer is resampled with}.

    That is its document, because answers about one document are alike. In a collection of few documents, which was
    split by section, it is the cluster of its section.
    """
    splits: dict[str, set[Split]] = defaultdict(set)
    for item in items:
        splits[item.pair.document_id].add(item.split)
    by_section = any(len(names) > 1 for names in splits.values())
    return {item.pair.id: item.cluster if by_section else item.pair.document_id for item in items}


class HeldOutAnswers:
    """Answers by model and split, stored as artefacts under a hash of everything that shapes them."""

    def __init__(
        self,
        engine: Engine,
        exams: Mapping[Split, Exam],
        store: ArtifactStore,
        settings: EvaluationSettings,
        seed: int,
        progress: Progress = silent,
    ) -> None:
        self.engine, self.exams, self.store = engine, exams, store
        self.settings, self.seed, self.progress = settings, seed, progress
        self._running: list[RunningEngine] = []
        self._failure: BaseException | None = None

    def of_all(self, contenders: Sequence[Contender], at_once: int = 1) -> list[dict[Split, list[ScoredAnswer]]]:
        """Return the answers of each contender, in the given order; `at_once` engines share the processor.

        Two engines together are faster than one after the other, because one computes while the other waits between
        its matrix products. The longest work starts first, so that little is left at the end for one engine alone.
        If a contender fails or the call is interrupted, the other engines are stopped.
        """
        with ThreadPoolExecutor(at_once) as pool:
            futures = {
                contender: pool.submit(self._of_unless_failed, contender, at_once)
                for contender in sorted(contenders, key=_cost, reverse=True)
            }
            try:
                wait(futures.values())
            except BaseException as interrupt:
                self._fail(interrupt)
                raise
        if self._failure:
            raise self._failure
        return [futures[contender].result() for contender in contenders]

    def of(self, contender: Contender, at_once: int = 1) -> dict[Split, list[ScoredAnswer]]:
        """Return the contender's answers; its engine starts only if some of them are not stored yet."""
        weights = files_sha256(folder_files(contender.folder))
        keys = {
            split: answers_key(weights, pairs, self.exams[split], self.seed)
            for split, pairs in contender.questions.items()
        }
        missing = [split for split, key in keys.items() if not self._is_stored(key)]
        if missing:
            name = f"{contender.model}-{contender.precision}"
            with self.engine.running(contender.folder, name, at_once) as running:
                self._running.append(running)
                for split in missing:
                    if self._failure:
                        raise self._failure
                    answers = score_model(
                        contender.questions[split],
                        self.exams[split].answerer,
                        running.chat(),
                        self.settings.concurrency,
                        self.seed,
                        self.progress,
                    )
                    self.store.write_records(ARTIFACT, answers, identity=keys[split])
                self._running.remove(running)
        return {split: self._read(key) for split, key in keys.items()}

    def _of_unless_failed(self, contender: Contender, at_once: int) -> dict[Split, list[ScoredAnswer]]:
        try:
            return {} if self._failure else self.of(contender, at_once)
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, reason: BaseException) -> None:
        """Remember the first failure and stop all engines."""
        self._failure = self._failure or reason
        for engine in list(self._running):
            engine.stop()

    def _is_stored(self, key: str) -> bool:
        return (self.store.root / ARTIFACT / key / MANIFEST).is_file()

    def _read(self, key: str) -> list[ScoredAnswer]:
        folder = self.store.root / ARTIFACT / key
        manifest = json.loads((folder / MANIFEST).read_text())
        return self.store.read_records(ArtifactRef(ARTIFACT, str(folder), key, manifest["rows"]), ScoredAnswer)


def answers_key(weights: str, pairs: Sequence[QAPair], exam: Exam, seed: int) -> str:
    """Return the key under which a model's answers are stored.

    It changes if the code changes that retrieves, builds prompts, checks answers or scores them.
    """
    questions = content_id(
        *(f"{pair.id} {pair.question} {pair.answer} {pair.chunk_id} {pair.origin}" for pair in pairs)
    )
    retriever = exam.answerer.retriever
    evidence = exam.answerer.evidence
    backends = [type(backend) for backend in (retriever, evidence) if backend is not None]
    behaviour = behaviour_sha256(score_model, type(exam.answerer), *backends)
    decided_by = evidence.name if evidence is not None else ""
    return content_id(weights, questions, behaviour, str(seed), exam.context, decided_by)


def _cost(contender: Contender) -> int:
    return _RELATIVE_COST[contender.precision] * sum(len(pairs) for pairs in contender.questions.values())
