import time

import dagster as dg
import pytest

from ragtune.dataset.reviews.store import ReviewStore
from ragtune.records import Chunk, FeedbackEvent, QAPair, ResponseRecord
from ragtune.settings import FeedbackSettings, Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.feedback import FeedbackLog
from ragtune_assets.asking_again import FIRST_PAUSE, LONGEST_PAUSE, REASON, Attempts, request_run
from ragtune_assets.automation import SENSOR, when_inputs_change
from ragtune_assets.feedback import (
    enough_new_feedback,
    enough_new_reviews,
    feedback_events,
    last_sequence,
    review_decisions,
)
from ragtune_assets.resources import build_resources

CHUNK = Chunk(
    id="c1",
    document_id="d",
    source="s",
    title="Letters",
    heading_path=(),
    text="The letter x stands for a sum. The letter y stands for a product.",
    position=0,
)


@pytest.fixture
def settings(tmp_path) -> Settings:
    settings = load_settings({"home": tmp_path, "feedback": {"retrain_after": 2}})
    store = ArtifactStore(tmp_path / "artifacts")
    store.set_current(store.write_records("chunks", [CHUNK]))
    return settings


@pytest.fixture
def log(settings):
    log = FeedbackLog(settings.feedback_url)
    for number in range(1, 5):
        log.record_response(
            ResponseRecord(
                id=f"r{number}",
                created_at="2026-01-01",
                question=f"What is x{number}?",
                answer="y",
                model="ragtune",
                model_version="1",
                chunk_ids=("c1",),
                cited_chunk_ids=("c1",),
                refused=False,
            )
        )
    yield log
    log.close()


@pytest.fixture
def reviews(settings):
    reviews = ReviewStore(settings.feedback_url)
    yield reviews
    reviews.close()


