"""Addresses of the gateway: its URL, its socket, whether its port is free."""

import json
import socket
from pathlib import Path

from ragtune.errors import ResourceError
from ragtune.settings import Settings
from ragtune.store.locks import is_held


def endpoint_file(settings: Settings) -> Path:
    """Return the file in which a running gateway writes its address."""
    return settings.home / "gateway" / "endpoint.json"


def gateway_runs(settings: Settings) -> bool:
    """Return whether a gateway serves this home.

    A killed gateway leaves its address behind, and a copied home has that of the original; neither has the lock.
    """
    return endpoint_file(settings).is_file() and is_held(settings.home / "gateway" / "serve.lock")


def endpoint_url(settings: Settings) -> str:
    """Return the URL of this home's gateway, without `/v1`."""
    if gateway_runs(settings):
        url: str = json.loads(endpoint_file(settings).read_text())["url"]
        return url
    return http_url(settings.gateway.host, settings.gateway.port)


def http_url(host: str, port: int) -> str:
    """Return the URL under which this machine reaches a server; an address for all interfaces becomes the loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket for an IPv4 or IPv6 address or a host name; `::` takes IPv4 connections too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")


def check_port(host: str, port: int, setting: str) -> None:
    """Raise ResourceError if the port is in use; the message names the setting."""
    variable = "RAGTUNE_" + setting.upper().replace(".", "__")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # Without this, the port of a gateway that has just ended counts as in use for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ResourceError(
                f"Cannot listen on {http_url(host, port).removeprefix('http://')} ({error.strerror}).",
                expected=f"a free port for {setting}",
                fix=f"end the program that uses it, or set {variable} to another port",
            ) from error
