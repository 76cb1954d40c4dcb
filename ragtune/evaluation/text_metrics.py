"""Metrics that compare an answer with the expected one by characters, n-grams and meaning.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are those of sacrebleu, ROUGE (Lin 2004) is that of rouge-score over
words of any script, BERTScore is the formula of Zhang et al. 2020 over the packaged MiniLM. They apply to answerable
questions. A refusal is an empty text and scores 0. BLEU is a score of the whole corpus: its n-gram counts are added
before they are divided. Nothing here uses a network.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ragtune.evaluation.metrics import SIGNATURES
from ragtune.evaluation.resampling import cluster_draws, cluster_index
from ragtune.ports import TokenEmbedder
from ragtune.records import ScoredAnswer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ragtune.ports import Vectors

    Floats = npt.NDArray[np.float64]

BLEU = "bleu"
"""The name of the one metric without a value per question."""
_ORDERS = 4
"""Longest n-grams of BLEU, the convention of Papineni et al. 2002."""
_EMBEDDED = "all-MiniLM-L6-v2"


class _Words:
    """The tokenizer that rouge-score gets: words of any script, because its own knows a to z and 0 to 9 only."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


@cache
def _bleu() -> Any:
    from sacrebleu import metrics

    return metrics.BLEU(lowercase=True)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF(lowercase=True)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], tokenizer=_Words())


def signature(metric: str) -> str:
    """Return how a metric counts; sacrebleu's own signature, with its version, for BLEU and chrF."""
    if metric in SIGNATURES:
        return SIGNATURES[metric]
    if metric == BLEU:
        _bleu().corpus_score(["a"], [["a"]])  # sacrebleu knows the number of references after a first score only
        return f"bleu|v1|corpus|{_bleu().get_signature()}|answerable-only"
    if metric == "chrf":
        _chrf().corpus_score(["a"], [["a"]])
        return f"chrf|v1|mean-of-answers|{_chrf().get_signature()}|answerable-only"
    if metric in ("rouge_1", "rouge_l"):
        how = f"fmeasure|stem:no|lower,words-of-any-script|rouge-score:{version('rouge-score')}"
        return f"{metric}|v1|{how}|answerable-only"
    how = "mean-pooled-cosine,at-least-0" if metric == "similarity" else "layer:6,idf:no,rescaled:no,special-tokens:no"
    return f"{metric}|v1|{_EMBEDDED}|{how}|answerable-only"


def with_text_metrics(answers: Sequence[ScoredAnswer], embedder: TokenEmbedder) -> list[ScoredAnswer]:
    """Return the answers with `TEXT_METRICS` added to the metrics of those to answerable questions."""
    answerable = [answer for answer in answers if answer.answerable]
    texts = list(dict.fromkeys(text for answer in answerable for text in (answer.expected, answer.scored_text)))
    tokens = dict(zip(texts, embedder.token_vectors(texts), strict=True)) if texts else {}
    means = dict(zip(texts, embedder.embed(texts), strict=True)) if texts else {}
    scored = []
    for answer in answers:
        if answer.answerable:
            expected, text = answer.expected, answer.scored_text
            rouge = _rouge().score(expected, text)
            cosine = float(means[expected] @ means[text]) if text else 0.0
            values = {
                "chrf": _chrf().sentence_score(text, [expected]).score / 100,
                "rouge_1": rouge["rouge1"].fmeasure,
                "rouge_l": rouge["rougeL"].fmeasure,
                "similarity": min(1.0, max(0.0, cosine)),
                "bertscore_f1": bertscore_f1(tokens[expected], tokens[text]),
            }
            answer = replace(answer, metrics={**answer.metrics, **values})
        scored.append(answer)
    return scored


def bertscore_f1(expected: "Vectors", answer: "Vectors") -> float:
    """Return BERTScore's F1, without idf weights and without rescaling; 0 if one of the texts has no token.

    Args:
        expected: token vectors of length 1, shape (tokens, dimension).
        answer: the same of the answer.
    """
    if not len(expected) or not len(answer):
        return 0.0
    cosines = expected @ answer.T
    recall, precision = float(cosines.max(axis=1).mean()), float(cosines.max(axis=0).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def bleu_counts(answers: Sequence[ScoredAnswer]) -> "Floats":
    """Return the counts of each answer that corpus BLEU adds up, shape (answers, 10).

    Columns: the matching 1- to 4-grams, all 1- to 4-grams, the tokens of the answer and of the expected answer.
    """
    import numpy as np

    rows = []
    for answer in answers:
        score = _bleu().corpus_score([answer.scored_text], [[answer.expected]])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.asarray(rows, dtype=np.float64).reshape(-1, 2 * _ORDERS + 2)


def corpus_bleu(counts: "Floats") -> float:
    """Return BLEU from 0 to 1 of summed counts, shape (10,), with sacrebleu's smoothing."""
    correct, total = counts[:_ORDERS].tolist(), counts[_ORDERS : 2 * _ORDERS].tolist()
    lengths = (int(counts[-2]), int(counts[-1]))
    if lengths[0] == 0:
        return 0.0
    score = _bleu().compute_bleu(correct, total, *lengths, smooth_method="exp")
    return float(score.score) / 100


def bleu_interval(
    answers: Sequence[ScoredAnswer], clusters: Sequence[str], samples: int, seed: int
) -> tuple[float, float, float]:
    """Return (BLEU, low, high) with a 95% percentile interval over resampled clusters."""
    import numpy as np

    counts = bleu_counts(answers)
    values = resampled_bleu(counts, clusters, samples, seed)
    low, high = np.quantile(values, [0.025, 0.975])
    return corpus_bleu(counts.sum(axis=0)), float(low), float(high)


def resampled_bleu(counts: "Floats", clusters: Sequence[str], samples: int, seed: int) -> "Floats":
    """Return BLEU of `samples` resamples of the clusters; the same seed draws the same clusters (Koehn 2004)."""
    import numpy as np

    index = cluster_index(clusters)
    sums = np.zeros((index.max() + 1, counts.shape[1]))
    np.add.at(sums, index, counts)
    return np.asarray([corpus_bleu(sums[draw].sum(axis=0)) for draw in cluster_draws(len(sums), samples, seed)])
