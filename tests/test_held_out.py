import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ragtune.answer.answering import Answerer
from ragtune.errors import DatasetError, EngineError
from ragtune.evaluation.held_out import Contender, Exam, HeldOutAnswers, held_out
from ragtune.ports import Engine
from ragtune.records import QAPair, SplitItem
from ragtune.settings import AnswerSettings, EvaluationSettings, Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_assets.contenders import BASE, RAW, choose_contenders
from tests.support.answering_fakes import ListRetriever, ScriptedChat, chunk

ROOT = Path(__file__).parent.parent
PAIRS = [
    QAPair(
        id=f"p{i}", question=f"What is item{i} ?", answer=f"value {i}", kind="k", document_id=f"d{i}", chunk_id=f"c{i}"
    )
    for i in range(6)
]
ITEMS = [SplitItem(pair, "gate" if number % 2 else "test", pair.document_id) for number, pair in enumerate(PAIRS)]


class CountingEngine(Engine):
    """Answers from a script and records which model folders were started."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.shares: list[int] = []
        self.stopped: list[str] = []
        self.fails = False
        self.meeting: threading.Barrier | None = None

    def launch(self, model, name, at_once=1):
        raise NotImplementedError

    @contextmanager
    def running(self, model: Path, name: str, at_once: int = 1):
        self.started.append(name)
        self.shares.append(at_once)
        if self.meeting:
            self.meeting.wait(timeout=20)
        engine, ended = self, threading.Event()

        class Running:
            def chat(self):
                def say(messages):
                    text = (model / "weights").read_text()
                    if engine.fails or text == "dies":
                        raise EngineError("The engine died.")
                    if text == "slow":
                        ended.wait(timeout=20)
                        raise EngineError("The engine was stopped.")
                    return f"{text} [1]"

                return ScriptedChat(say)

            def stop(self):
                engine.stopped.append(name)
                ended.set()

        yield Running()


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


def answers(folder: Path, engine: Engine, context: str = "index 1") -> HeldOutAnswers:
    retriever = ListRetriever([chunk(f"c{i}", f"The item{i} has value {i} today.") for i in range(6)])
    store = ArtifactStore(folder / "artifacts")
    exam = Exam(Answerer(retriever, AnswerSettings()), context)
    return HeldOutAnswers(engine, {"test": exam, "gate": exam}, store, EvaluationSettings(concurrency=2), 17)


def contender(folder: Path, name: str, weights: str, **questions) -> Contender:
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "weights").write_text(weights)
    return Contender(name, "bf16", place, "1", {split: held_out(ITEMS, split, 9, 17) for split in questions})


def test_one_start_answers_both_splits_and_a_second_evaluation_starts_nothing(tmp_path, engine):
    one = contender(tmp_path, "one", "value 1", test=1, gate=1)
    first = answers(tmp_path, engine).of(one)
    assert {split: len(scored) for split, scored in first.items()} == {"test": 3, "gate": 3}
    assert engine.started == ["one-bf16"]
    assert answers(tmp_path, engine).of(one) == first
    assert engine.started == ["one-bf16"]


def test_equal_weights_in_another_folder_are_the_same_model(tmp_path, engine):
    answers(tmp_path, engine).of(contender(tmp_path, "one", "value 1", gate=1))
    answers(tmp_path, engine).of(contender(tmp_path, "copy", "value 1", gate=1))
    assert engine.started == ["one-bf16"]
    answers(tmp_path, engine).of(contender(tmp_path, "other", "value 2", gate=1))
    assert engine.started == ["one-bf16", "other-bf16"]


def test_another_index_or_setting_needs_new_answers(tmp_path, engine):
    one = contender(tmp_path, "one", "value 1", test=1)
    answers(tmp_path, engine, "index 1").of(one)
    answers(tmp_path, engine, "index 2").of(one)
    assert engine.started == ["one-bf16", "one-bf16"]


def test_answers_of_an_engine_that_died_are_not_stored(tmp_path, engine):
    one = contender(tmp_path, "one", "value 1", test=1)
    engine.fails = True
    with pytest.raises(EngineError, match="died"):
        answers(tmp_path, engine).of(one)
    engine.fails = False
    assert all(answer.answer == "value 1 [1]" for answer in answers(tmp_path, engine).of(one)["test"])


def test_two_models_answer_at_the_same_time_and_keep_their_order(tmp_path, engine):
    engine.meeting = threading.Barrier(2)
    models = [contender(tmp_path, name, f"value {i}", test=1) for i, name in enumerate(("one", "two"))]
    first, second = answers(tmp_path, engine).of_all(models, at_once=2)
    assert [{answer.answer for answer in splits["test"]} for splits in (first, second)] == [
        {"value 0 [1]"},
        {"value 1 [1]"},
    ]
    assert engine.shares == [2, 2]


def test_the_longest_work_starts_first(tmp_path, engine):
    few = contender(tmp_path, "few", "value 1", test=1)
    many = contender(tmp_path, "many", "value 2", test=1, gate=1)
    slow = replace(contender(tmp_path, "few", "value 1", test=1, gate=1), precision="w4a16")
    answers(tmp_path, engine).of_all([few, many, slow])
    assert engine.started == ["few-w4a16", "many-bf16"], "the same weights and questions need no second start"


def test_if_one_model_fails_the_running_engines_are_stopped_and_no_other_is_started(tmp_path, engine):
    engine.meeting = threading.Barrier(2)
    models = [contender(tmp_path, name, name, test=1, gate=1) for name in ("slow", "dies", "never")]
    with pytest.raises(EngineError, match="died"):
        answers(tmp_path, engine).of_all(models, at_once=2)
    assert sorted(engine.started) == ["dies-bf16", "slow-bf16"]
    assert "slow-bf16" in engine.stopped


def test_the_chosen_questions_stay_the_same_as_the_split_grows():
    few = {pair.id for pair in held_out(ITEMS, "test", 2, 17)}
    more = [
        *ITEMS,
        *(
            SplitItem(
                QAPair(id=f"n{i}", question="q", answer="a", kind="k", document_id="d", chunk_id="c"), "test", "d"
            )
            for i in range(2)
        ),
    ]
    assert len(few) == 2
    assert few <= {pair.id for pair in held_out(more, "test", 4, 17)}


def test_an_edit_of_trimming_changes_the_key_of_kept_answers_and_a_comment_does_not(tmp_path):
    copy = Path(shutil.copytree(ROOT / "ragtune", tmp_path / "ragtune"))
    code = (
        "from ragtune.answer.answering import Answerer; from ragtune.settings import AnswerSettings\n"
        "from ragtune.evaluation.held_out import Exam, answers_key\n"
        "print(answers_key('weights', [], Exam(Answerer(None, AnswerSettings()), 'context'), 17))"
    )

    def key():
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    module = Path(copy / "knowledge" / "excerpts.py")
    text, before = module.read_text(), key()
    module.write_text(text + "\n# A comment.\n")
    assert key() == before
    module.write_text(text + "\n_inner = choose_lines\n\n\ndef choose_lines(*parts):\n    return _inner(*parts)\n")
    assert key() != before


def test_an_empty_split_is_an_error():
    with pytest.raises(DatasetError, match="'train' holds no question"):
        held_out(ITEMS, "train", 5, 17)


@pytest.mark.parametrize("few", [0, 2])
def test_the_raw_model_gets_the_first_questions_of_the_others(tmp_path: Path, few: int) -> None:
    store = ArtifactStore(tmp_path)
    with store.stage("model") as scratch:
        (scratch / "weights").write_text("x")
        model = store.commit("model", scratch)
    settings = Settings(evaluation=EvaluationSettings(raw_items=few, test_items=3, gate_items=3))
    contenders = choose_contenders(settings, ITEMS, store, model, model, model, None, raw=model)
    questions = {one.model: one.questions["test"] for one in contenders}
    assert len(questions[BASE]) == 3
    assert questions.get(RAW, []) == questions[BASE][:few]
