"""Has several models answer the held-out questions, each engine started once, some beside each other.

Decoding is greedy, so answers are kept under everything that shapes them (model, questions,
index, prompt, settings): a model that answered before is not started again, and an interrupted
evaluation goes on with the next model.
"""

import json
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
_PACE = {"w4a16": 3, "bf16": 2, "w8a8": 1}
"""What a question costs a CPU at each precision, roughly (measured); it only orders the work."""


@dataclass(frozen=True)
class Contender:
    """A model folder that answers, with the questions it gets by split."""

    model: str
    precision: str
    folder: Path
    version: str
    questions: Mapping[Split, Sequence[QAPair]] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Exam:
    """How the questions of a split are asked; `context` names what else shapes an answer: index and settings."""

    answerer: Answerer
    context: str


def held_out(items: Sequence[SplitItem], split: Split, limit: int, seed: int) -> list[QAPair]:
    """Return up to `limit` pairs of a split, chosen by seeded hash so that they stay as data grows.

    Raises DatasetError when the split is empty.
    """
    pairs = [item.pair for item in items if item.split == split]
    if not pairs:
        raise DatasetError(
            f"The split '{split}' holds no question.", expected="at least one", fix="add documents, or raise its share"
        )
    return sorted(pairs, key=lambda pair: content_id(str(seed), pair.id))[:limit]


def answers_key(weights: str, pairs: Sequence[QAPair], exam: Exam, seed: int) -> str:
    """Return the key under which a model's answers are kept.

    It changes if the code changes that retrieves, builds prompts, checks answers or scores them.
    """
    questions = content_id(*(f"{pair.id} {pair.question} {pair.answer} {pair.chunk_id}" for pair in pairs))
    retriever = exam.answerer.retriever
    retrieval = [type(retriever)] if retriever is not None else []
    behaviour = behaviour_sha256(score_model, type(exam.answerer), *retrieval)
    return content_id(weights, questions, behaviour, str(seed), exam.context)


def _work(contender: Contender) -> int:
    return _PACE[contender.precision] * sum(len(pairs) for pairs in contender.questions.values())


class HeldOutAnswers:
    """Answers by model and split, kept as artefacts under the hash of everything that shapes them."""

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
        """Return the answers of each contender; `at_once` of them share the processor.

        What one engine does between its matrix products, the other's products fill. The longest work starts
        first, so that little is left to half of the threads at the end. When one fails, or the work is interrupted, the
        others' engines are stopped.
        """
        with ThreadPoolExecutor(at_once) as pool:
            started = {
                contender: pool.submit(self._unless_ended, contender, at_once)
                for contender in sorted(contenders, key=_work, reverse=True)
            }
            waiting = [started[contender] for contender in contenders]
            try:
                wait(waiting)
            except BaseException as interrupt:
                self._end(interrupt)
                raise
        if self._failure:
            raise self._failure
        return [future.result() for future in waiting]

    def _unless_ended(self, contender: Contender, at_once: int) -> dict[Split, list[ScoredAnswer]]:
        try:
            return {} if self._failure else self.of(contender, at_once)
        except BaseException as error:
            self._end(error)
            raise

    def _end(self, reason: BaseException) -> None:
        """Keep the first failure, and let no engine work on."""
        self._failure = self._failure or reason
        for engine in list(self._running):
            engine.stop()

    def of(self, contender: Contender, at_once: int = 1) -> dict[Split, list[ScoredAnswer]]:
        """Return the contender's answers; its engine starts only when some of them are missing."""
        weights = files_sha256(folder_files(contender.folder))
        keys = {
            split: answers_key(weights, pairs, self.exams[split], self.seed)
            for split, pairs in contender.questions.items()
        }
        missing = [split for split, key in keys.items() if not self._place(key)]
        if missing:
            name = f"{contender.model}-{contender.precision}"
            with self.engine.running(contender.folder, name, at_once) as running:
                self._running.append(running)
                for split in missing:
                    if self._failure:
                        raise self._failure
                    found = score_model(
                        contender.questions[split],
                        self.exams[split].answerer,
                        running.chat(),
                        self.settings.concurrency,
                        self.seed,
                        self.progress,
                    )
                    self.store.write_records(ARTIFACT, found, identity=keys[split])
                self._running.remove(running)
        return {split: self._read(key) for split, key in keys.items()}

    def _place(self, key: str) -> Path | None:
        folder = self.store.root / ARTIFACT / key
        return folder if (folder / MANIFEST).is_file() else None

    def _read(self, key: str) -> list[ScoredAnswer]:
        folder = self.store.root / ARTIFACT / key
        stored = json.loads((folder / MANIFEST).read_text())
        return self.store.read_records(ArtifactRef(ARTIFACT, str(folder), key, stored["rows"]), ScoredAnswer)
