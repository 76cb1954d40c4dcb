"""`status`, `rollback` and `doctor`: show what is live, go back to the previous model, check the installation."""

import shutil
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ragtune.errors import RagTuneError
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.disk_use import disk_use, in_words
from ragtune.store.feedback import FeedbackLog
from ragtune.store.home_lock import builder
from ragtune.store.problems import Problem
from ragtune.store.registry import ALIASES, ModelRegistry
from ragtune.text.counts import counted
from ragtune_serving.attention import gateway_away, gateway_status, problems
from ragtune_serving.audit import record_command
from ragtune_serving.checks import examine
from ragtune_serving.terminal import out, print_json

ASSETS = (
    "raw_documents",
    "chunks",
    "search_index",
    "qa_dataset",
    "qa_splits",
    "base_model",
    "lora_adapter",
    "preference_adapter",
    "merged_model",
    "quantized_model",
    "eval_scores",
)
Json = Annotated[bool, typer.Option("--json", help="print as JSON")]


def status(json_: Json = False) -> None:
    """Show what is live, when each artefact was built, what uses the disk, and what needs a person."""
    report = collect(load_settings())
    if json_:
        print_json(report)
        return
    out.print(f"home        {report['home']}")
    out.print(f"gateway     {_gateway_line(report['gateway'])}")
    out.print(f"index       {_index_line(report['index'])}")
    for alias in ALIASES:
        out.print(f"{alias:<11} {report['aliases'][alias] or '-'}")
    feedback = report["feedback"]
    out.print(f"feedback    {counted(feedback['verdicts'], 'verdict')} on {counted(feedback['responses'], 'response')}")
    if report["building"]:
        out.print(f"building    {report['building']}")
    for name, built_at in report["artifacts"].items():
        out.print(f"  {name:<17} {built_at or '-'}")
    used = ", ".join(f"{kind} {in_words(size)}" for kind, size in report["disk"]["used"].items())
    out.print(f"disk        {in_words(report['disk']['free'])} free; {used or 'nothing used yet'}")
    show_problems(report["problems"], report["gateway"])


def _gateway_line(gateway: dict[str, Any]) -> str:
    if not gateway["answers"]:
        return "does not answer"
    live = gateway["live"] or {}
    state = f"{live['state']}, version {live['version']}" if live else gateway["error"] or "starting"
    return f"{gateway['url']}: {state}"


def show_problems(problems: list[dict[str, str]], gateway: dict[str, Any]) -> None:
    """Print whether the gateway answers, and what needs a person, each with its way out."""
    for away in gateway_away(gateway):
        out.print(f"No answers are given now, and engines were not looked at: {away.what}")
        out.print(f"           how to fix: {away.fix}")
    if not problems:
        looked_at = "Nothing" if gateway["answers"] else "Nothing that is on the disk"
        out.print(f"{looked_at} needs your attention.")
        return
    out.print(
        f"{len(problems)} things need your attention:" if len(problems) > 1 else "One thing needs your attention:"
    )
    for problem in problems:
        out.print(f"  {problem['kind']:<8} {problem['what']}")
        out.print(f"           how to fix: {problem['fix']}")


def collect(settings: Settings) -> dict[str, Any]:
    """Return everything that `ragtune status` shows; if the gateway does not answer, its error is part of it."""
    settings.home.mkdir(parents=True, exist_ok=True)
    gateway = gateway_status(settings)
    rows = problems(settings, gateway)
    names, released_at = _names(settings)
    return {
        "home": str(settings.home),
        "gateway": gateway,
        "index": _index(settings),
        "aliases": names,
        "released_at": released_at,
        "feedback": _feedback(settings, rows),
        "artifacts": {name: _built_at(settings, name) for name in ASSETS},
        "building": builder(settings.home),
        "disk": {"free": shutil.disk_usage(settings.home).free, "used": disk_use(settings.home)},
        "problems": [asdict(problem) for problem in rows],
    }


def rollback() -> None:
    """Make the previous champion the champion again; a running gateway switches to it."""
    settings = load_settings()
    model = ModelRegistry(settings).rollback()
    record_command(settings.home, "rollback", f"version {model.version}")
    out.print(f"Version {model.version} is the champion again. A running gateway switches to it within seconds.")


def doctor(json_: Json = False) -> None:
    """Check every dependency and the home, and say how to fix each problem; the exit code is 1 if there is one."""
    settings = load_settings()
    gateway = gateway_status(settings)
    findings, found = examine(settings), problems(settings, gateway)
    if json_:
        print_json([*(finding.__dict__ for finding in findings), *(_as_finding(problem) for problem in found)])
    else:
        for finding in findings:
            out.print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}: {finding.found}")
            if not finding.ok and finding.fix:
                out.print(f"      how to fix: {finding.fix}")
        out.print("")
        show_problems([asdict(problem) for problem in found], gateway)
    if found or not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _as_finding(problem: Problem) -> dict[str, Any]:
    return {"what": f"{problem.kind} {problem.subject}", "ok": False, "found": problem.what, "fix": problem.fix}


def _names(settings: Settings) -> tuple[dict[str, str | None], str | None]:
    """Return the version behind each alias, and when the champion was released; None if the registry is away."""
    registry = ModelRegistry(settings)
    try:
        champion = registry.usable_alias("champion")
        names: dict[str, str | None] = {alias: registry.alias_version(alias) for alias in ALIASES}
    except RagTuneError:
        return dict.fromkeys(ALIASES, None), None  # `problems` has looked at the registry, too, and says why
    return names, champion.manifest.created_at if champion else None


def _feedback(settings: Settings, found: list[Problem]) -> dict[str, int | None]:
    """Return the number of responses and verdicts; `found` gets what cannot be read."""
    try:
        log = FeedbackLog(settings.feedback_url)
        return {"responses": log.count_responses(), "verdicts": log.count_since(0)}
    except RagTuneError as error:
        found.append(Problem("broken", "feedback log", error.found, error.fix))
        return {"responses": None, "verdicts": None}


def _index(settings: Settings) -> dict[str, Any]:
    """Return how much the index holds; an index that cannot be read is part of the report, as `error`."""
    from ragtune.backends.catalog import embedder_from, search_index_from

    try:
        documents = search_index_from(settings, embedder_from(settings)).chunk_ids()
    except RagTuneError as error:
        return {"documents": 0, "passages": 0, "error": error.found}
    return {"documents": len(set(documents.values())), "passages": len(documents)}


def _index_line(index: dict[str, Any]) -> str:
    if "error" in index:
        return str(index["error"])
    counts = f"{counted(index['documents'], 'document')}, {counted(index['passages'], 'passage')}"
    return counts if index["passages"] else "none yet; `ragtune index` builds it"


def _built_at(settings: Settings, name: str) -> str | None:
    """Return the time (UTC) at which the current artefact of this name was written, or None if there is none."""
    from datetime import UTC, datetime

    store = ArtifactStore(settings.home / "artifacts")
    file = store.root / name / "current.json"
    if not file.is_file():
        return None
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
