"""Chooses which models answer which held-out questions: those of the test are reported, those of the gate decide."""

from collections.abc import Collection, Sequence
from pathlib import Path

from ragtune.errors import DatasetError
from ragtune.evaluation.alpha_spending import gate_items
from ragtune.evaluation.held_out import Contender, held_out
from ragtune.model.base.capacity import chosen_device, fastest_precision
from ragtune.records import AnswerSet, ArtifactRef, Precision, QAPair, RegisteredModel, Split, SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore

RAW, BASE, CANDIDATE, LIVE = "raw", "base", "fine-tuned", "champion"


def precision_folders(store: ArtifactStore, merged: ArtifactRef, quantized: ArtifactRef) -> dict[Precision, Path]:
    """Return the folder of each precision that was made, bf16 first."""
    packed = store.folder(quantized)
    folders: dict[Precision, Path] = {"bf16": store.folder(merged), "w4a16": packed / "w4a16", "w8a8": packed / "w8a8"}
    further: tuple[Precision, ...] = ("awq", "mixed")
    return folders | {name: packed / name for name in further if (packed / name).is_dir()}


def served_precision(settings: Settings) -> Precision:
    """Return the precision of the settings, or the one that this machine answers with fastest."""
    serve = settings.quantization.serve
    return fastest_precision(chosen_device(settings.device)) if serve == "auto" else serve


def choose_contenders(
    settings: Settings,
    items: Sequence[SplitItem],
    store: ArtifactStore,
    base: ArtifactRef,
    merged: ArtifactRef,
    quantized: ArtifactRef,
    champion: RegisteredModel | None,
    raw: ArtifactRef | None = None,
    out_of_domain: Sequence[QAPair] = (),
    spent: Collection[str] = (),
) -> list[Contender]:
    """Return every model that answers; the served precision of the candidate is always among them.

    The live model is the champion; before the first release it is the base model, because the gateway serves that.
    `raw` is the pretrained model from which a grounded base was made; it answers the first test questions only.
    Questions of `out_of_domain` go to the live model and the candidate. The gate leaves out the ids in `spent`, on
    which no alpha is left, unless it has no other questions.
    """
    test: Sequence[QAPair] = held_out(items, "test", settings.evaluation.test_items, settings.seed)
    unspent = [item for item in items if item.split == "gate" and item.pair.id not in spent]
    gate: Sequence[QAPair] = held_out(unspent or items, "gate", gate_items(settings.evaluation), settings.seed)
    reported: dict[Split, Sequence[QAPair]] = {"test": test}
    decisive: dict[Split, Sequence[QAPair]] = {"gate": gate}
    if out_of_domain:
        decisive["out_of_domain"] = out_of_domain
    first_questions = test[: settings.evaluation.raw_items]
    contenders = []
    if raw and first_questions:
        contenders.append(Contender(RAW, "bf16", store.folder(raw), "raw", {"test": first_questions}))
    base_questions = reported if champion else reported | decisive
    contenders.append(Contender(BASE, "bf16", store.folder(base), "base", base_questions))
    served, version = served_precision(settings), quantized.sha256[:12]
    folders = precision_folders(store, merged, quantized)
    for precision in dict.fromkeys((*settings.evaluation.precisions, served)):
        questions = reported | decisive if precision == served else reported
        contenders.append(Contender(CANDIDATE, precision, folders[precision], version, questions))
    if champion:
        precision = champion.manifest.served_precision
        folder = Path(champion.folder) / champion.manifest.precisions[precision]
        contenders.append(Contender(LIVE, precision, folder, champion.version, decisive))
    return contenders


def gate_sets(sets: Sequence[AnswerSet], split: Split = "gate") -> tuple[AnswerSet, AnswerSet]:
    """Return the answers of the live model and of the candidate on a split; raise DatasetError if either is missing."""
    of_split = [answers for answers in sets if answers.split == split]
    live = [answers for answers in of_split if answers.model != CANDIDATE]
    candidate = [answers for answers in of_split if answers.model == CANDIDATE]
    if len(live) != 1 or len(candidate) != 1:
        raise DatasetError(
            f"The questions of '{split}' were answered by {[answers.model for answers in of_split]}.",
            expected="one live model and one candidate",
            fix="run `ragtune materialize --select eval_answers+`",
        )
    return live[0], candidate[0]
