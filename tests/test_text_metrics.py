import math
import socket
from dataclasses import replace

import numpy as np
import pytest

from ragtune.backends.minilm import minilm_folder
from ragtune.backends.minilm_tokens import MiniLmTokens
from ragtune.evaluation.gate import bleu_gain
from ragtune.evaluation.metrics import METRICS, TEXT_METRICS
from ragtune.evaluation.text_metrics import BLEU, bertscore_f1, bleu_interval, signature, with_text_metrics
from ragtune.records import ScoredAnswer
from tests.support.scored_answers import scored_answer

EXPECTED = [
    "The ticket is valid for three years.",
    "Police killed the gunman",
    "A hot work note is good for four hours.",
    "Die Tür schließt um fünf Uhr.",
]
TEXTS = [
    "A ticket is valid for three years.",
    "police kill the gunman",
    "Boats may be hired on Sundays only.",
    "Die Tür schließt um fünf.",
]


@pytest.fixture(scope="module")
def embedder() -> MiniLmTokens:
    return MiniLmTokens()


def answer(number: int, expected: str, text: str) -> ScoredAnswer:
    return replace(scored_answer(number, 1.0), expected=expected, scored_text=text, refused=not text)


def answers(texts=TEXTS) -> list[ScoredAnswer]:
    return [answer(number, expected, text) for number, (expected, text) in enumerate(zip(EXPECTED, texts, strict=True))]


def test_rouge_l_of_the_example_of_its_paper(embedder):
    # Lin 2004, section 3.1: S1 "police killed the gunman", S2 "police kill the gunman": ROUGE-L is 3/4.
    metrics = with_text_metrics(answers(), embedder)[1].metrics
    assert metrics["rouge_l"] == metrics["rouge_1"] == 0.75


def test_words_with_umlauts_count_as_words(embedder):
    # Five of six words of the expected answer, all five of the answer: 2 * (5/5 * 5/6) / (5/5 + 5/6).
    assert with_text_metrics(answers(), embedder)[3].metrics["rouge_1"] == pytest.approx(10 / 11)


def test_bertscore_agrees_with_numbers_worked_out_by_hand():
    expected = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    text = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]], dtype=np.float32)
    recall, precision = (1.0 + 0.8) / 2, (1.0 + 0.8 + 0.8) / 3
    assert bertscore_f1(expected, text) == pytest.approx(2 * recall * precision / (recall + precision))


def test_bertscore_puts_a_paraphrase_before_another_sentence(embedder):
    paraphrase, _, other, _ = (answer.metrics for answer in with_text_metrics(answers(), embedder))
    for metric in ("bertscore_f1", "similarity", "chrf"):
        assert paraphrase[metric] > other[metric] + 0.2


def test_token_vectors_are_those_of_the_original_model(embedder):
    from sentence_transformers import SentenceTransformer

    original = SentenceTransformer(str(minilm_folder()), device="cpu")
    for text, vectors in zip(TEXTS, embedder.token_vectors(TEXTS), strict=True):
        states = original.encode(text, output_value="token_embeddings", convert_to_numpy=False).cpu().numpy()
        states = states[1:-1] / np.linalg.norm(states[1:-1], axis=1, keepdims=True)
        assert vectors.shape == states.shape
        assert (vectors * states).sum(axis=1).min() > 0.9999  # both compute in float32


def test_an_empty_text_has_no_token_vector(embedder):
    assert [len(vectors) for vectors in embedder.token_vectors(["", "word"])] == [0, 1]


def test_a_refusal_scores_zero_in_every_metric_and_none_is_undefined(embedder):
    (refusal,) = with_text_metrics([answer(0, EXPECTED[0], "")], embedder)
    assert {metric: refusal.metrics[metric] for metric in TEXT_METRICS} == dict.fromkeys(TEXT_METRICS, 0.0)
    assert bleu_interval([refusal], ["d"], samples=100, seed=0) == (0.0, 0.0, 0.0)


def test_an_unanswerable_question_has_no_text_to_compare(embedder):
    unanswerable = replace(answer(0, "", "Elvis."), answerable=False)
    assert with_text_metrics([unanswerable], embedder) == [unanswerable]


def test_bleu_is_sacrebleus_score_of_the_whole_corpus(embedder):
    from sacrebleu import metrics

    value, low, high = bleu_interval(answers(), list("abcd"), samples=500, seed=1)
    assert value == pytest.approx(metrics.BLEU(lowercase=True).corpus_score(TEXTS, [EXPECTED]).score / 100)
    assert low < value < high


def test_answers_about_one_document_are_resampled_together():
    value, low, high = bleu_interval(answers(), ["d"] * 4, samples=100, seed=1)
    assert (low, high) == (pytest.approx(value), pytest.approx(value))


def test_better_answers_gain_bleu_and_equal_ones_gain_nothing(embedder):
    many = [answer(n, EXPECTED[n % 4], TEXTS[n % 4]) for n in range(24)]
    better = [answer(n, EXPECTED[n % 4], EXPECTED[n % 4]) for n in range(24)]
    before, after = with_text_metrics(many, embedder), with_text_metrics(better, embedder)
    gain = bleu_gain(before, list(reversed(after)), alpha=0.025, samples=300)
    assert gain.low > 0
    assert (gain.metric, gain.n) == (BLEU, 24)
    assert gain.p_value == pytest.approx(1 / 301)
    assert gain.smallest_detectable_gain < gain.gain
    same = bleu_gain(before, before, alpha=0.025, samples=100)
    assert (same.gain, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_every_metric_has_a_signature_that_starts_with_its_name_and_names_its_library():
    assert all(signature(metric).startswith(f"{metric}|v") for metric in (*METRICS, BLEU))
    assert "tok:13a|smooth:exp|version:2." in signature(BLEU)
    assert "nc:6|nw:0" in signature("chrf")
    assert "rouge-score:0.1.2" in signature("rouge_l")


def test_no_metric_needs_a_network(embedder, monkeypatch):
    def refuse(*_):
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    scored = with_text_metrics(answers(), embedder)
    bleu_interval(scored, list("abcd"), samples=10, seed=0)
    assert not any(math.isnan(value) for answer in scored for value in answer.metrics.values())
