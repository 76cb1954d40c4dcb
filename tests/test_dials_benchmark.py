"""The benchmark of dials and switches scores known texts as a person would."""

import json
from dataclasses import replace

import pytest

from benchmarks.questions import offline
from benchmarks.serving import dials
from benchmarks.serving.dials import Trial
from ragtune.answer.answering import NOT_GENERATED, Answerer
from ragtune.ports import ChatModel
from ragtune.settings import load_settings

QUESTIONS = [{"id": f"q{n}", "question": "How long?", "answers": ["four hours"], "history": []} for n in range(8)]


def rows_of(text_of) -> list[dict]:
    """Return rows in which `text_of` gives the text of a question for a trial."""
    rows = []
    for question in QUESTIONS:
        for trial in dials.all_trials(dials.LEVELS):
            text = text_of(question["id"], trial)
            facts = {side: dials.facts(text, question["question"], text) for side in ("model", "delivered")}
            rows.append(
                {
                    "id": question["id"],
                    "trial": trial.name,
                    "model": text,
                    "delivered": text,
                    "refused": False,
                    "facts": facts,
                }
            )
    return rows


def test_a_model_that_obeys_correlates_and_one_that_does_not_has_no_correlation():
    def obeys(question: str, trial: Trial) -> str:
        if trial.switch == "examples":
            return "Four hours. For example, until noon. [1]"
        if trial.switch == "step_by_step":
            return "1. Sign it. [1]\n2. It lasts four hours. [1]"
        if trial.switch == "citations":
            return "Four hours."
        if trial.dial == "depth":
            extra = " ".join(f"anchor{n} rope{n}" for n in range(int(trial.level * 8) + int(question[1:]) % 3))
            return f"Four hours. {extra} [1]"
        if trial.dial == "creativity":
            return " ".join(f"w{n if n >= trial.level * 8 else f'{n}s{trial.sample}'}" for n in range(9))
        if trial.dial == "technical_level":
            return (
                "It is four hours long. " * 2 if trial.level < 0.5 else "Authorisation's validity: `ttl_h` four hours."
            )
        return "Four hours. [1]"

    found = dials.scores(QUESTIONS, rows_of(obeys), dials.LEVELS)["delivered"]
    for name, (rho, low, high, n) in found["rank correlation"].items():
        assert n == len(QUESTIONS), name
        assert rho > 0.8, name
        assert low <= rho <= high, name
    for share in found["obedience"].values():
        assert share["with"][0] == 1.0
        assert share["without"][0] == 0.0
    assert found["right"]["neutral"][0] == 1.0

    deaf = dials.scores(QUESTIONS, rows_of(lambda *_: "Four hours. [1]"), dials.LEVELS)["model"]
    assert set(deaf["rank correlation"].values()) == {None}
    assert all(share["with"] == share["without"] for share in deaf["obedience"].values())


def test_a_dial_that_does_the_opposite_has_a_negative_correlation():
    table = {f"q{n}": [5.0 + n, 4.0 + n, 3.0 + n, 2.0 + n, 1.0 + n] for n in range(10)}
    assert dials.correlation(table, dials.LEVELS)[0] == pytest.approx(-1)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["a b c", "a b c", "a b c"], 0.0), (["a b", "c d", "e f"], 1.0), (["a b c", "a b d"], 1 - 1 / 3)],
)
def test_diversity_is_the_share_of_word_pairs_that_differ(texts, expected):
    assert dials.diversity(texts) == pytest.approx(expected)


def test_steps_have_to_be_counted_from_one():
    assert dials.has_steps("1. Open it.\n2. Close it.")
    assert not dials.has_steps("2. Close it.\n3. Go.")
    assert not dials.has_steps("In 1. we open it.")


def test_the_grade_is_kincaids():
    # 6 words in 1 sentence with 7 syllables: 0.39 * 6 + 11.8 * 7 / 6 - 15.59
    assert dials.grade("The cat sat on the sofa.") == pytest.approx(0.39 * 6 + 11.8 * 7 / 6 - 15.59)


def test_a_run_that_was_interrupted_asks_only_what_is_missing(tmp_path, monkeypatch):
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "notes.md").write_text("# Hot work\n\nA hot work note is valid for four hours. Samir Polk signs it.\n")
    question = {"id": "own-1", "question": "How long is a hot work note valid?", "answers": ["four hours"]}
    own = {**question, "history": [], "answerable": True, "sources": ["notes.md"]}
    (tmp_path / "own.dev.jsonl").write_text(json.dumps(own))
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.json"
    texts = [
        {"id": "own-1", "trial": trial.name, "text": "It is valid for four hours. [1]", "finish_reason": "stop"}
        for trial in dials.all_trials(dials.LEVELS)
    ]
    rows.write_text("".join(json.dumps(text) + "\n" for text in texts))
    monkeypatch.setattr(dials, "SETS", tmp_path)
    monkeypatch.setitem(offline.DOCUMENTS, "own", str(documents))
    arguments = [
        "dials",
        "--rows",
        str(rows),
        "--out",
        str(out),
        "--set",
        "own.dev",
        "--homes",
        str(tmp_path / "homes"),
    ]
    monkeypatch.setattr("sys.argv", arguments)
    dials.main()  # there is no engine here: asking anything would fail
    result = json.loads(out.read_text())
    assert result["questions"] == 1
    assert result["model"]["obedience"]["citations=False"]["with"][0] == 0.0
    assert result["delivered"]["obedience"]["citations=False"]["with"][0] == 1.0
    assert len(rows.read_text().splitlines()) == len(texts)


def test_requests_that_an_engine_cannot_tell_apart_are_sent_once(tmp_path):
    class Counting(ChatModel):
        name = "counting"
        asked = 0

        def complete(self, messages, *, max_tokens, temperature, seed):
            self.asked += 1
            return replace(NOT_GENERATED, text=f"{self.asked}")

    chat = Counting()
    once = dials.GeneratesOnce(chat)
    answerer = Answerer(None, load_settings({"home": tmp_path}).answer)
    neutral, middle, deep = (
        dials.prepared_for(QUESTIONS[0], trial, answerer)
        for trial in (Trial(), Trial("depth", 0.5), Trial("depth", 1.0))
    )
    assert [once.generate(one, seed).text for one, seed in ((neutral, 0), (middle, 1), (deep, 0))] == ["1", "1", "2"]
    warm = replace(neutral, temperature=0.5)
    assert [once.generate(warm, seed).text for seed in (0, 1, 0)] == ["3", "4", "3"]
