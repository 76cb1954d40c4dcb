"""Checks an index on an Elasticsearch node that goes down during updates: a real node, random moments.

    python -m benchmarks.retrieval.restarts --node "path/to/start.sh {port} {data}" --restarts 20

The node is stopped with SIGKILL and SIGTERM in turns, half of the time while the index is being written. It stays down
for some seconds and starts again on the same data. The update must end by itself, and readers must see a complete state
that an update was started for. At the end the index is compared with a clean build.
"""

import argparse
import random
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

from benchmarks.retrieval.faults import (
    WRITING,
    State,
    compare,
    edit,
    expected_state,
    open_index,
    run,
    start,
    write_folder,
)
from benchmarks.retrieval.results import chunks_sha256, scratch_settings, write_results
from ragtune.knowledge.sources import read_sources
from ragtune.settings import Settings

START_SECONDS = 120


class Node:
    """An Elasticsearch node that a command starts; it keeps its port and its data folder over restarts."""

    def __init__(self, command: str, data: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._command, self._log = shlex.split(command.format(port=port, data=data)), data / "node.log"
        self.start()

    def start(self) -> None:
        """Start the process and wait until the node is healthy; raise RuntimeError if it does not become so."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._healthy():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"The node did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.2)

    def stop(self, sign: signal.Signals) -> None:
        """Send the signal and wait until the process ends."""
        self.process.send_signal(sign)
        self.process.wait()

    def _healthy(self) -> bool:
        try:
            with urlopen(f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


def restart_once(
    settings: Settings, docs: Path, node: Node, sign: signal.Signals, moment: float, away: float, writing: bool
) -> dict[str, Any]:
    """Stop the node during an update, start it again, and return how the update ended."""
    update = start(settings, f"folder:{docs}")
    if writing:
        update.wait_for(WRITING)
    time.sleep(moment)
    doing, ended = update.lines[-1][1] if update.lines else "", update.process.poll() is not None
    node.stop(sign)
    time.sleep(away)
    node.start()
    update.process.wait()
    return {
        "signal": sign.name,
        "seconds": round(moment, 3),
        "from": WRITING if writing else "the first line",
        "doing": doing,
        "away_seconds": round(away, 3),
        "ended_before": ended,
        "update_succeeded": update.process.returncode == 0,
        "said": "" if update.process.returncode == 0 else update.lines[-1][1],
    }


def visible_state(settings: Settings, states: dict[State, int]) -> int | None:
    """Return the number of the state that readers see, or None if no update was started for it."""
    return states.get(frozenset(open_index(settings).versions().items()))


def main() -> None:
    """Restart the node, compare, and write `restarts.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--node", required=True, help="command that runs a node in the foreground, with {port} and {data}"
    )
    parser.add_argument("--source", default="package:peft", help="the source of the documents")
    parser.add_argument("--documents", type=int, default=150, help="largest number of documents")
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument(
        "--share", type=float, default=0.2, help="share of the documents that are edited before each restart"
    )
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with scratch_settings() as scratch, scratch_settings() as other, TemporaryDirectory() as data:
        node = Node(options.node, Path(data))
        try:
            index = scratch.index.model_copy(update={"backend": "elasticsearch", "url": node.url})
            settings = scratch.model_copy(update={"index": index})
            docs = settings.home / "docs"
            write_folder(docs, read_sources([options.source]).documents[: options.documents])
            run(settings, f"folder:{docs}")
            edit(docs, options.share, rng, 0)
            length = run(settings, f"folder:{docs}").seconds_of_work
            states, rounds = {expected_state(settings, docs)[0]: 0}, []
            for number in range(1, options.restarts + 1):
                edit(docs, options.share, rng, number)
                state, chunks = expected_state(settings, docs)
                states[state] = number
                sign, writing = (signal.SIGKILL, signal.SIGTERM)[number % 2], number % 4 >= 2
                moment, away = rng.uniform(0, 0.5 if writing else length), rng.uniform(0, 4)
                row = restart_once(settings, docs, node, sign, moment, away, writing)
                rounds.append({**row, "asked_for_state": number, "readers_see_state": visible_state(settings, states)})
                print(rounds[-1], flush=True)
            run(settings, f"folder:{docs}")
            changes = {"home": other.home, "index": index.model_copy(update={"name": f"{index.name}-clean"})}
            clean = settings.model_copy(update=changes)
            run(clean, f"folder:{docs}")
            after = compare(open_index(settings), open_index(clean), chunks, settings)
        finally:
            node.stop(signal.SIGTERM)
    print(after)
    facts = {
        "n": options.restarts,
        "seed": options.seed,
        "documents": options.documents,
        "passages_sha256": chunks_sha256(chunks),
        "undisturbed_update_seconds": round(length, 3),
    }
    results = {
        "torn_states": sum(row["readers_see_state"] is None for row in rounds),
        "updates_that_left_the_old_state": sum(row["readers_see_state"] != row["asked_for_state"] for row in rounds),
        "updates_that_had_to_be_run_again": sum(not row["update_succeeded"] for row in rounds),
        "against_a_clean_build": after,
        "restarts": rounds,
    }
    write_results(options.out, settings, facts, results)


if __name__ == "__main__":
    main()
