"""Coefficients of agreement, against published examples and what irrCAC 0.4.4 returns for one of them."""

import numpy as np
import pytest

from ragtune.errors import DatasetError
from ragtune.evaluation.agreement import (
    agreement,
    category_counts,
    cohen_kappa,
    fleiss_kappa,
    gwet_ac2,
    identity_weights,
    krippendorff_alpha,
    linear_weights,
    pairwise_agreement,
    percent_agreement,
    worst_items,
)

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability": 12 units, 4 observers, missing ratings; also the
# data set `raw_4raters` of Gwet 2014 and of irrCAC.
UNITS = ["11.1", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", ".555", "..11", "..3."]
RATINGS = {
    f"u{number}": {f"rater{place}": value for place, value in enumerate(unit) if value != "."}
    for number, unit in enumerate(UNITS, 1)
}
COUNTS = category_counts(RATINGS, "12345")
SEVERAL = COUNTS[COUNTS.sum(axis=1) > 1]


def test_alpha_of_krippendorffs_own_example():
    # Krippendorff 2011: nominal 0.743, ordinal 0.815.
    assert krippendorff_alpha(COUNTS, "nominal") == pytest.approx(0.743, abs=0.0005)
    assert krippendorff_alpha(COUNTS, "ordinal") == pytest.approx(0.815, abs=0.0005)


def test_ac1_of_gwets_example_with_its_interval():
    # Gwet 2014: AC1 0.775, standard error 0.143, 95% interval from 0.461 to 1; irrCAC prints 0.77544 and 0.46081.
    ac1 = gwet_ac2(COUNTS, identity_weights(5))
    assert ac1.value == pytest.approx(0.77544, abs=5e-6)
    assert (ac1.low, ac1.high) == (pytest.approx(0.46081, abs=5e-5), 1.0)
    assert percent_agreement(COUNTS) == pytest.approx(0.81818, abs=5e-6)


def test_ac2_and_weighted_fleiss_kappa_are_those_of_irrcac():
    ac2 = gwet_ac2(COUNTS, linear_weights(5))
    assert ac2.value == pytest.approx(0.85874, abs=5e-6)
    assert ac2.low == pytest.approx(0.6005, abs=5e-5)


def test_fleiss_kappa_of_his_example():
    # Fleiss 1971, the table as reprinted in many textbooks: 10 subjects, 14 raters, 5 categories; kappa 0.210.
    counts = np.array(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ],
        dtype=float,
    )
    assert fleiss_kappa(counts, identity_weights(5)) == pytest.approx(0.210, abs=0.0005)


def pairs(table: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    cells = [(row, column) for row, counts in enumerate(table) for column, n in enumerate(counts) for _ in range(n)]
    first, second = np.array(cells, dtype=float).T
    return first, second


def test_cohens_kappa_of_published_tables():
    # 50 proposals, two readers: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no; kappa is 0.40.
    assert cohen_kappa(*pairs([[20, 5], [10, 15]]), identity_weights(2)) == pytest.approx(0.4)
    # Feinstein and Cicchetti 1990: 85% agreement twice, kappa 0.70 if balanced and 0.32 if not.
    assert cohen_kappa(*pairs([[40, 9], [6, 45]]), identity_weights(2)) == pytest.approx(0.70, abs=0.005)
    assert cohen_kappa(*pairs([[80, 10], [5, 5]]), identity_weights(2)) == pytest.approx(0.32, abs=0.005)


def test_weighted_kappa_is_that_of_scikit_learn():
    from sklearn.metrics import cohen_kappa_score

    first, second = pairs([[9, 3, 1], [2, 8, 4], [0, 3, 10]])
    expected = cohen_kappa_score(first.astype(int), second.astype(int), weights="linear")
    assert cohen_kappa(first, second, linear_weights(3)) == pytest.approx(expected)


def test_ac1_stays_high_where_kappa_collapses_because_one_category_prevails():
    counts = np.array([[2, 0]] * 118 + [[1, 1]] * 7)
    ac1 = gwet_ac2(counts.astype(float), identity_weights(2))
    assert fleiss_kappa(counts, identity_weights(2)) < 0
    assert ac1.value > 0.9
    assert ac1.low < ac1.value < ac1.high


def test_an_agreement_has_intervals_around_its_values():
    result = agreement("correct", RATINGS, "12345")
    assert (result.items, result.annotators) == (11, ("rater0", "rater1", "rater2", "rater3"))
    assert result.kappa.value == pytest.approx(fleiss_kappa(SEVERAL, identity_weights(5)))
    for estimate in (result.kappa, result.alpha, result.ac2):
        assert estimate.low < estimate.value <= estimate.high


def test_pairs_of_annotators_are_compared_on_what_both_rated_the_pair_that_agrees_least_first():
    found = pairwise_agreement("correct", RATINGS, "12345")
    assert len(found) == 6
    assert [pair.ac2.value for pair in found] == sorted(pair.ac2.value for pair in found)
    by_pair = {pair.annotators: pair for pair in found}
    assert by_pair["rater0", "rater1"].items == 9
    assert by_pair["rater0", "rater1"].percent == pytest.approx(8 / 9)


def test_the_items_with_most_disagreement_come_first():
    assert worst_items(RATINGS, "12345") == [("u6", 0.0), ("u2", 0.5), ("u8", 0.5)]


def test_annotators_who_always_agree_are_in_full_agreement():
    result = agreement("clear", {f"i{n}": {"ada": "yes", "bob": "yes"} for n in range(5)}, ("no", "yes"))
    assert (result.percent, result.kappa.value, result.alpha.value, result.ac2.value) == (1.0, 1.0, 1.0, 1.0)


def test_without_two_ratings_of_an_item_there_is_no_agreement():
    with pytest.raises(DatasetError, match="No item has two ratings of 'clear'"):
        agreement("clear", {"i": {"ada": "yes"}}, ("no", "yes"))


def test_an_unknown_category_is_named_with_the_known_ones():
    with pytest.raises(DatasetError, match=r"'maybe'[\s\S]*no, yes"):
        agreement("clear", {"i": {"ada": "yes", "bob": "maybe"}}, ("no", "yes"))
