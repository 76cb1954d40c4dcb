"""Takes verdicts on responses: who may rate which response, and what is stored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Response

from ragtune.errors import FeedbackError
from ragtune.records import FeedbackEvent
from ragtune.store.feedback import FeedbackLog, Verdict
from ragtune_serving.metrics import Metrics
from ragtune_serving.problems import problem
from ragtune_serving.recorder import ResponseRecorder

_OWN_ONLY = ("application",)
"""Roles that rate only what their own key got; the others are people who look at answers of all keys."""
_RECORD_SECONDS = 2.0
"""How long feedback waits for its response to be recorded, which takes milliseconds; chosen by hand."""


def own_only(role: str) -> bool:
    """Return whether a role sees only the responses and verdicts of its own key."""
    return role in _OWN_ONLY


@dataclass(frozen=True, slots=True)
class RatingDesk:
    """Stores verdicts in the feedback log, and counts them."""

    log: FeedbackLog
    recorder: ResponseRecorder
    metrics: Metrics

    def rate(self, verdict: Verdict, scope: Mapping[str, Any]) -> FeedbackEvent | Response:
        """Store a verdict in the name of the request's key, once; return it, or the response that says what is wrong.

        Raises:
            FeedbackError: the response that it rates is not recorded yet.
        """
        if self.recorder.holds(verdict.response_id, _RECORD_SECONDS):
            raise FeedbackError("The response is not recorded yet.", fix="try again when the log can be written")
        key, only = scope["ragtune_key"], scope.get("ragtune_rates", verdict.response_id)
        if verdict.response_id != only:
            return problem(403, f"This token is for the response {only} only.", "response_id")
        response = self.log.response(verdict.response_id)
        # Whether somebody else got such a response is none of the key's business.
        if response is None or (response.key not in ("", key.name) and own_only(key.role)):
            return problem(404, f"This key got no response '{verdict.response_id}'.", "response_id")
        try:
            event, new = self.log.add_verdict(replace(verdict, user=key.name))
        except FeedbackError as error:
            return problem(400, str(error))
        if new:
            self.metrics.feedback.labels(event.rating).inc()
        return event
