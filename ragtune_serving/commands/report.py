"""`report`: prints where the report about a candidate is, and what it says first."""

from typing import Annotated

import typer

from ragtune.errors import ResourceError
from ragtune.evaluation.report.pages import HTML_NAME, MARKDOWN_NAME, REPORTS, report_folder
from ragtune.settings import load_settings
from ragtune_serving.terminal import out


def report(
    version: Annotated[str, typer.Argument(help="a version; default: the newest with a report")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="print the whole report as Markdown")] = False,
) -> None:
    """Print where the report about a candidate is, its decision and what to do next."""
    home = load_settings().home
    written = {path.parent.name for path in (home / REPORTS).glob(f"*/{HTML_NAME}")}
    # Versions are numbers, so the longest and then the last one in the alphabet is the newest.
    chosen = version or max(written, key=lambda name: (len(name), name), default="")
    if chosen not in written:
        raise ResourceError(
            f"There is no report about {f'version {version}' if version else 'a candidate'} in {home / REPORTS}.",
            "a report that `ragtune materialize` writes about each candidate",
            "run `ragtune materialize`, or name a version that has one",
        )
    folder = report_folder(home, chosen)
    text = (folder / MARKDOWN_NAME).read_text()
    if markdown:
        out.print(text)
        return
    out.print(f"{folder / HTML_NAME}")
    out.print(text.partition("\n## Scores")[0].strip())
