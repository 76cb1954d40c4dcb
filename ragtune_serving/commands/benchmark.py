"""`benchmark`: measures the gateway under load, compares settings, and says what to change."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as RichTable

from ragtune.errors import ResourceError
from ragtune.evaluation.report.content import Table
from ragtune.evaluation.report.pages import HTML_NAME, MARKDOWN_NAME
from ragtune.extras import require
from ragtune.settings import Settings, load_settings
from ragtune.store.warehouse import Warehouse
from ragtune_serving.terminal import out, progress_bar, stoppable

if TYPE_CHECKING:
    from ragtune_serving.benchmarking.suite import Wish

app = typer.Typer(help="Measure the gateway under load, and find out what to change.", no_args_is_help=True)
_VLLM_DEFAULTS = "vllm-defaults"
"""The word with which the present settings are compared with vLLM's own."""
_SECTION = "\n## "
WORK_LOADS = "stream, questions, chat or long; may be repeated"
Questions = Annotated[Path | None, typer.Option(help="a file with a question per line; default: own questions")]
Rounds = Annotated[int, typer.Option(min=2, help="rounds of each comparison")]


@app.command("run")
def run(
    only: Annotated[
        list[str],
        typer.Option(
            help="curve, compare, stress, spike, soak, chaos or replay; may be repeated; default: all but replay"
        ),
    ] = [],  # noqa: B006
    workload: Annotated[
        list[str], typer.Option(help=f"{WORK_LOADS}; default: all; the first is put under stress")
    ] = [],  # noqa: B006
    running: Annotated[bool, typer.Option(help="measure the gateway that runs, instead of starting one")] = False,
    questions: Questions = None,
    rounds: Rounds = 5,
    soak_minutes: Annotated[float, typer.Option(min=0.1, help="length of the soak")] = 1.0,
    replay: Annotated[int, typer.Option(min=1, help="most recorded questions to replay")] = 200,
    speed: Annotated[float, typer.Option(min=0.01, help="how many times as fast to replay them")] = 1.0,
) -> None:
    """Measure a gateway over this home, and write a report; takes about half an hour with everything."""
    require("benchmark")
    from ragtune_serving.benchmarking.suite import Wish

    wish = Wish(
        phases=only,
        workloads=workload,
        questions=questions,
        running=running,
        rounds=rounds,
        soak_minutes=soak_minutes,
        replay=replay,
        speed=speed,
    )
    _measure(wish)


@app.command("compare")
def compare(
    change: Annotated[
        list[str],
        typer.Argument(
            help="SETTING=VALUE, such as engine.eager=false; several are changed together; or vllm-defaults"
        ),
    ],
    workload: Annotated[list[str], typer.Option(help=f"{WORK_LOADS}; default: stream")] = [],  # noqa: B006
    questions: Questions = None,
    rounds: Rounds = 5,
) -> None:
    """Compare the present settings with changed ones, or with vLLM as it starts by itself, in turn."""
    require("benchmark")
    from ragtune_serving.benchmarking.gateways import parsed_changes
    from ragtune_serving.benchmarking.suite import Wish

    by_default = change == [_VLLM_DEFAULTS]
    _measure(
        Wish(
            phases=("compare",),
            workloads=workload or ("stream",),
            changes=() if by_default else (parsed_changes(change),),
            vllm_defaults=by_default,
            questions=questions,
            rounds=rounds,
        )
    )


@app.command("report")
def report(
    run_id: Annotated[str, typer.Argument(help="a run; default: the newest")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="print the whole report as Markdown")] = False,
) -> None:
    """Print where the report of a benchmark is, and what it says first."""
    from ragtune_serving.benchmarking.report import FOLDER

    folder = load_settings().home / FOLDER
    written = sorted(path.parent.name for path in folder.glob(f"*/{HTML_NAME}"))
    chosen = run_id or (written[-1] if written else "")
    if chosen not in written:
        raise ResourceError(
            f"There is no report {run_id or 'of a benchmark'} in {folder}.",
            "a run of `ragtune benchmark run`",
            "run `ragtune benchmark run`, or name a run of `ragtune benchmark history`",
        )
    _show(folder / chosen, markdown)


@app.command("history")
def history() -> None:
    """Print with which rates the gateways of this home kept up, over versions and settings."""
    require("benchmark")
    from ragtune_serving.benchmarking.report import history_table, saturations

    _print(history_table(saturations(_warehouse(load_settings()).loads())))


def _measure(wish: "Wish") -> None:
    from ragtune_serving.benchmarking import report as reports
    from ragtune_serving.benchmarking.suite import run_suite

    settings = load_settings()
    warehouse = _warehouse(settings)
    kept = "Phases that were measured to their end are in the warehouse. There is no report; the command begins again."
    with stoppable(kept), progress_bar() as progress:
        results = run_suite(settings, wish, warehouse, progress)
    page = reports.write(results, warehouse.loads(), settings.home)
    _show(page.parent, markdown=False)


def _show(folder: Path, markdown: bool) -> None:
    text = (folder / MARKDOWN_NAME).read_text()
    if not markdown:
        out.print(f"{folder / HTML_NAME}")
        text = _SECTION.join(text.split(_SECTION)[:2]).strip()  # the head, and what to do next
    out.print(text)


def _print(table: Table) -> None:
    printed = RichTable(title=table.title or None)
    for name in table.header:
        printed.add_column(name, overflow="fold")
    for row in table.rows:
        printed.add_row(*row)
    out.print(printed)


def _warehouse(settings: Settings) -> Warehouse:
    return Warehouse(settings.home / "warehouse.duckdb")
