"""Repeats a tracked run from what its log holds, and says whether the result is the same.

The log has the conversations that a training or a quantisation read, so neither the index nor the dataset of that day
is needed: only the base model, which is found again by its hash.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ragtune.errors import ExperimentError
from ragtune.evaluation.scoring import ScoreIdentity, summarise
from ragtune.model.base.capacity import Machine
from ragtune.model.base.merge import merge_adapter
from ragtune.model.base.pretrained import resolve_base_model
from ragtune.model.compression.quantization import quantize_w4a16, quantize_w8a8
from ragtune.model.examples.example import TrainingExample
from ragtune.model.runs.comparison import Difference, code_of, differences
from ragtune.model.runs.conversations import (
    CONVERSATIONS_FILE,
    PREFERENCES_FILE,
    unpacked,
    unpacked_preferences,
)
from ragtune.model.runs.log import PREFERRED, SCORED, TRAINED, LoggedRun, RunLog
from ragtune.model.runs.record import CODE, DATA, REPEATS, RESULT, SAME, SETTINGS_FILE, run_record
from ragtune.model.runs.scored import ANSWERS, MODEL, PRECISION, VERSION, read_answers, score_metrics
from ragtune.model.training.adapters import WEIGHTS, earlier_adapter
from ragtune.model.training.preference import PreferenceData, PreferenceJob, read_preference, train_preference
from ragtune.model.training.report import read_report
from ragtune.model.training.sft import TrainingJob, train_adapter
from ragtune.model.training.tracking import MlflowTracker
from ragtune.model_settings import BaseModelSettings, PreferenceSettings, QuantizationSettings, TrainingSettings
from ragtune.ports import Progress, silent
from ragtune.records import ArtifactRef, Split
from ragtune.settings import EvaluationSettings, Settings
from ragtune.store.artifacts import MANIFEST, ArtifactStore, file_sha256, files_sha256, folder_files
from ragtune.store.mlflow_files import ASSET

Section = TypeVar("Section", bound=BaseModel)
ADAPTER = "adapter"
"""Folder of a training run with the adapter and its report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """What came of repeating a run.

    `before` and `after` are what was compared, such as hashes. `largest_difference` is between the numbers of both
    results, or None if they cannot be subtracted. `changed` is what differs in code, packages and machine since then.
    """

    run_id: str
    repeats: str
    compared: str
    same: bool
    before: str
    after: str
    largest_difference: float | None
    changed: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class _Result:
    """What was compared, in both runs, and the largest difference between its numbers."""

    compared: str
    before: str
    after: str
    largest_difference: float | None = None


def repeat(run: LoggedRun, log: RunLog, progress: Progress = silent) -> Repetition:
    """Run again what a run did, as a new run, and compare the results.

    An interrupted repetition of a training continues from its checkpoints. Raises ExperimentError if the run cannot be
    repeated, and what training, merging and quantising raise.
    """
    if run.asset not in _REPEATED:
        raise _not_repeatable(run, log)
    if run.status != "FINISHED":
        raise ExperimentError(
            f"Run {run.short_id} is {run.status}, so it has no result to compare with.",
            "a finished run",
            "`ragtune experiments list` shows the states; an interrupted build goes on with `ragtune materialize`",
        )
    again = _Again(run, log, progress)
    result = _REPEATED[run.asset](again)
    new = log.run(again.tracker.run_id)
    same = result.before == result.after
    again.tracker.set_tags({SAME: "yes" if same else "no"})
    return Repetition(
        run_id=new.id,
        repeats=run.id,
        compared=result.compared,
        same=same,
        before=result.before,
        after=result.after,
        largest_difference=result.largest_difference,
        changed=tuple(differences(code_of(log, run), code_of(log, new))),
    )


