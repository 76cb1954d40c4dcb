"""The report that a training writes next to its adapter."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from ragtune.errors import ModelError
from ragtune.model.training.validation import Validation

REPORT = "report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterReport:
    """What a training did; times in seconds.

    `tokens` counts what was read without padding, `padded_tokens` with padding, `loss_tokens` what was learnt.
    `losses` holds (step, loss) for every step. `resumed_from` is the step of the checkpoint that the last run
    continued from, 0 for none. `stopped_by` is "max_steps", "minutes" or "patience". `planned_steps` is what
    `training.steps` has to be for a repetition. `validations` are by generation, the first before training; the adapter
    is that of `best_step`. `warnings` say what a person should look at. `learnt` are the positions of the examples
    that the adapter was trained on; it is not written.
    """

    steps: int
    examples: int
    dropped: int
    tokens: int
    padded_tokens: int
    loss_tokens: int
    seconds: float
    tokens_per_second: float
    final_loss: float
    validation_loss: float
    losses: tuple[tuple[int, float], ...]
    resumed_from: int
    stopped_by: str
    device: str
    threads: int
    trainable_parameters: int
    mlflow_run_id: str
    planned_steps: int = 0
    validations: tuple[Validation, ...] = ()
    best_step: int = 0
    warnings: tuple[str, ...] = ()
    learnt: tuple[int, ...] = field(default=(), compare=False)


def read_report(adapter: Path) -> AdapterReport:
    """Return the report of an adapter; raise ModelError if there is none."""
    path = adapter / REPORT
    if not path.is_file():
        raise ModelError(f"{adapter} holds no {REPORT}.", expected="the adapter of a finished training")
    return TypeAdapter(AdapterReport).validate_json(path.read_bytes())
