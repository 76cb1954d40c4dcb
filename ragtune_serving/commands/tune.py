"""`tune`: searches for settings of the engine and the gateway with more goodput, and proves the gain."""

from pathlib import Path
from typing import Annotated

import typer

from ragtune.extras import require
from ragtune.settings import config_file, load_settings
from ragtune.store.warehouse import Warehouse
from ragtune_serving.terminal import out, progress_bar, stoppable


def tune(
    minutes: Annotated[float, typer.Option(min=0.1, help="budget of the search; the proof comes after it")] = 30.0,
    workload: Annotated[
        list[str],
        typer.Option(help="none of them may get worse, the first is tuned for; may be repeated; default: all"),
    ] = [],  # noqa: B006
    vary: Annotated[
        list[str], typer.Option(help="SETTING=VALUE,VALUE in addition to the usual ones; may be repeated")
    ] = [],  # noqa: B006
    questions: Annotated[Path | None, typer.Option(help="a file with a question per line")] = None,
    rounds: Annotated[int, typer.Option(min=2, help="rounds of the proof")] = 5,
    apply: Annotated[bool, typer.Option("--apply", help="write the winner into the settings file")] = False,
) -> None:
    """Search for settings with more answers per second within the service level (`load.first_token_ms`, `answer_ms`).

    An interrupted search goes on where it stopped. The winner is measured next to the present settings; it is written
    only if it is better beyond the noise, and worse on none of the work loads.
    """
    require("benchmark")
    from ragtune_serving.benchmarking import tuning
    from ragtune_serving.benchmarking.settings_patch import patched
    from ragtune_serving.benchmarking.tuning_report import write

    settings = load_settings()
    wish = tuning.Wish(
        workloads=workload, minutes=minutes, vary=tuning.parsed_space(vary), questions=questions, rounds=rounds
    )
    with stoppable("The trials so far are kept. The same command goes on with the search."), progress_bar() as progress:
        tuned = tuning.tune(settings, wish, Warehouse(settings.home / "warehouse.duckdb"), progress)
    page = write(tuned, settings.home)
    out.print(f"{page}")
    if not tuned.winner:
        out.print("No settings were better beyond the noise without being worse elsewhere. The settings stay.")
        return
    file = config_file()
    if apply:
        file.write_text(patched(file.read_text() if file.is_file() else "", tuned.winner))
        out.print(f"Written into {file}. `ragtune benchmark run` measures what it brings.")
    else:
        out.print(f"To apply: patch -p0 < {page.parent / 'tuned.patch'}, or `ragtune tune --apply`.")
    out.print(tuned.patch)
