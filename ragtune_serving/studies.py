"""The studies of one home: makes them from stored answers, and shows annotators their tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ragtune.dataset.splits import HELD_OUT
from ragtune.errors import DatasetError, SettingsError
from ragtune.evaluation.studies.approved import Approved, approved_pairs
from ragtune.evaluation.studies.items import (
    answers_of,
    model_names,
    pairwise_items,
    rating_items,
    read_answers,
    traffic_items,
)
from ragtune.evaluation.studies.results import StudyResults, study_results
from ragtune.evaluation.studies.store import StudyStore
from ragtune.evaluation.studies.study import GUIDELINES, Mode, Study, StudyItem
from ragtune.experiments.pair_judging import study_source, vote_items
from ragtune.records import AnswerSet, Chunk, ScoredAnswer, SplitItem
from ragtune.settings import Settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune.store.shadows import ShadowStore

STUDY_ITEMS = 60
"""Items of a study unless somebody says otherwise; chosen by hand."""
_OFFERED = 10
"""Live answers that are read for each that is wanted, so that the sample is not only the newest. Chosen by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlan:
    """What a study is made of: `models` or `files` (one or two of them), or live traffic if both are empty.

    `split` is the one whose answers are taken; `count` limits the items. With `shadow` it is made of the pairs of a
    shadow deployment and of `version`, which may be "" if it mirrors to one version only.
    """

    name: str
    mode: Mode
    models: tuple[str, ...] = ()
    split: str = "test"
    files: tuple[Path, ...] = ()
    count: int = STUDY_ITEMS
    guideline: str = ""
    shadow: str = ""
    version: str = ""


class StudyDesk:
    """The studies of one home, in the database of the feedback."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = StudyStore(settings.feedback_url)
        self.shadows = ShadowStore(settings.feedback_url)
        self._artifacts = ArtifactStore(settings.home / "artifacts")
        self._results: dict[str, tuple[object, StudyResults]] = {}

    def create(self, plan: StudyPlan) -> tuple[Study, int]:
        """Store a study and return it with the number of its items.

        Raises:
            SettingsError: the plan does not fit the mode.
            DatasetError: there are no such answers, or the name is taken.
            ExperimentError: there is no such shadow deployment, or its pairs have equal answers.
        """
        if plan.shadow:
            return self._create_from_pairs(plan)
        if plan.models and plan.files:
            raise SettingsError("Both models and files are given.", "answers of models, of files, or of live traffic")
        sources = plan.models or tuple(file.stem for file in plan.files)
        if plan.mode == "pairwise" and len(sources) != 2:
            raise SettingsError(f"A comparison of {len(sources)} sources.", "two models or two files to compare")
        study = Study(
            name=plan.name,
            mode=plan.mode,
            guideline=plan.guideline or GUIDELINES[plan.mode],
            source=_source(plan, sources),
            seed=self.settings.seed,
        )
        items = self._items(plan, sources)
        return self.store.create(study, items), len(items)

    def _create_from_pairs(self, plan: StudyPlan) -> tuple[Study, int]:
        """Store a study in which people vote on the pairs of a shadow deployment."""
        if plan.mode != "pairwise":
            raise SettingsError(
                f"The mode is '{plan.mode}', and the answers are pairs of the shadow deployment '{plan.shadow}'.",
                "the mode pairwise: people say which answer of a pair is better",
                "leave out --mode, or have answers of models, of files or of live traffic rated, without --shadow",
            )
        if plan.models or plan.files:
            raise SettingsError(
                f"Models or files are given, and the shadow deployment '{plan.shadow}' as well.",
                "answers of one of them",
                "leave out --model and --file, or leave out --shadow",
            )
        shadow = self.shadows.get(plan.shadow)
        versions = shadow.design.versions
        if plan.version not in (*versions, *([""] if len(versions) == 1 else [])):
            raise SettingsError(f"The version is '{plan.version}'.", f"one of {', '.join(versions)}")
        version = plan.version or versions[0]
        study = Study(
            name=plan.name,
            mode="pairwise",
            guideline=plan.guideline or GUIDELINES["pairwise"],
            source=study_source(shadow, version),
            seed=self.settings.seed,
        )
        items = vote_items(self.shadows.pairs(shadow, version), self.chunks(), plan.count, self.settings.seed)
        return self.store.create(study, items), len(items)

    def chunks(self) -> list[Chunk]:
        """Return the passages of the documents as they are now; empty if none were made yet."""
        ref = self._artifacts.current("chunks")
        return self._artifacts.read_records(ref, Chunk) if ref else []

    def close(self) -> None:
        """Close all connections."""
        self.store.close()
        self.shadows.close()

    def models(self, split: str) -> list[str]:
        """Return the models whose answers to the questions of a split are stored."""
        return model_names(self._sets(), split)

    def results(self, name: str) -> StudyResults:
        """Return the results of a study; they are computed again only after somebody rated, settled or got tasks."""
        state = self.store.state(name)
        if name not in self._results or self._results[name][0] != state:
            self._results[name] = (state, study_results(self.store, name))
        return self._results[name][1]

    def approved(self, name: str) -> Approved:
        """Return the answers of a study that people approved, without questions of the test and the gate."""
        ref = self._artifacts.current("qa_splits")
        items = self._artifacts.read_records(ref, SplitItem) if ref else []
        return approved_pairs(self.store, name, [item.pair.question for item in items if item.split in HELD_OUT])

    def _items(self, plan: StudyPlan, sources: Sequence[str]) -> list[StudyItem]:
        seed = self.settings.seed
        if not sources:
            return self._traffic(plan.count, seed)
        answers: list[list[ScoredAnswer]] = [read_answers(file) for file in plan.files]
        if plan.models:
            sets = self._sets()
            answers = [answers_of(sets, model, plan.split) for model in plan.models]
        if plan.mode == "pairwise":
            return pairwise_items(answers[0], answers[1], (sources[0], sources[1]), plan.count, seed)
        return rating_items(dict(zip(sources, answers, strict=True)), plan.count, seed)

    def _traffic(self, count: int, seed: int) -> list[StudyItem]:
        log = FeedbackLog(self.settings.feedback_url)
        try:
            responses = log.newest_responses(_OFFERED * count)
        finally:
            log.close()
        return traffic_items(responses, self.chunks(), count, seed)

    def _sets(self) -> list[AnswerSet]:
        ref = self._artifacts.current("eval_answers")
        if ref is None:
            raise DatasetError(
                "There are no answers to held-out questions yet.",
                fix="run `ragtune materialize`, or take answers of live traffic or of files",
            )
        return self._artifacts.read_records(ref, AnswerSet)


def _source(plan: StudyPlan, sources: Sequence[str]) -> str:
    """Return where the answers of a study come from, for people."""
    if plan.files:
        return f"the files {', '.join(sources)}"
    return f"{', '.join(sources)} on {plan.split}" if sources else "live traffic"
