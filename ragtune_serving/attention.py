"""What in a home needs a person's attention: collects the problems of the disk, the asset graph and the gateway."""

import json
import shutil
import subprocess
import sys
from contextlib import closing
from typing import Any

from ragtune.errors import RagTuneError
from ragtune.settings import Settings, child_environment
from ragtune.store.problems import Problem, problems_on_disk
from ragtune_serving.address import gateway_runs
from ragtune_serving.client import GatewayClient, gateway_url
from ragtune_serving.refused_champion import refused_champion

_SECONDS = 120.0
"""How long to wait for the asset wing: it imports Dagster, which takes seconds, and more on a busy machine."""
_RESTARTS = 3
"""Restarts of an engine that are a problem. Chosen by hand: one or two happen if memory is short for a moment."""


def problems(settings: Settings, gateway: dict[str, Any]) -> list[Problem]:
    """Return everything that needs a person, the worst first; `gateway` is what the gateway's `/status` returned."""
    rows = [
        *problems_on_disk(settings, shutil.disk_usage(settings.home).free),
        *problems_of_graph(settings),
        *problems_of_gateway(gateway),
    ]
    order = ("full", "broken", "stuck", "failed", "worse", "refused", "stale")
    return sorted(rows, key=lambda problem: order.index(problem.kind))


def gateway_status(settings: Settings) -> dict[str, Any]:
    """Return what the gateway's `/status` says, with its URL and `answers`: whether it said anything.

    If it did not, `error` and `fix` say why and what to do, and nothing is known about engines.
    """
    url = gateway_url(settings)
    try:
        with closing(GatewayClient(settings)) as client:
            return {"url": url, "answers": True, **client.status()}
    except RagTuneError as error:
        return {"url": url, "answers": False, "live": None, "error": error.found, "fix": _how_to_reach(settings)}


def gateway_away(gateway: dict[str, Any]) -> list[Problem]:
    """Return the problem that no gateway answers, or nothing; `gateway` is what `gateway_status` returned.

    It is not one of `problems`, because a home may be built and looked at without a gateway.
    """
    if gateway["answers"]:
        return []
    return [Problem("broken", "no gateway", f"{gateway['error']} (GET {gateway['url']}/status)", gateway["fix"])]


def _how_to_reach(settings: Settings) -> str:
    if settings.gateway_url:
        return "correct RAGTUNE_GATEWAY_URL and RAGTUNE_API_KEY, or start the gateway there"
    if gateway_runs(settings):
        return f"wait if it has just been started; otherwise read {settings.home / 'logs' / 'gateway.log'}"
    return "run `ragtune serve`, or `ragtune up` for everything"


def problems_of_graph(settings: Settings) -> list[Problem]:
    """Return what the asset wing reports; a problem in itself if it cannot."""
    if not (settings.home / "dagster").is_dir():
        return []
    # In a process of its own, because the wings do not import each other.
    environment = child_environment(RAGTUNE_HOME=str(settings.home))
    command = [sys.executable, "-m", "ragtune_assets.health"]
    try:
        reply = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return [Problem("stuck", "Dagster", f"Dagster's files gave no answer in {_SECONDS:.0f} s", "run it again")]
    if reply.returncode < 0:
        what = f"the look at the asset graph was ended by signal {-reply.returncode}"
        return [Problem("broken", "Dagster", what, "free some memory, which is the usual cause, and look again")]
    if reply.returncode:
        reason = (reply.stderr.strip().splitlines() or ["no reason given"])[-1]
        return [Problem("broken", "Dagster", f"the asset graph cannot be read: {reason}", "run `ragtune doctor`")]
    return [Problem(**row) for row in json.loads(reply.stdout.splitlines()[-1])]


def problems_of_gateway(gateway: dict[str, Any]) -> list[Problem]:
    """Return the engines that restart again and again, a missing index, and a champion that the gateway refuses."""
    rows = []
    refused = refused_champion(gateway)
    for role in ("live", "next", "comparison"):
        engine = gateway.get(role) or {}
        is_named_below = refused is not None and engine.get("version") == refused.version
        if engine.get("restarts", 0) >= _RESTARTS and not is_named_below:
            what = f"the engine of version {engine['version']} restarted {engine['restarts']} times: {engine['error']}"
            rows.append(Problem("broken", f"engine {engine['version']}", what, "see the logs of the home"))
    if gateway.get("live") and not gateway.get("retrieval", True):
        what = "there is no index, so answers are not from your documents"
        rows.append(Problem("broken", "index", what, "run `ragtune index`"))
    if refused is not None:
        what = f"version {refused.version} is the champion, but {refused.served} is served: {refused.reason}"
        rows.append(Problem("broken", "gateway", what, "run `ragtune rollback`, or fix what the message names"))
    return rows
