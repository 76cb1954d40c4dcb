"""What to do next about a candidate, from what was measured of it: each sentence names a number and a command."""

from collections.abc import Iterator

from ragtune.evaluation.report.measured import Measured
from ragtune.evaluation.speed import regressions
from ragtune.records import Score

_RETRIEVED = 0.9
"""With a smaller share of right passages shown, search loses more than the model can. Chosen by hand."""
_WEAK = 0.15
"""A part whose upper bound is this far below the mean is worth a look. Chosen by hand."""
_REFUSED_TOO_MUCH = 1.5
"""Times the planned share of refusals that is worth a word. Chosen by hand."""


def advice(measured: Measured) -> Iterator[str]:
    """Yield what to do next, the most important first."""
    yield from _about_the_decision(measured)
    yield from _about_retrieval(measured)
    yield from _about_refusals(measured)
    yield from _about_rounding(measured)
    yield from _about_speed(measured)
    yield from _about_parts(measured)
    yield from _about_people(measured)


def _about_the_decision(measured: Measured) -> Iterator[str]:
    decision = measured.decision
    if decision.promoted:
        yield (
            f"The candidate is live for new requests. Watch it on real users; `ragtune rollback` brings "
            f"{decision.live_version} back."
        )
        return
    if decision.out_of_domain_n and decision.out_of_domain_high < 0:
        yield (
            f"It lost {-decision.out_of_domain_gain:.3f} on other topics: raise `training.replay_share`, or lower "
            "`training.learning_rate`, and train again."
        )
    if decision.high < 0:
        yield "It is worse than the live model: do not promote it by hand. Look at the answers that lost most, below."
    elif decision.low <= 0 < decision.gain and decision.questions_needed > decision.n:
        yield (
            f"A gain below {decision.smallest_detectable_gain:.3f} would mostly go unnoticed with {decision.n} "
            f"questions. {decision.questions_needed} questions find the planned gain: add documents or existing "
            "questions (`ragtune sources add pairs:FILE`) and raise `evaluation.gate_items`."
        )
    elif decision.gain <= 0:
        yield (
            "Training brought no gain on these questions: correct and review pairs (`ragtune review`), collect "
            "feedback, or train longer (`training.minutes`)."
        )


def _overall(measured: Measured, metric: str) -> Score | None:
    """Return the candidate's score on all test questions, or None."""
    return next(
        (
            score
            for score in measured.scores
            if f"{score.model} {score.precision}" == measured.models[1]
            and (score.metric, score.split, score.origin, score.part) == (metric, "test", "", "")
        ),
        None,
    )


def _about_retrieval(measured: Measured) -> Iterator[str]:
    hit = _overall(measured, "retrieval_hit")
    if hit is not None and hit.high < _RETRIEVED:
        yield (
            f"Only {hit.value:.0%} of the answerable questions are shown a passage with the answer (n = {hit.n}). No "
            "training repairs that: look at `ragtune search`, raise `answer.passages`, or try another embedder."
        )


def _about_refusals(measured: Measured) -> Iterator[str]:
    refused, planned = _overall(measured, "false_refusal"), measured.planned_refusals
    if refused is not None and planned and refused.low > _REFUSED_TOO_MUCH * planned:
        yield (
            f"{refused.value:.0%} of the answerable questions are refused; {planned:.0%} was planned. Lower "
            "`answer.refused_share` and `answer.model_refuses` if refusals cost more than wrong answers."
        )


def _about_rounding(measured: Measured) -> Iterator[str]:
    for gain in measured.gains:
        if gain.over.split(" ")[0] == gain.model and gain.gain.high < 0:
            yield (
                f"Rounding to {gain.precision} costs {-gain.gain.gain:.3f} {gain.gain.metric}: serve another precision "
                "(`quantization.serve`), or calibrate with more samples (`quantization.calibration_samples`)."
            )


def _about_speed(measured: Measured) -> Iterator[str]:
    for sentence in regressions(measured.differences):
        yield f"Slower or larger than the live model: {sentence}. Look at `quantization.serve` and `engine.eager`."


def _about_parts(measured: Measured) -> Iterator[str]:
    metric = measured.decision.metric
    overall = _overall(measured, metric)
    weak = [
        score
        for score in measured.scores
        if f"{score.model} {score.precision}" == measured.models[1]
        and score.part
        and score.metric == metric
        and overall is not None
        and score.high < overall.value - _WEAK
    ]
    if weak:
        names = ", ".join(f"{s.part} ({s.value:.2f}, n = {s.n})" for s in sorted(weak, key=lambda s: s.value)[:3])
        yield f"Weak parts: {names}. Read their answers, then add documents or questions about them."


def _about_people(measured: Measured) -> Iterator[str]:
    if not measured.calibrations or not any(calibration.counts for calibration in measured.calibrations):
        yield (
            "No judge counts yet. Let people rate answers: `ragtune evaluate create NAME`, then "
            "`ragtune evaluate export NAME FILE --annotator WHO`."
        )
    for agreement in measured.agreements:
        if agreement.ac2.low < 0.4:  # below "moderate" of Landis and Koch 1977
            yield (
                f"People agree little on `{agreement.question}` (AC2 {agreement.ac2}): discuss the worst items "
                "(`ragtune evaluate agreement NAME`) and make the guideline clearer."
            )
