"""The routes for clients that send scores as to Langfuse, also through LiteLLM's pass-through `/langfuse`.

A score becomes a verdict on the response that its trace id names. Only scores that people give count: a score of a
program, such as `toxicity`, is no thumb. So the setting `feedback.scores` names them, and says how to read their
values.
"""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from ragtune.errors import SettingsError
from ragtune.settings import ScoreScale
from ragtune.store.feedback import LONGEST_TAG, MOST_STARS, Verdict, thumb_of
from ragtune_serving.problems import explain, problem
from ragtune_serving.rating_desk import RatingDesk
from ragtune_serving.schema import ErrorBody
from ragtune_serving.score_schema import (
    EVENT_PATH,
    MOST_SCORES,
    SCORE_PATH,
    Ingestion,
    IngestionError,
    IngestionResults,
    IngestionSuccess,
    Score,
    ScoreError,
    ScoreResults,
    ScoresAccepted,
    ScoreStored,
)

Scales = Mapping[str, ScoreScale]
WORDS = {
    **dict.fromkeys(("up", "thumbs up", "positive", "good", "like", "yes", "true", "helpful", "correct"), "up"),
    **dict.fromkeys(("down", "thumbs down", "negative", "bad", "dislike", "no", "false"), "down"),
    **dict.fromkeys(("unhelpful", "not helpful", "incorrect", "wrong"), "down"),
    **dict.fromkeys(("neutral", "ok", "okay"), "neutral"),
}
"""{category of a score in lower case: rating}. Chosen by hand from what clients offer."""
_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "a wrong field; the message lists the valid ones"},
    401: {"model": ErrorBody, "description": "no key, or a key that is not accepted"},
    403: {"model": ErrorBody, "description": "the role of the key does not include this route"},
    404: {"model": ErrorBody, "description": "no such response"},
}


def add_score_routes(router: APIRouter, desk: RatingDesk, scales: Callable[[], Scales]) -> None:
    """Add the routes of Langfuse's clients; `scales` returns the setting `feedback.scores`."""

    def store(content: Any, scope: Mapping[str, Any]) -> str | Response:
        """Store one score, and return its id or the response that says what is wrong."""
        try:
            score = Score.model_validate(content)
            event = desk.rate(verdict_of(score, scales()), scope)
        except ValidationError as error:
            return problem(400, *explain(error.errors(), None))
        except SettingsError as error:
            return problem(400, str(error), "value")
        return event if isinstance(event, Response) else score.id or event.id

    @router.post(
        SCORE_PATH,
        tags=["feedback"],
        response_model=ScoreStored,
        responses={
            **_RESPONSES,
            202: {"model": ScoresAccepted, "description": "all scores of a list were stored"},
            207: {"model": ScoreResults, "description": "some scores of a list were not stored"},
        },
        summary="Rate a response as Langfuse's clients do, or a list of responses",
    )
    def scores(
        body: Annotated[dict[str, Any] | list[dict[str, Any]], Body(max_length=MOST_SCORES)], request: Request
    ) -> Response:
        if isinstance(body, dict):
            stored = store(body, request.scope)
            return stored if isinstance(stored, Response) else JSONResponse(ScoreStored(id=stored).model_dump())
        refusals = [one for one in (store(score, request.scope) for score in body) if isinstance(one, Response)]
        if not refusals:
            return JSONResponse(ScoresAccepted().model_dump(), 202)
        errors = [ScoreError(message=_message(refusal)) for refusal in refusals]
        results = ScoreResults(accepted=len(body) - len(errors), rejected=len(errors), errors=errors)
        return JSONResponse(results.model_dump(), 207)

    @router.post(
        EVENT_PATH,
        tags=["feedback"],
        status_code=207,
        responses={code: _RESPONSES[code] for code in (400, 401, 403)},
        summary="Rate responses as Langfuse's older clients do: events of the type `score-create`",
    )
    def ingestion(body: Ingestion, request: Request) -> IngestionResults:
        results = IngestionResults(successes=[], errors=[])
        for event in body.batch:
            if event.type != "score-create":
                message = f"The type is '{event.type}'. Expected: score-create, because traces are not stored here."
                results.errors.append(IngestionError(id=event.id, status=400, message=message))
                continue
            stored = store(event.body, request.scope)
            if isinstance(stored, Response):
                error = IngestionError(id=event.id, status=stored.status_code, message=_message(stored))
                results.errors.append(error)
            else:
                results.successes.append(IngestionSuccess(id=event.id))
        return results


def verdict_of(score: Score, scales: Scales) -> Verdict:
    """Return the verdict that a score stands for; its name becomes a tag.

    Raises:
        SettingsError: the name is not that of a verdict, or the value cannot be read.
    """
    rating, stars, correction = "", 0, ""
    if score.data_type == "CORRECTION":
        if not isinstance(score.value, str):
            raise SettingsError(f"The correction is {score.value}.", "the text of the right answer")
        rating, correction = "down", score.value
    elif score.data_type == "TEXT":
        raise SettingsError("A text alone is no verdict.", "a score with a value", "send the text as its `comment`")
    else:
        scale = _scale(score.name, scales)
        if isinstance(score.value, str):
            rating = _rating_of_word(score.value)
        elif scale == "stars" and score.data_type != "BOOLEAN" and not isinstance(score.value, bool):
            stars = _stars(score.value)
            rating = thumb_of(stars)
        else:
            rating = _thumb(score.value)
    return Verdict(
        response_id=score.trace_id,
        rating=rating,
        stars=stars,
        correction=correction,
        comment=score.comment or "",
        tags=(score.name[:LONGEST_TAG],),
        id=score.id,
    )


def _scale(name: str, scales: Scales) -> ScoreScale:
    """Return how the values of a score are read; `User_Feedback` and `user feedback` are `user-feedback`."""
    by_name = {_plain_words(known): scale for known, scale in scales.items()}
    if _plain_words(name) not in by_name:
        raise SettingsError(
            f"The score '{name}' is not known to be a verdict of a person.",
            f"one of {', '.join(sorted(scales))}",
            "add the name to the setting feedback.scores if people give it",
        )
    return by_name[_plain_words(name)]


def _plain_words(text: str) -> str:
    """Return a name or a category in lower case, with one space between its words."""
    return " ".join(text.lower().replace("_", " ").replace("-", " ").split())


def _rating_of_word(value: str) -> str:
    word = _plain_words(value)
    if word not in WORDS:
        raise SettingsError(f"The value of the score is '{value}'.", f"one of {', '.join(WORDS)}")
    return WORDS[word]


def _stars(value: float) -> int:
    if value not in range(1, MOST_STARS + 1):  # also refuses NaN and infinity, which Python's JSON reads
        raise SettingsError(f"The value of the score is {value}.", f"1 to {MOST_STARS} stars")
    return int(value)


def _thumb(value: float) -> str:
    """Return the rating of a number from 0 to 1, or of -1: the halves are thumbs, and 0.5 is neutral."""
    if not (0 <= value <= 1 or value == -1):
        raise SettingsError(f"The value of the score is {value}.", "0 or -1 for down, 1 for up, or a number between")
    return "neutral" if value == 0.5 else "up" if value > 0.5 else "down"


def _message(refusal: Response) -> str:
    """Return the sentence of a refusal."""
    message: str = json.loads(bytes(refusal.body))["error"]["message"]
    return message
