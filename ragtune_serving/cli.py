"""The `ragtune` command: registers the subcommands and turns errors into messages."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from ragtune.errors import RagTuneError, no_permission
from ragtune.extras import missing_library
from ragtune.settings import prepare_process
from ragtune_serving.commands import (
    alerts,
    asking,
    audit,
    benchmark,
    dataset,
    demo,
    documents,
    evaluate,
    experiment,
    experiments,
    feedback,
    keys,
    library,
    models,
    monitoring,
    project,
    prune,
    report,
    review,
    running,
    shadow,
    state,
    tune,
    validate,
)
from ragtune_serving.terminal import out, words_of_interrupt

app = typer.Typer(
    help="Your documents, answered by your own model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"ragtune {version('ragtune')}")
        raise typer.Exit


@app.callback()
def ragtune(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Your documents, answered by your own model."""


for command in (
    project.init,
    documents.index,
    documents.search,
    running.materialize,
    running.serve,
    running.up,
    asking.ask,
    state.status,
    state.rollback,
    state.doctor,
    report.report,
    validate.validate,
    tune.tune,
    prune.prune,
    alerts.alerts,
    monitoring.monitoring,
    audit.audit,
    demo.demo,
):
    app.command()(command)
app.add_typer(library.documents, name="documents")
app.add_typer(library.sources, name="sources")
app.add_typer(keys.app, name="keys")
app.add_typer(review.app, name="review")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(models.app, name="models")
app.add_typer(dataset.app, name="dataset")
app.add_typer(experiment.app, name="experiment")
app.add_typer(experiments.app, name="experiments")
app.add_typer(shadow.app, name="shadow")
app.add_typer(feedback.app, name="feedback")


def main() -> None:
    """Run the command line; the exit code is 1 for an error that RagTune explains, 130 after Ctrl-C."""
    prepare_process()
    try:
        app()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ragtune"):
            raise  # a module of our own is a bug, not an extra that somebody left out
        sys.stderr.write(f"{missing_library(error.name or str(error))}\n")
        sys.exit(1)
    except RagTuneError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    except (PermissionError, NotADirectoryError) as error:
        sys.stderr.write(f"{no_permission(error)}\n")
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as end:
        words = words_of_interrupt(end)
        if words is None:
            raise
        sys.stderr.write(f"{words}\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
