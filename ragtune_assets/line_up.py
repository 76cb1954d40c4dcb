"""Which models answer which held-out questions: the test is for the record, the gate for the decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ragtune.errors import DatasetError
from ragtune.evaluation.held_out import Contender, held_out
from ragtune.model.base.capacity import chosen_device, fastest_precision
from ragtune.records import ArtifactRef, Precision, QAPair, RegisteredModel, ScoredAnswer, Split, SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore

RAW, BASE, CANDIDATE, LIVE = "raw", "base", "fine-tuned", "champion"


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """What one model answered to the questions of one split."""

    model: str
    precision: str
    version: str
    split: Split
    answers: tuple[ScoredAnswer, ...]


def served_precision(settings: Settings) -> Precision:
    """Return the precision that is served: what the machine answers with fastest, or what the settings say."""
    serve = settings.quantization.serve
    return fastest_precision(chosen_device(settings.device)) if serve == "auto" else serve


def precision_folders(store: ArtifactStore, merged: ArtifactRef, quantized: ArtifactRef) -> dict[Precision, Path]:
    """Return the folder of each precision of the candidate."""
    packed = store.folder(quantized)
    return {"bf16": store.folder(merged), "w4a16": packed / "w4a16", "w8a8": packed / "w8a8"}


def line_up(
    settings: Settings,
    items: Sequence[SplitItem],
    store: ArtifactStore,
    base: ArtifactRef,
    merged: ArtifactRef,
    quantized: ArtifactRef,
    champion: RegisteredModel | None,
    raw: ArtifactRef | None = None,
    out_of_domain: Sequence[QAPair] = (),
) -> list[Contender]:
    """Return every model that answers, the candidate in the precision that is served among them.

    The live model is the champion; before there is one it is the base model, as the gateway serves it.
    `raw` is the pretrained model from which a grounded base was made, and gets the first questions of the test.
    Questions of `out_of_domain` go to the live model and the candidate.
    """
    test: Sequence[QAPair] = held_out(items, "test", settings.evaluation.test_items, settings.seed)
    gate: Sequence[QAPair] = held_out(items, "gate", settings.evaluation.gate_items, settings.seed)
    decisive: dict[Split, Sequence[QAPair]] = {
        "gate": gate,
        **({"out_of_domain": out_of_domain} if out_of_domain else {}),
    }
    both: dict[Split, Sequence[QAPair]] = {"test": test, **decisive}
    served, version = served_precision(settings), quantized.sha256[:12]
    few = test[: settings.evaluation.raw_items]
    found = [Contender(RAW, "bf16", store.folder(raw), "raw", {"test": few})] if raw and few else []
    alone: dict[Split, Sequence[QAPair]] = {"test": test}
    found.append(Contender(BASE, "bf16", store.folder(base), "base", alone if champion else both))
    folders = precision_folders(store, merged, quantized)
    for precision in dict.fromkeys((*settings.evaluation.precisions, served)):
        asked = both if precision == served else alone
        found.append(Contender(CANDIDATE, precision, folders[precision], version, asked))
    if champion:
        precision = champion.manifest.served_precision
        folder = Path(champion.folder) / champion.manifest.precisions[precision]
        found.append(Contender(LIVE, precision, folder, champion.version, decisive))
    return found


def gate_sets(sets: Sequence[AnswerSet], split: Split = "gate") -> tuple[AnswerSet, AnswerSet]:
    """Return the answers of the live model and of the candidate to the questions that decide."""
    asked = [one for one in sets if one.split == split]
    live = [one for one in asked if one.model != CANDIDATE]
    candidate = [one for one in asked if one.model == CANDIDATE]
    if len(live) != 1 or len(candidate) != 1:
        raise DatasetError(
            f"The questions of '{split}' were answered by {[one.model for one in asked]}.",
            expected="one live model and one candidate",
            fix="run `ragtune materialize --select eval_answers+`",
        )
    return live[0], candidate[0]
