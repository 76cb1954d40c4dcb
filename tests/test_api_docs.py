"""docs/api.md, the OpenAPI description and the real routes agree."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from ragtune_serving import experiment_schema, review_schema, schema, score_schema, study_schema
from ragtune_serving.api import build_api
from ragtune_serving.guard import OPEN_PATHS
from ragtune_serving.metrics import Metrics
from ragtune_serving.routes import Services, routes

TEXT = Path(__file__).parents[1].joinpath("docs", "api.md").read_text()

SERVICES = Services(None, None, None, None, None, None, None, Metrics(), 0.0, None, None, None, None)


@pytest.fixture(scope="module")
def api():
    return build_api(SERVICES)


def routes_of_the_page() -> set[str]:
    return set(re.findall(r"`((?:GET|POST) /[^`]*)`", TEXT))


def routes_of_openapi(api) -> set[str]:
    return {f"{method.upper()} {path}" for path, methods in api.openapi()["paths"].items() for method in methods}


def test_the_document_the_description_and_the_routes_are_the_same(api):
    real = {f"{method} {route.path}" for route in routes(SERVICES).routes for method in route.methods}
    assert routes_of_openapi(api) == routes_of_the_page() == real


@pytest.mark.parametrize(
    "shape",
    [
        schema.ChatRequest,
        schema.Controls,
        schema.ChatResponse,
        schema.RagTuneField,
        schema.CitedPassage,
        schema.ModelCard,
        schema.ChatMessage,
        schema.Choice,
        schema.EmbeddingRequest,
        schema.EmbeddingResponse,
        schema.Embedding,
        schema.FeedbackRequest,
        schema.FeedbackResponse,
        schema.ErrorDetail,
        review_schema.AssignmentRequest,
        review_schema.AssignmentResponse,
        review_schema.ReviewPairs,
        review_schema.ReviewPair,
        review_schema.ReviewRequest,
        review_schema.ReviewResponse,
        review_schema.ReviewProgress,
        study_schema.StudyCard,
        study_schema.StudyTasks,
        study_schema.StudyTask,
        study_schema.ShownText,
        study_schema.RatingRequest,
        study_schema.RatingResponse,
        study_schema.StudyReport,
        study_schema.AgreementOn,
        study_schema.Coefficient,
        study_schema.DisputedItem,
        study_schema.RatedModelShape,
        study_schema.AdjudicationRequest,
        study_schema.AdjudicationResponse,
        study_schema.ReviewAgreementReport,
        study_schema.DisputedPairShape,
        review_schema.ReviewerProgress,
        schema.Readiness,
        schema.Status,
        experiment_schema.ExperimentRequest,
        experiment_schema.ExperimentAction,
        experiment_schema.ExperimentCandidate,
        experiment_schema.ExperimentReport,
        experiment_schema.ExperimentList,
        experiment_schema.ExperimentReplay,
        experiment_schema.ShadowRequest,
        experiment_schema.ShadowVersion,
        experiment_schema.JudgedPairs,
        experiment_schema.VotedPairs,
        experiment_schema.ShadowReport,
        experiment_schema.ShadowList,
        score_schema.Score,
        score_schema.ScoreStored,
        score_schema.ScoresAccepted,
        score_schema.ScoreResults,
        score_schema.ScoreError,
        score_schema.Ingestion,
        score_schema.IngestionEvent,
        score_schema.IngestionResults,
        score_schema.IngestionSuccess,
        score_schema.IngestionError,
    ],
)
def test_every_field_is_in_the_document(shape):
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", TEXT))))
    assert set(names_of(shape)) <= words


def names_of(shape: type[BaseModel]) -> list[str]:
    """Return the fields of a body as they are sent."""
    return [field.alias or name for name, field in shape.model_fields.items()]


def test_every_request_field_in_the_document_exists():
    tables = TEXT.split("| request field | meaning |")[1:]
    shapes = [schema.ChatRequest, schema.EmbeddingRequest, schema.FeedbackRequest, score_schema.Score]
    shapes += [review_schema.AssignmentRequest, review_schema.ReviewRequest]
    shapes += [study_schema.RatingRequest, study_schema.AdjudicationRequest]
    for table, shape in zip(tables, shapes, strict=True):
        rows = re.findall(r"^\| `(\w+)` \|", table.split("\n\n")[0], re.MULTILINE)
        assert rows == names_of(shape)


def test_every_metric_is_in_the_document():
    text = Metrics().text().decode()
    names = set(re.findall(r"^# TYPE ((?:ragtune|gen_ai)_\w+) ", text, re.MULTILINE))
    names = {name for name in names if not name.endswith("_created")}
    rows = "\n".join(re.findall(r"^\| (`(?:ragtune|gen_ai)_.*?) \|", TEXT, re.MULTILINE))
    assert names == set(re.findall(r"`(\w+)`", rows))


def test_the_version_of_the_format_and_the_statuses_are_documented(api):
    assert f"Version of the format: **{schema.FORMAT}**" in TEXT
    statuses = {s for methods in api.openapi()["paths"].values() for m in methods.values() for s in m["responses"]}
    rows = set(re.findall(r"^\| (\d{3}) \|", TEXT, re.MULTILINE))
    assert statuses - {"200"} == rows


def test_the_page_says_which_routes_need_no_key():
    open_rows = set(re.findall(r"^\| `GET (\S+)` \| no \|", TEXT, re.MULTILINE))
    assert open_rows == {path for path in OPEN_PATHS if path.startswith("/health")}


def test_the_description_says_which_routes_need_a_key(api):
    for path, methods in api.openapi()["paths"].items():
        for operation in methods.values():
            assert bool(operation["security"]) == (path not in OPEN_PATHS)
