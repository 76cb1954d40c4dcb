"""`demo`: runs everything once, from documents to served answers with citations and their scores."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.table import Table

from ragtune.errors import EngineError, RagTuneError
from ragtune.extras import require
from ragtune.records import QAPair, Score, SplitItem
from ragtune.settings import Settings, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune.store.registry import ModelRegistry
from ragtune.store.warehouse import Warehouse
from ragtune_serving.address import check_port, gateway_runs
from ragtune_serving.client import GatewayClient
from ragtune_serving.commands.asking import show
from ragtune_serving.commands.running import materialize_command
from ragtune_serving.processes import Program, run_in_foreground, start, stop
from ragtune_serving.terminal import err, out, progress_bar

QUESTIONS = 3
KINDS = ("purpose", "how_to", "parameter", "returns", "definition", "condition")
"""Kinds of question that people ask most often, as far as we guess; the demo takes them in this order."""
METRICS = ("token_f1", "citation", "refusal_recall", "false_refusal", "retrieval_hit")
"""The metrics that tell most about an answer; the warehouse has all of them."""
_INDEX_SECONDS = 120
"""How long the gateway may take to load the index and the base model, in addition to the start of its engine; chosen
by hand, not sensitive."""


def demo() -> None:
    """Run the asset graph, serve the result, ask three questions and show what was measured."""
    require("graph")
    require("serve")
    settings = load_settings()
    if not _running(settings):
        check_port(settings.gateway.host, settings.gateway.port, "gateway.port")
    started = time.monotonic()
    err.rule("1 of 3: the asset graph")
    code = run_in_foreground(materialize_command([]))
    if code:
        raise typer.Exit(code)
    err.rule("2 of 3: the endpoint")
    with _gateway(settings) as client:
        for pair in demo_questions(settings):
            out.print(f"\nQ: {pair.question}", style="bold")
            show(client.ask(pair.question))
            out.print(f"  (expected answer: {pair.answer})", style="dim")
    err.rule("3 of 3: the scores")
    report(settings)
    out.print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")


def demo_questions(settings: Settings) -> list[QAPair]:
    """Return up to `QUESTIONS` answerable questions of the test split, of different kinds first; [] without a split."""
    store = ArtifactStore(settings.home / "artifacts")
    ref = store.current("qa_splits")
    items = store.read_records(ref, SplitItem) if ref else []
    pairs = [item.pair for item in items if item.split == "test" and item.pair.answerable]
    first_of_kind = {pair.kind: pair for pair in reversed(pairs)}
    questions = [first_of_kind[kind] for kind in KINDS if kind in first_of_kind]
    questions += [pair for pair in pairs if pair not in questions]
    return questions[:QUESTIONS]


def report(settings: Settings) -> None:
    """Print the scores with n and interval, the newest decision, and what to do next."""
    warehouse = Warehouse(settings.home / "warehouse.duckdb")
    scores = [score for score in warehouse.scores() if score.split == "test" and not score.origin and not score.part]
    out.print(score_table(scores))
    decisions = warehouse.decisions()
    if decisions:
        last = decisions[-1]
        verdict = "Promoted" if last.promoted else "Not promoted"
        out.print(f"{verdict}: {last.reason}")
        out.print(
            f"  {last.metric} {last.live:.3f} -> {last.candidate:.3f}, gain {last.gain:+.3f} "
            f"[{last.low:+.3f}, {last.high:+.3f}], n={last.n}; "
            f"the smallest gain that this test can detect is {last.smallest_detectable_gain:.3f}",
        )
        if last.out_of_domain_n:
            out.print(
                f"  questions about something else: {last.out_of_domain_gain:+.3f} "
                f"[{last.out_of_domain_low:+.3f}, {last.out_of_domain_high:+.3f}], n={last.out_of_domain_n}",
            )
    champion = ModelRegistry(settings).alias("champion")
    if champion:
        served = champion.manifest.served_precision
        out.print(f"Champion: version {champion.version}, served as {served}, in {champion.folder}")
    out.print(
        "\nNext: `make up` starts Dagster, MLflow and the gateway and leaves them running;\n"
        '      `ragtune ask "..."` asks a question; docs/api.md describes the API.\n'
        f"      All scores are in {warehouse.path}, all logs in {settings.home / 'logs'}.",
    )


def score_table(scores: list[Score]) -> Table:
    """Return a table with one row per model and precision and one column per metric: mean and 95% interval.

    n is in the header of a column, or in its cells if they differ in n.
    """
    table = Table(title="Scores on the held-out test split (mean, 95% interval)")
    table.add_column("model", no_wrap=True)
    table.add_column("precision", no_wrap=True)
    metrics = [metric for metric in METRICS if any(score.metric == metric for score in scores)]
    sizes = {metric: sorted({score.n for score in scores if score.metric == metric}) for metric in metrics}
    for metric in metrics:
        table.add_column(f"{metric}\nn={sizes[metric][0]}" if len(sizes[metric]) == 1 else metric)
    for model, precision in dict.fromkeys((score.model, score.precision) for score in scores):
        row = {score.metric: score for score in scores if (score.model, score.precision) == (model, precision)}
        table.add_row(model, precision, *(_cell(row.get(metric), len(sizes[metric]) > 1) for metric in metrics))
    return table


def _cell(score: Score | None, with_n: bool) -> str:
    if score is None:
        return ""
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" + (f"\nn={score.n}" if with_n else "")


@contextmanager
def _gateway(settings: Settings) -> Iterator[GatewayClient]:
    """Yield a client of this home's gateway; start `ragtune serve` for as long as it is needed if none runs."""
    if _running(settings):
        yield _when_ready(settings, None)
        return
    log = settings.home / "logs" / "gateway.out.log"
    process = start(Program("gateway", [sys.executable, "-m", "ragtune_serving.cli", "serve"], log))
    try:
        yield _when_ready(settings, process)
    finally:
        stop(process)


def _running(settings: Settings) -> bool:
    if not gateway_runs(settings):
        return False
    try:
        GatewayClient(settings).status()
    except RagTuneError:
        return False  # a gateway that was killed could not delete its endpoint file
    return True


def _when_ready(settings: Settings, process: "subprocess.Popen[bytes] | None") -> GatewayClient:
    """Return a client once the gateway answers with the champion and with retrieval."""
    limit = int(settings.engine.start_timeout) + _INDEX_SECONDS
    champion = ModelRegistry(settings).alias("champion")
    version = champion.version if champion else "base"
    with progress_bar() as progress:
        for second in range(limit):
            if process is not None and process.poll() is not None:
                raise EngineError(
                    f"The gateway ended with code {process.returncode}.", fix=f"see the logs in {settings.home}/logs"
                )
            progress("starting the gateway and its engine", second, limit)
            try:
                client = GatewayClient(settings)
                status = client.status()
            except RagTuneError:
                time.sleep(1)
                continue
            live = status["live"] or {}
            if live.get("state") == "ready" and status["retrieval"] and live.get("version") in (version, "provider"):
                progress("starting the gateway and its engine", limit, limit)
                return client
            time.sleep(1)
    raise EngineError(f"The gateway was not ready after {limit} s.", fix=f"see the logs in {settings.home}/logs")