class Sensors:
    """The two sensors of a home, each with its cursor, as the daemon evaluates them."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings, log: FeedbackLog, reviews: ReviewStore):
        self.instance = instance
        store = ArtifactStore(settings.home / "artifacts")
        self.resources = {"settings": settings, "store": store, "feedback_log": log, "reviews": reviews}
        self.cursors: dict[object, str | None] = {}

    def look(self, sensor):
        """Return what a sensor requests."""
        context = dg.build_sensor_context(self.instance, resources=self.resources, cursor=self.cursors.get(sensor.name))
        found = sensor(context)
        self.cursors[sensor.name] = context.cursor
        return found

    def build(self, *assets) -> None:
        """Build assets without a sensor."""
        resources = {**build_resources(self.resources["settings"]), **self.resources}
        assert dg.materialize(list(assets), instance=self.instance, resources=resources).success


@pytest.fixture
def sensors(settings, log, reviews):
    with dg.DagsterInstance.ephemeral() as instance:
        yield Sensors(instance, settings, log, reviews)


def pair_of(event: FeedbackEvent) -> QAPair:
    """Return the pair that reviewers see of a correction."""
    return QAPair(
        id="p", question=event.question, answer=event.correction, kind="correction", document_id="d", chunk_id="c1"
    )


def test_enough_accepted_corrections_request_one_retraining(sensors, log, reviews):
    events = [log.add(f"r{number}", "down", correction="It stands for a sum.") for number in (1, 2, 3)]
    assert sensors.look(enough_new_feedback).skip_message == "0 new corrections can train; 2 are needed."
    reviews.decide(pair_of(events[0]), "ada", "accept")
    assert sensors.look(enough_new_feedback).skip_message == "1 new corrections can train; 2 are needed."
    reviews.decide(pair_of(events[2]), "ada", "accept")
    request = sensors.look(enough_new_feedback)
    assert isinstance(request, dg.RunRequest)
    assert request.tags == {"ragtune/new_feedback": "2", REASON: "feedback-after-0-0"}
    sensors.build(feedback_events, review_decisions)
    assert last_sequence(sensors.instance, "feedback_events") == 3
    assert sensors.look(enough_new_feedback).skip_message == "0 new corrections can train; 2 are needed."


def test_without_approval_corrections_that_pass_the_checks_request_a_retraining(settings, log, reviews):
    settings = settings.model_copy(update={"feedback": FeedbackSettings(retrain_after=2, approval=False)})
    with dg.DagsterInstance.ephemeral() as instance:
        sensors = Sensors(instance, settings, log, reviews)
        log.add("r1", "down", correction="It stands for a sum.")
        log.add("r2", "down", correction="Bees dance under moonlight.")
        assert sensors.look(enough_new_feedback).skip_message == "1 new corrections can train; 2 are needed."
        log.add("r3", "down", correction="It stands for a product.")
        assert sensors.look(enough_new_feedback).tags["ragtune/new_feedback"] == "2"


def test_feedback_that_trains_nothing_requests_nothing_and_is_looked_at_once(sensors, log, reviews):
    for user in ("ann", "bob", "eve"):
        log.add("r1", "down", user=user)
        bad = log.add("r2", "down", correction=f"It stands for a sum of {user}.", user=user)
        reviews.decide(pair_of(bad), "ada", "reject")
    assert sensors.look(enough_new_feedback).skip_message == "0 new corrections can train; 2 are needed."
    assert sensors.look(enough_new_feedback).skip_message == "No correction and no decision came since the last look."
    assert "0 new verdicts since number 0" in sensors.look(enough_new_reviews).skip_message
    assert "since the last look" in sensors.look(enough_new_reviews).skip_message


def test_a_correction_that_is_rejected_after_it_trained_counts_as_a_review(sensors, log, reviews):
    events = [log.add(f"r{number}", "down", correction="It stands for a sum.") for number in (1, 2)]
    for event in events:
        reviews.decide(pair_of(event), "ada", "accept")
    sensors.build(feedback_events, review_decisions)
    for event in events:
        reviews.decide(pair_of(event), "ada", "reject")
    assert sensors.look(enough_new_reviews).tags["ragtune/new_reviews"] == "2"


def test_enough_new_reviews_request_retraining_and_comments_do_not_count(sensors, reviews):
    pair = QAPair(id="p", question="What is x?", answer="It is y.", kind="purpose", document_id="d", chunk_id="c")
    reviews.decide(pair, "ada", "accept")
    reviews.decide(pair, "ada", "comment", comment="Hm.")
    assert isinstance(sensors.look(enough_new_reviews), dg.SkipReason)
    reviews.decide(pair, "bob", "reject")
    assert sensors.look(enough_new_reviews).tags == {"ragtune/new_reviews": "2", REASON: "reviews-after-0"}
    sensors.build(review_decisions)
    assert "0 new verdicts since number 3" in sensors.look(enough_new_reviews).skip_message


def test_feedback_events_hold_the_corrections_with_their_question(sensors, log):
    event = log.add("r1", "down", correction="x is z")
    sensors.build(feedback_events)
    store = sensors.resources["store"]
    assert store.read_records(store.current("feedback_events"), FeedbackEvent) == [event]
    assert event.question == "What is x1?"


@dg.asset
def wanted() -> None:
    """Stand for what a sensor asks for."""


def run_of(instance: dg.DagsterInstance, request: dg.RunRequest, status: dg.DagsterRunStatus) -> str:
    """Do what the daemon does with a request, and let the run end with this status."""
    job = dg.Definitions([wanted]).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, tags=request.tags, status=dg.DagsterRunStatus.STARTED)
    if status == dg.DagsterRunStatus.FAILURE:
        instance.report_run_failed(run)
    return run.run_id


def test_a_sensor_asks_again_after_a_failed_run_once_the_pause_is_over(monkeypatch):
    with dg.DagsterInstance.ephemeral() as instance:
        first = request_run(instance, "feedback-after-0")
        assert isinstance(first, dg.RunRequest)
        run_id = run_of(instance, first, dg.DagsterRunStatus.FAILURE)
        resting = request_run(instance, "feedback-after-0")
        assert isinstance(resting, dg.SkipReason)
        assert f"1 runs failed, the last one is {run_id[:8]}" in resting.skip_message
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + FIRST_PAUSE + 1)
        second = request_run(instance, "feedback-after-0")
        assert isinstance(second, dg.RunRequest)
        assert second.run_key != first.run_key, "Dagster starts no second run with the same key"
        assert isinstance(request_run(instance, "feedback-after-3"), dg.RunRequest), "another reason starts afresh"


def test_a_sensor_waits_for_the_run_that_it_asked_for():
    with dg.DagsterInstance.ephemeral() as instance:
        request = request_run(instance, "feedback-after-0")
        run_id = run_of(instance, request, dg.DagsterRunStatus.STARTED)
        assert request_run(instance, "feedback-after-0").skip_message == f"Run {run_id[:8]} is under way."


def test_the_pause_doubles_up_to_six_hours_and_ends_if_the_clock_is_set_back():
    pauses = [Attempts(failed, ended_at=1000.0).seconds_left(1000.0) for failed in range(12)]
    assert pauses[:4] == [0.0, FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE
    assert Attempts(1, ended_at=1000.0).seconds_left(1000.0 + FIRST_PAUSE) == 0.0
    assert Attempts(11, ended_at=1000.0).seconds_left(999.0) == 0.0


class Line:
    """A graph `root` > `middle` > `last`; `middle` cuts its input to one character."""

    def __init__(self) -> None:
        self.content = "a1"

    def definitions(self) -> dg.Definitions:
        @dg.asset(code_version="1")
        def root() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.content))

        @dg.asset(deps=[root], code_version="1", automation_condition=when_inputs_change())
        def middle() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(self.content[0]))

        @dg.asset(deps=[middle], code_version="1", automation_condition=when_inputs_change())
        def last() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(f"{self.content[0]} last"))

        return dg.Definitions(assets=[root, middle, last])


def tick_until_quiet(line: Line, instance: dg.DagsterInstance, cursor) -> tuple[list[list[str]], object]:
    """Do what the automation sensor does until it requests nothing; return the layers that ran and the cursor."""
    defs, layers = line.definitions(), []
    for _ in range(8):
        result = dg.evaluate_automation_conditions(defs, instance, dg.AssetSelection.all(), cursor=cursor)
        cursor = result.cursor
        keys = sorted({evaluated.key for evaluated in result.results if evaluated.true_subset.size}, key=str)
        if not keys:
            return layers, cursor
        layers.append([key.to_user_string() for key in keys])
        defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, asset_selection=keys)
    raise AssertionError(f"automation did not come to rest: {layers}")


def test_automation_rebuilds_layer_by_layer_and_stops_at_equal_content():
    line = Line()
    with dg.DagsterInstance.ephemeral() as instance:
        job = line.definitions().resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=instance)
        layers, cursor = tick_until_quiet(line, instance, None)
        assert layers == []
        for content, expected in [("b1", [["middle"], ["last"]]), ("b2", [["middle"]]), ("b2", [])]:
            line.content = content
            root = dg.AssetKey("root")
            line.definitions().resolve_implicit_global_asset_job_def().execute_in_process(
                instance=instance, asset_selection=[root]
            )
            layers, cursor = tick_until_quiet(line, instance, cursor)
            assert layers == expected, content


def test_an_asset_with_a_short_and_a_long_way_to_the_source_is_built_once():
    content = "1"

    def build(name: str, *deps: str):
        @dg.asset(
            name=name, deps=list(deps), code_version="1", automation_condition=when_inputs_change() if deps else None
        )
        def asset() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(content))

        return asset

    class Diamond(Line):
        def definitions(self) -> dg.Definitions:
            names = [("source",), ("index", "source"), ("pairs", "source"), ("splits", "pairs")]
            return dg.Definitions(
                [build(*name) for name in [*names, ("adapter", "index", "splits"), ("end", "adapter", "source")]]
            )

    line = Diamond()
    with dg.DagsterInstance.ephemeral() as instance:
        line.definitions().resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
        _, cursor = tick_until_quiet(line, instance, None)
        content = "2"
        job = line.definitions().resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("source")])
        layers, _ = tick_until_quiet(line, instance, cursor)
    assert layers == [["index", "pairs"], ["splits"], ["adapter"], ["end"]]


def test_automation_builds_an_asset_again_after_a_failure_and_a_pause(monkeypatch):
    breaks = True

    class Breaking(Line):
        def definitions(self) -> dg.Definitions:
            @dg.asset(code_version="1")
            def root() -> dg.MaterializeResult:
                return dg.MaterializeResult(data_version=dg.DataVersion(self.content))

            @dg.asset(deps=[root], code_version="1", automation_condition=when_inputs_change())
            def middle() -> dg.MaterializeResult:
                if breaks:
                    raise ValueError("The disk is full.")
                return dg.MaterializeResult(data_version=dg.DataVersion(self.content))

            return dg.Definitions(assets=[root, middle])

    line, root, middle = Breaking(), dg.AssetKey("root"), dg.AssetKey("middle")
    job = line.definitions().resolve_implicit_global_asset_job_def()

    def tick(instance: dg.DagsterInstance, cursor):
        result = dg.evaluate_automation_conditions(line.definitions(), instance, dg.AssetSelection.all(), cursor=cursor)
        keys = [evaluated.key for evaluated in result.results if evaluated.true_subset.size]
        if keys:
            job.execute_in_process(
                instance=instance, asset_selection=keys, raise_on_error=False, tags={"dagster/sensor_name": SENSOR}
            )
        return keys, result.cursor

    with dg.DagsterInstance.ephemeral() as instance:
        breaks = False
        job.execute_in_process(instance=instance)
        breaks, line.content = True, "b"
        _, cursor = tick(instance, None)
        job.execute_in_process(instance=instance, asset_selection=[root])
        keys, cursor = tick(instance, cursor)
        assert keys == [middle]
        keys, cursor = tick(instance, cursor)
        assert keys == [], "it has just failed"
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + FIRST_PAUSE + 1)
        breaks = False
        keys, cursor = tick(instance, cursor)
        assert keys == [middle]
        assert tick(instance, cursor)[0] == [], "it is fresh"
