"""What a person sees of the assets that train preferences."""

from typing import Any

from ragtune.model.examples.preferences import UsableFeedback, choose_method, count_examples
from ragtune.model.training.preference import PreferenceReport
from ragtune.model_settings import PreferenceSettings
from ragtune_assets.display import curve, table

_SHOWN, _END = 20, 120
"""Examples on the page, and characters of each prompt; chosen by hand."""


def examples_page(usable: UsableFeedback, settings: PreferenceSettings) -> dict[str, Any]:
    """Show how many verdicts can train, why the others cannot, and the newest examples."""
    numbers = count_examples(usable.examples)
    method, reason = choose_method(numbers, settings)
    rows = [(one.messages[-1].content[-_END:], one.chosen, one.rejected) for one in usable.examples[-_SHOWN:]]
    return {
        "training": reason or f"{method} will be trained",
        "thumbs up": numbers.up,
        "thumbs down": numbers.down,
        "corrections": numbers.corrections,
        "left out": table(("reason", "verdicts"), list(usable.left_out.items())),
        "examples": table(("end of the prompt", "wanted", "not wanted"), rows),
    }


def training_page(report: PreferenceReport) -> dict[str, Any]:
    """Show how the training went, and the loss that tells what it made the model forget."""
    losses = {"preferences and replay": [(float(step), loss) for step, loss in report.losses]}
    forgotten = [(one.step, one.loss) for one in report.validations if one.loss is not None]
    warnings = {"warnings": "\n".join(report.warnings)} if report.warnings else {}
    return {
        **warnings,
        "validation loss of SFT": table(("step", "loss"), forgotten),
        "loss": curve(losses, "Loss", "step", "loss"),
        "method": report.method,
        "steps": report.steps,
        "wanted answers": report.chosen,
        "unwanted answers": report.rejected,
        "corrections": report.pairs,
        "replayed conversations": report.replayed,
    }
