"""`monitoring`: writes the Grafana dashboard, the alert rules and a scrape for Prometheus into a folder."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from ragtune.settings import load_settings
from ragtune.store.artifacts import write_json
from ragtune_serving.address import endpoint_url
from ragtune_serving.dashboard import dashboard
from ragtune_serving.terminal import out

DASHBOARD, ALERTS, SCRAPE = "dashboard.json", "alerts.yaml", "prometheus.yaml"


def monitoring(
    folder: Annotated[Path, typer.Argument(help="folder for the files; it is created if it does not exist")],
    key_file: Annotated[
        Path | None, typer.Option(help="file with the key of the scrape; default: the local key of this home")
    ] = None,
) -> None:
    """Write a Grafana dashboard, alert rules and a scrape for Prometheus; existing files are replaced."""
    settings = load_settings()
    folder.mkdir(parents=True, exist_ok=True)
    target = endpoint_url(settings).removeprefix("http://")
    key = (key_file or settings.home / "keys" / "client.key").resolve()
    shipped = files("ragtune_serving") / "monitoring"
    scrape = (shipped / SCRAPE).read_text().replace("{target}", target).replace("{key_file}", json.dumps(str(key)))
    write_json(folder / DASHBOARD, dashboard())
    (folder / ALERTS).write_text((shipped / ALERTS).read_text())
    (folder / SCRAPE).write_text(scrape)
    out.print(f"Wrote {DASHBOARD}, {ALERTS} and {SCRAPE} into {folder}.", markup=False)
