"""One worker of the gateway: `python -m ragtune_serving.worker DESCRIPTOR` answers requests on an inherited socket."""

import socket
import sys

from ragtune.settings import load_settings
from ragtune_serving.gateway import build_app, build_services, run_app
from ragtune_serving.keys import KeyStore
from ragtune_serving.logs import log_to
from ragtune_serving.processes import limit_arenas
from ragtune_serving.shared_engines import SharedEngines


def main() -> None:
    """Answer requests until SIGTERM."""
    limit_arenas()
    settings = load_settings()
    log_to(settings.home / "logs" / "gateway.log", settings.gateway.log_format)
    services = build_services(settings, SharedEngines(settings.home / "gateway"))
    run_app(build_app(services, settings, KeyStore(settings.home / "keys")), socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