class _Again:
    """What a repetition works with: the run, its settings as they were, the base model, the tracker of the new run."""

    def __init__(self, run: LoggedRun, log: RunLog, progress: Progress) -> None:
        self.run, self.log, self.progress = run, log, progress
        self.settings: Settings = log.settings
        self.store = ArtifactStore(self.settings.home / "artifacts")
        self.plain: dict[str, Any] = yaml.safe_load(log.file(run, SETTINGS_FILE))
        self.seed = int(run.params["seed"])
        self.machine = Machine(run.params["device"], int(run.params[f"{CODE}threads"]))
        record = run_record(self.settings, tags={ASSET: run.asset, REPEATS: run.id})
        # The new run shows the settings and the data of the old one, and the code and the machine of today.
        params = {name: value for name, value in run.params.items() if not name.startswith(CODE)}
        params |= {name: value for name, value in record.params.items() if name.startswith(CODE)}
        files = {**record.files, SETTINGS_FILE: log.file(run, SETTINGS_FILE)}
        self.tracker = MlflowTracker(
            self.settings.tracking_url,
            self.settings.tracking.experiment,
            f"repeats {run.short_id}",
            self.settings.run_files,
            type(record)(record.tags, params, files),
        )

    def section(self, name: str, kind: type[Section]) -> Section:
        """Return a section of the settings as the run had it."""
        try:
            return kind.model_validate(self.plain[name])
        except ValidationError as error:
            wrong = ", ".join(".".join([name, *map(str, problem["loc"])]) for problem in error.errors())
            raise ExperimentError(
                f"The settings of run {self.run.short_id} do not fit this version of RagTune: {wrong}.",
                f"RagTune {self.run.params[f'{CODE}ragtune']}, commit {self.run.params[f'{CODE}commit']}",
                "check that version out, and repeat the run there",
            ) from error

    def conversations(self) -> list[list[TrainingExample]]:
        """Return the conversations that the run read."""
        return unpacked(self.log.file(self.run, CONVERSATIONS_FILE))

    def base(self) -> Path:
        """Return the folder of the base model; raise ExperimentError if it is no longer the one of the run."""
        expected = self._hash_of("base_model")
        kept = ArtifactRef("base_model", "", expected, 0)
        if (self.store.folder_of(kept) / MANIFEST).is_file():
            return self.store.folder(kept)
        base = resolve_base_model(self.section("base_model", BaseModelSettings), self.store, self.progress)
        if base.sha256 != expected:
            raise ExperimentError(
                f"The base model '{self.plain['base_model']['name']}' has the hash {base.sha256[:16]}.",
                f"the base model of run {self.run.short_id}, which has {expected[:16]}",
                "put the model of that day where `base_model.name` of the run says",
            )
        return self.store.folder(base)

    @contextmanager
    def merged(self) -> Iterator[Path]:
        """Yield the folder of the merged model, which is merged again if the home no longer has it."""
        expected = self._hash_of("merged_model")
        kept = ArtifactRef("merged_model", "", expected, 0)
        if (self.store.folder_of(kept) / MANIFEST).is_file():
            yield self.store.folder(kept)
            return
        training = self.merged_run()
        with self.scratch() as folder:
            with self.log.path(training, ADAPTER) as adapter:
                merge_adapter(_Again(training, self.log, self.progress).base(), adapter, folder / "m", self.progress)
            if (found := files_sha256(folder_files(folder / "m"))) != expected:
                raise ExperimentError(
                    f"Merging the adapter of run {training.short_id} again gives the hash {found[:16]}.",
                    f"the merged model of run {self.run.short_id}, which has {expected[:16]}",
                    f"repeat the merge first: `ragtune experiments show {training.short_id}` lists its runs",
                )
            yield folder / "m"

    def merged_run(self) -> LoggedRun:
        """Return the run whose adapter was merged: that of the preference training if there was one, else of SFT."""
        merging = self.run
        if expected := merging.params.get(f"{DATA}merged_model", ""):
            merging = next(iter(self.log.runs("merged_model", f"tags.`{RESULT}` = '{expected}'")), merging)
        adapter = merging.params.get(f"{DATA}{PREFERRED}", "")
        preferred = self.log.runs(PREFERRED, f"tags.`{RESULT}` = '{adapter}'") if adapter else []
        return preferred[0] if preferred else self.log.run(self.run.training_run)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder of this repetition, which is kept if the repetition fails, and removed if it ends."""
        folder = self.settings.home / "work" / f"repeat-{self.run.short_id}"
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    def tracked(self, work: Callable[[], _Result]) -> _Result:
        """Do the work as the new run."""
        self.tracker.start()
        with self.tracker.ending():
            return work()

    def _hash_of(self, name: str) -> str:
        return self.run.params[f"{DATA}{name}"]


def _train(again: _Again) -> _Result:
    """Train again in as many steps as the run planned, on the same device and with the same threads."""
    training, validation = again.conversations()
    settings = again.section("training", TrainingSettings)
    with again.log.path(again.run, ADAPTER) as adapter, again.scratch() as scratch:
        report = read_report(adapter)
        _check_start(again, settings)
        settings = settings.model_copy(update={"steps": report.planned_steps or report.steps})
        rounding = again.section("quantization", QuantizationSettings) if settings.qat else None
        job = TrainingJob(
            base=again.base(),
            settings=settings,
            seed=again.seed,
            out=scratch / "out",
            checkpoints=scratch / "checkpoints",
            rounding=rounding,
        )
        machine = Machine(report.device, report.threads)
        train_adapter(job, training, validation, again.tracker, machine, again.progress)
        weights = adapter / WEIGHTS, scratch / "out" / WEIGHTS
        before, after = (file_sha256(path) for path in weights)
        return _Result("the weights of the adapter", before, after, _largest_difference(*weights))


def _check_start(again: _Again, settings: TrainingSettings) -> None:
    """Raise ExperimentError if the adapter that the training continued from has changed."""
    earlier, expected = earlier_adapter(settings), again.run.params.get(f"{DATA}start_from", "")
    if earlier is not None and (found := file_sha256(earlier)) != expected:
        raise ExperimentError(
            f"The adapter in {settings.start_from}, from which the training continued, has the hash {found[:16]}.",
            f"the adapter of that day, which has {expected[:16] or 'no logged hash'}",
            "put that adapter there",
        )


def _prefer(again: _Again) -> _Result:
    """Train preferences again, on the same device and with the same threads."""
    examples = unpacked_preferences(again.log.file(again.run, PREFERENCES_FILE))
    replay, validation = again.conversations()
    sft = again.log.run(again.run.training_run)
    with again.log.path(again.run, ADAPTER) as adapter, again.log.path(sft, ADAPTER) as start, again.scratch() as work:
        report = read_preference(adapter)
        if report is None:
            raise ExperimentError(
                f"The adapter of run {again.run.short_id} has no report of a preference training.",
                "the adapter that a finished preference training logged",
                "repeat another run: `ragtune experiments list` shows them",
            )
        job = PreferenceJob(
            base=again.base(),
            adapter=start,
            training=again.section("training", TrainingSettings),
            preference=again.section("preference", PreferenceSettings),
            seed=again.seed,
            out=work / "out",
            checkpoints=work / "checkpoints",
        )
        data = PreferenceData(method=report.method, examples=examples, replay=replay, validation=validation)
        train_preference(job, data, again.tracker, Machine(report.device, report.threads), again.progress)
        weights = adapter / WEIGHTS, work / "out" / WEIGHTS
        before, after = (file_sha256(path) for path in weights)
        return _Result("the weights of the adapter", before, after, _largest_difference(*weights))


def _merge(again: _Again) -> _Result:
    def work() -> _Result:
        with again.log.path(again.merged_run(), ADAPTER) as adapter, again.scratch() as scratch:
            merge_adapter(again.base(), adapter, scratch / "out", again.progress)
            after = files_sha256(folder_files(scratch / "out"))
        return _Result("the merged weights", again.run.tags[RESULT], after)

    return again.tracked(work)


def _quantise(again: _Again) -> _Result:
    def work() -> _Result:
        settings, [calibration] = again.section("quantization", QuantizationSettings), again.conversations()
        with again.merged() as merged, again.scratch() as scratch:
            out = scratch / "out"
            quantize_w4a16(merged, calibration, settings, out / "w4a16", again.machine, again.progress)
            quantize_w8a8(merged, out / "w8a8", again.machine, again.progress)
            after = files_sha256(folder_files(out))
        return _Result("the quantised weights", again.run.tags[RESULT], after)

    return again.tracked(work)


def _score(again: _Again) -> _Result:
    """Compute the scores of a model and their intervals again from the logged answers."""

    def work() -> _Result:
        samples = again.section("evaluation", EvaluationSettings).bootstrap_samples
        table, tags = again.log.file(again.run, f"{ANSWERS}.json"), again.run.tags
        after: dict[str, float] = {}
        for split in get_args(Split):
            identity = ScoreIdentity(
                model=tags[MODEL],
                precision=tags[PRECISION],
                split=split,
                dataset_sha256="",
                model_version=tags[VERSION],
                seed=again.seed,
            )
            if answers := read_answers(table, split):
                after |= score_metrics(summarise(answers, identity, samples))
        again.tracker.log_metrics(after, 0)
        before = {name: again.run.metrics.get(name, float("nan")) for name in after}
        differing = max((abs(after[name] - before[name]) for name in after), default=0.0)
        return _Result(f"{len(after)} scores and bounds", _in_words(before), _in_words(after), differing)

    return again.tracked(work)


def _in_words(scores: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value!r}" for name, value in sorted(scores.items()))


_REPEATED: dict[str, Callable[[_Again], _Result]] = {
    TRAINED: _train,
    PREFERRED: _prefer,
    "merged_model": _merge,
    "quantized_model": _quantise,
    SCORED: _score,
}
"""How a run of each kind is repeated."""


def _largest_difference(before: Path, after: Path) -> float:
    from safetensors.torch import load_file

    old, new = load_file(before), load_file(after)
    if old.keys() != new.keys() or any(old[name].shape != new[name].shape for name in old):
        return float("nan")
    return max(float((old[name].float() - new[name].float()).abs().max()) for name in old)


def _not_repeatable(run: LoggedRun, log: RunLog) -> ExperimentError:
    """Return the error for a run that cannot be repeated, with what can be repeated instead."""
    children = [f"{child.short_id} ({child.name})" for child in log.below(run) if child.asset in _REPEATED]
    if children:
        return ExperimentError(
            f"Run {run.short_id} ({run.name}) only holds other runs.", "a single run", f"repeat {', '.join(children)}"
        )
    return ExperimentError(
        f"Run {run.short_id} ({run.name}) depends on an engine or an index as they were, which no log holds.",
        f"a run of {', '.join(_REPEATED)}",
        f"measure again with `ragtune materialize --select {run.asset or 'NAME'}`, then compare the two runs",
    )
