"""Tests of the packaged evidence model and of its calibration."""

import json
from pathlib import Path

import pytest

from ragtune.answer.evidence import rank_evidence
from ragtune.backends.evidence.model import Calibration, MiniLmEvidence, packaged_evidence, read_calibration
from ragtune.errors import ModelError
from ragtune.ports import EvidenceModel
from tests.support.answering_fakes import chunk, hits
from tests.support.counting_embedder import CountingEmbedder

CURVE = ((0.0, 0.1), (0.5, 0.4), (1.0, 0.8))
CALIBRATION = Calibration(slope=10.0, intercept=-5.0, curve=CURVE)
QUESTION = "how hot may Agnes get"
TEXTS = ["Kilns: Agnes reaches 1,260 °C at most.", "Kilns: Half shelves are not sold.", "Boats: The crane is locked."]


@pytest.fixture(scope="module")
def packaged() -> EvidenceModel:
    return packaged_evidence(threads=1, device="cpu")


def test_the_sentence_that_answers_is_the_most_probable(packaged: EvidenceModel):
    probabilities = packaged.probabilities(QUESTION, TEXTS)
    assert probabilities.index(max(probabilities)) == 0
    assert all(0.0 <= probability <= 1.0 for probability in probabilities)


def test_the_same_question_and_texts_have_the_same_probabilities_in_any_order(packaged: EvidenceModel):
    first = packaged.probabilities(QUESTION, TEXTS)
    assert packaged.probabilities(QUESTION, TEXTS) == pytest.approx(first, abs=0.02)  # bfloat16 has three digits
    assert packaged.probabilities(QUESTION, TEXTS[::-1]) == pytest.approx(first[::-1], abs=0.02)


def test_more_refusals_are_allowed_by_a_higher_threshold(packaged: EvidenceModel):
    thresholds = [packaged.threshold(share) for share in (0.0, 0.05, 0.2, 1.0)]
    assert thresholds == sorted(thresholds)


def test_no_text_has_no_probability(packaged: EvidenceModel):
    assert packaged.probabilities(QUESTION, []) == []


def test_a_unit_is_embedded_once_as_long_as_it_is_kept():
    embedder = CountingEmbedder()
    model = MiniLmEvidence(embedder, CALIBRATION, kept_units=2)
    model.probabilities("first", ["a", "b"])
    model.probabilities("second", ["b", "c", "b"])
    model.probabilities("third", ["a"])
    assert embedder.embedded == ["first", "a", "b", "second", "c", "third", "a"]


def test_probabilities_rise_with_the_cosine():
    assert CALIBRATION.probability(0.5) == pytest.approx(0.5)
    assert CALIBRATION.probability(0.6) > CALIBRATION.probability(0.4)


@pytest.mark.parametrize(("share", "threshold"), [(0.0, 0.1), (0.25, 0.25), (0.5, 0.4), (0.75, 0.6), (1.0, 0.8)])
def test_a_threshold_lies_between_the_points_of_the_curve(share: float, threshold: float):
    assert CALIBRATION.threshold(share) == pytest.approx(threshold)


@pytest.mark.parametrize("curve", [[], [[0.0, 0.5], [0.5, 0.6]], [[0.0, 0.5], [1.0, 0.4]]])
def test_a_curve_has_to_rise_from_0_to_1(tmp_path: Path, curve: list[list[float]]):
    (tmp_path / "calibration.json").write_text(json.dumps({"slope": 1.0, "intercept": 0.0, "curve": curve}))
    with pytest.raises(ModelError, match="does not rise from 0 to 1"):
        read_calibration(tmp_path)


def test_a_folder_without_a_calibration_is_an_error(tmp_path: Path):
    with pytest.raises(ModelError, match=r"holds no calibration\.json"):
        read_calibration(tmp_path)


def test_the_packaged_model_ranks_the_units_of_passages(packaged: EvidenceModel):
    passages = hits(chunk("boats", "The crane is locked at night."), chunk("kilns", "Agnes reaches 1,260 °C."))
    assert rank_evidence(packaged, QUESTION, passages)[0].number == 2
