"""`keys`: lists, adds and revokes API keys. A running gateway follows at once."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ragtune.errors import SettingsError
from ragtune.settings import load_settings
from ragtune_serving.audit import record_command
from ragtune_serving.keys import ROLES, KeyStore
from ragtune_serving.limits import Limits, Prices
from ragtune_serving.schema import FILTERS
from ragtune_serving.terminal import out, print_json

app = typer.Typer(help="Who may use the gateway, and for what.", no_args_is_help=True)


@app.command("list")
def list_(json_: Annotated[bool, typer.Option("--json", help="print as JSON")] = False) -> None:
    """List the keys; the keys themselves are not stored, only their hashes."""
    keys = _store().all()
    if json_:
        print_json(
            [
                {
                    "name": key.name,
                    "role": key.role,
                    "created_at": key.created_at,
                    "expires_at": key.expires_at or None,
                    "expired": key.expired,
                    "requests_per_minute": key.limits.requests_per_minute,
                    "tokens_per_minute": key.limits.tokens_per_minute,
                    "concurrency": key.limits.concurrency,
                    "tokens_per_day": key.limits.tokens_per_day,
                    "budget_per_day": key.limits.budget_per_day,
                    "filter": dict(key.filter),
                }
                for key in keys
            ]
        )
        return
    for key in keys:
        state = "expired" if key.expired else f"expires {key.expires_at}" if key.expires_at else "does not expire"
        out.print(f"{key.name:<20} {key.role:<12} {state}")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="whose key it is; an earlier key of that name no longer works")],
    role: Annotated[str, typer.Option(help=f"one of {', '.join(ROLES)}")] = "application",
    days: Annotated[float, typer.Option(min=0, help="days until it expires; 0: never")] = 0,
    requests_per_minute: Annotated[int, typer.Option(min=0, help="0: as gateway.limits says")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(min=0, help="0: as gateway.limits says")] = 0,
    concurrency: Annotated[int, typer.Option(min=0, help="requests under way at once; 0: as gateway.limits says")] = 0,
    tokens_per_day: Annotated[int, typer.Option(min=0, help="from midnight UTC; 0: as gateway.limits says")] = 0,
    budget_per_day: Annotated[
        float, typer.Option(min=0, help="money a day, by the prices of gateway.price; 0: as gateway.limits says")
    ] = 0,
    filter_: Annotated[
        list[str], typer.Option("--filter", help=f"FIELD=VALUE, with {', '.join(FILTERS)}: what the key sees")
    ] = [],  # noqa: B006
) -> None:
    """Create a key and print it, only this once."""
    if name == "client":
        raise SettingsError("client is the name of the local key, which `ragtune serve` makes.", "another name")
    where = {}
    for entry in filter_:
        field, equals, value = entry.partition("=")
        if field not in FILTERS or not equals or not value:
            raise SettingsError(f"--filter is {entry}.", f"FIELD=VALUE, with one of these fields: {', '.join(FILTERS)}")
        where[field] = value
    expires_at = (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds") if days else ""
    limits = Limits(requests_per_minute, tokens_per_minute, concurrency, tokens_per_day, budget_per_day)
    if budget_per_day and not Prices(load_settings().gateway):
        raise SettingsError(
            "--budget-per-day limits nothing, because tokens cost nothing.", fix="set gateway.price.completion"
        )
    out.print(_store().create(name, role, expires_at, limits, where))
    record_command(load_settings().home, "keys add", f"{name}, role {role}")


@app.command("revoke")
def revoke(name: Annotated[str, typer.Argument(help="whose key it is")]) -> None:
    """Accept a key no longer."""
    _store().revoke(name)
    record_command(load_settings().home, "keys revoke", name)
    out.print(f"The key of {name} is revoked.")


def _store() -> KeyStore:
    return KeyStore(load_settings().home / "keys")
