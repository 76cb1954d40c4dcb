"""`shadow`: mirrors live requests to further versions, and compares the pairs of answers."""

from dataclasses import asdict
from typing import Annotated

import typer

from ragtune.errors import SettingsError
from ragtune.evaluation.judges import RubricJudge
from ragtune.evaluation.studies.store import StudyStore
from ragtune.experiments.pair_judging import judge_pairs
from ragtune.experiments.shadow_report import VersionReport, report, start_shadow
from ragtune.settings import Settings, load_settings
from ragtune.store.registry import ModelRegistry
from ragtune.store.shadows import Shadow, ShadowDesign, ShadowStore
from ragtune.text.counts import counted
from ragtune_serving.audit import record_command
from ragtune_serving.studies import StudyDesk
from ragtune_serving.terminal import out, print_json

app = typer.Typer(help="Mirror live requests to further versions.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="the shadow deployment")]
Json = Annotated[bool, typer.Option("--json", help="print as JSON")]


@app.command("start")
def start(
    name: Annotated[str, typer.Argument(help="a new name")],
    version: Annotated[list[str], typer.Option(help="a version in the registry; may be repeated")],
    share: Annotated[float, typer.Option(help="share of the requests, from 0 to 1")] = 0.1,
    key_share: Annotated[list[str] | None, typer.Option(help="another share of a key: KEY=SHARE")] = None,
    requests: Annotated[int, typer.Option(min=0, help="requests of each version in all")] = 10_000,
    tokens: Annotated[int, typer.Option(min=0, help="tokens of each version in all")] = 10_000_000,
    queue: Annotated[int, typer.Option(min=1, help="requests that may wait")] = 100,
    when_idle: Annotated[bool, typer.Option(help="wait until no engine has a request")] = True,
) -> None:
    """Start to mirror. Users never wait for it; a running gateway follows within seconds."""
    settings = load_settings()
    design = ShadowDesign(
        versions=tuple(version),
        share=share,
        requests=requests,
        tokens=tokens,
        queue=queue,
        shares_of_keys=dict(_share_of_key(text) for text in key_share or ()),
        when_idle=when_idle,
    )
    shadow = start_shadow(name, design, settings, ModelRegistry(settings), _store(settings))
    record_command(settings.home, "shadow start", name)
    out.print(f"Started '{shadow.name}': {share:.0%} of the requests are mirrored to version {', '.join(version)}.")


@app.command("status")
def status(name: Name, json_: Json = False) -> None:
    """Say what became of the sampled requests, and what the pairs show."""
    settings = load_settings()
    store = _store(settings)
    shadow = store.get(name)
    reports = report(shadow, store, StudyStore(settings.feedback_url))
    if json_:
        print_json([{"version": one.paired.version, "counts": one.counts, **_plain(one)} for one in reports])
        return
    out.print("\n".join(_lines(shadow, reports)))


@app.command("judge")
def judge(
    name: Name,
    count: Annotated[int, typer.Option(min=1, help="at most this many pairs of each version")] = 100,
) -> None:
    """Let the language model of evaluation.judge compare pairs that it has not compared yet, with swapped sides."""
    settings = load_settings()
    if not settings.evaluation.judge.model:
        raise SettingsError(
            "No judge is configured.",
            "a language model in the setting evaluation.judge.model",
            f"set it, or let people vote: `ragtune evaluate create STUDY --shadow {name}`",
        )
    store = _store(settings)
    shadow = store.get(name)
    model = RubricJudge(settings.evaluation.judge, settings.home / "cache" / "answer_judge", settings.seed)
    desk = StudyDesk(settings)
    done = judge_pairs(model, shadow, store, desk.chunks(), count)
    out.print(f"The judge {model.name} compared {counted(done, 'pair')}.")
    for one in report(shadow, store, desk.store):
        for sentence in one.words:
            out.print(f"  {sentence}")


@app.command("stop")
def stop(name: Name) -> None:
    """Stop mirroring for good."""
    settings = load_settings()
    _store(settings).stop(name)
    record_command(settings.home, "shadow stop", name)
    out.print(f"Stopped '{name}'.")


@app.command("list")
def list_(json_: Json = False) -> None:
    """List all shadow deployments, oldest first."""
    shadows = _store(load_settings()).list()
    if json_:
        print_json([{"name": s.name, "started_at": s.started_at, "stopped_at": s.stopped_at} for s in shadows])
        return
    if not shadows:
        out.print("Nothing was mirrored yet. Start with `ragtune shadow start NAME --version VERSION`.")
    for shadow in shadows:
        state = "stopped" if shadow.stopped_at else "running"
        out.print(f"{shadow.name:<20} {state}  {shadow.started_at}  version {', '.join(shadow.design.versions)}")


def _share_of_key(text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    try:
        return name, float(share)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is not KEY=SHARE, such as app=0.5") from error


def _store(settings: Settings) -> ShadowStore:
    return ShadowStore(settings.feedback_url)


def _plain(one: VersionReport) -> dict[str, object]:
    paired = one.paired
    return {
        "pairs": paired.pairs,
        "users": paired.users,
        "agreement": round(paired.agreement, 4),
        "same_refusals": round(paired.same_refusals, 4),
        "same_citations": round(paired.same_citations, 4),
        "words": [*paired.words, *one.words],
        "judges": {name: asdict(summary) for name, summary in one.judges.items()},
        "votes": [asdict(votes) for votes in one.votes],
    }


def _lines(shadow: Shadow, reports: list[VersionReport]) -> list[str]:
    """Return what a person reads about a shadow deployment."""
    lines = [f"'{shadow.name}' {'was stopped at ' + shadow.stopped_at if shadow.stopped_at else 'is running'}"]
    for one in reports:
        counts = ", ".join(f"{name} {count}" for name, count in one.counts.items() if count) or "none yet"
        paired = one.paired
        lines.append(f"version {paired.version}: {paired.pairs} pairs of {paired.users} users ({counts})")
        if paired.pairs:
            lines.append(
                f"  agreement {paired.agreement:.2f} (token F1), same refusal {paired.same_refusals:.0%}, "
                f"same citations {paired.same_citations:.0%}"
            )
            lines += [f"  {words}" for words in (*paired.words, *one.words)]
    return lines
