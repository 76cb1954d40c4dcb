"""`materialize`, `serve` and `up`: the commands that run for a long time."""

import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from ragtune.extras import require
from ragtune.settings import Settings, load_settings
from ragtune.store.mlflow_files import SCHEME, make_portable
from ragtune_serving.address import check_port, http_url
from ragtune_serving.alerts import check as check_alerts
from ragtune_serving.alerts import log_file
from ragtune_serving.processes import Program, how_to_stop, run_in_foreground, supervise
from ragtune_serving.terminal import err

Host = Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 opens the gateway to the network")]
Port = Annotated[int, typer.Option(min=-1, max=65535, help="port; -1 takes gateway.port from the settings")]


def materialize(
    select: Annotated[
        list[str], typer.Option(help="an asset; +NAME adds its inputs, NAME+ what is built from it")
    ] = [],  # noqa: B006
) -> None:
    """Run the asset graph, all of it by default; assets that are up to date are skipped."""
    require("graph")
    command = materialize_command(select)
    raise typer.Exit(run_in_foreground(command))


def materialize_command(select: list[str]) -> list[str]:
    """Return the command that runs the asset graph.

    It runs in its own process, because the serving wing must not import the asset wing.
    """
    command = [sys.executable, "-m", "ragtune_assets.materialize"]
    for selection in select:
        command += ["--select", selection]
    return command


def serve(host: Host = "", port: Port = -1) -> None:
    """Serve the current champion (before there is one, the base model) and follow the registry."""
    require("serve")
    err.print("Starting the gateway. Loading its models takes one to three minutes on a CPU ...")
    from ragtune_serving.gateway import serve as run_gateway
    from ragtune_serving.logs import log_to

    settings = with_address(load_settings(), host, port)
    log_to(settings.home / "logs" / "gateway.log", settings.gateway.log_format)
    run_gateway(settings)


def up(host: Host = "", port: Port = -1) -> None:
    """Run Dagster's webserver and daemon, the MLflow UI, the engine and the gateway until Ctrl-C."""
    require("graph")
    require("serve")
    settings = with_address(load_settings(), host, port)
    check_alerts(settings.alerts)
    check_port("127.0.0.1", settings.ports.dagster, "ports.dagster")
    if not settings.mlflow_server:
        check_port("127.0.0.1", settings.ports.mlflow, "ports.mlflow")
    check_port(settings.gateway.host, settings.gateway.port, "gateway.port")
    gateway = http_url(settings.gateway.host, settings.gateway.port)
    err.print(f"Dagster    http://127.0.0.1:{settings.ports.dagster}")
    err.print(f"MLflow     {settings.mlflow_server or f'http://127.0.0.1:{settings.ports.mlflow}'}")
    err.print(f"Gateway    {gateway}/v1  (API: {gateway}/docs, key: {settings.home}/keys/client.key)")
    err.print(f"Logs       {settings.home}/logs")
    err.print(how_to_stop("all of them"))
    prepare_platform(settings)
    supervise(platform_programs(settings))


def prepare_platform(settings: Settings) -> None:
    """Create the databases of MLflow and Dagster, and close the runs of dead processes.

    Two programs that start at the same time over a new home would both create them, and one would fail. Raises
    typer.Exit if Dagster's cannot be opened; the reason is printed.
    """
    make_portable(settings.tracking_url)
    if code := run_in_foreground([sys.executable, "-m", "ragtune_assets.dead_runs"]):
        raise typer.Exit(code)


def platform_programs(settings: Settings) -> list[Program]:
    """Return the programs of `ragtune up`; all of them except the gateway always listen on 127.0.0.1."""
    binaries, logs = Path(sys.executable).parent, settings.home / "logs"
    home = {"RAGTUNE_HOME": str(settings.home)}
    instance = dagster_files()
    dagster = {**home, "DAGSTER_HOME": str(instance), "RAGTUNE_DAGSTER_STORAGE": str(settings.home / "dagster")}
    workspace = ["-w", str(instance / "workspace.yaml")]
    web = ["-h", "127.0.0.1", "-p", str(settings.ports.dagster)]
    mlflow = ["ui", "--backend-store-uri", settings.tracking_url, "--host", "127.0.0.1"]
    mlflow += ["--port", str(settings.ports.mlflow), "--workers", "1"]
    mlflow += ["--artifacts-destination", str(settings.run_files), "--default-artifact-root", SCHEME]
    address = ["--host", settings.gateway.host, "--port", str(settings.gateway.port)]
    gateway = [sys.executable, "-m", "ragtune_serving.cli", "serve", *address]
    daemon = [str(binaries / "dagster-daemon"), "run", *workspace]
    webserver = [str(binaries / "dagster-webserver"), *workspace, *web]
    programs = [
        Program("gateway", gateway, logs / "gateway.out.log", home),
        Program("alerts", [sys.executable, "-m", "ragtune_serving.cli", "alerts"], log_file(settings.home), home),
        Program("Dagster daemon", daemon, logs / "dagster-daemon.log", dagster),
        Program("Dagster webserver", webserver, logs / "dagster.log", dagster),
    ]
    if not settings.mlflow_server:  # a server has its own UI, and `mlflow ui` refuses to show another server's runs
        programs.append(Program("MLflow UI", [str(binaries / "mlflow"), *mlflow], logs / "mlflow.log", home))
    return programs


def dagster_files() -> Path:
    """Return the folder with Dagster's instance settings and workspace, which the asset wing ships."""
    # By name, because the wings do not import each other.
    return Path(str(files("ragtune_assets") / "instance"))


def with_address(settings: Settings, host: str, port: int) -> Settings:
    """Return the settings with another address of the gateway; an empty host or a negative port changes nothing."""
    changes = {**({"host": host} if host else {}), **({"port": port} if port >= 0 else {})}
    return settings.model_copy(update={"gateway": settings.gateway.model_copy(update=changes)})
