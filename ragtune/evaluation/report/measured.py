"""Everything that is known of a candidate when its report is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ragtune.evaluation.agreement import Agreement
from ragtune.evaluation.calibration import Calibration
from ragtune.evaluation.gate import ModelGain
from ragtune.evaluation.judges import PreferenceSummary
from ragtune.records import BenchmarkRow, GateDecision, RatedModel, Score, ScoredAnswer
from ragtune.store.speed_rows import SpeedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that is known of a candidate; `live` and `candidate` are the answers to the gate's questions.

    `models` names the two, and `differences` compares them by speed and size. `planned_refusals` is the share of
    answerable questions that the settings allow to refuse. `facts` are versions and hashes. `raters` says who rated
    answers, "" if nobody did, and `rated` what they say of each model.
    """

    version: str
    created_at: str
    decision: GateDecision
    models: tuple[str, str]
    scores: Sequence[Score]
    gains: Sequence[ModelGain]
    live: Sequence[ScoredAnswer]
    candidate: Sequence[ScoredAnswer]
    benchmarks: Sequence[BenchmarkRow] = ()
    differences: Sequence[SpeedRow] = ()
    calibrations: Sequence[Calibration] = ()
    preferences: PreferenceSummary | None = None
    agreements: Sequence[Agreement] = ()
    rated: Sequence[RatedModel] = ()
    raters: str = ""
    planned_refusals: float = 0.0
    facts: Mapping[str, str] = field(default_factory=dict)
