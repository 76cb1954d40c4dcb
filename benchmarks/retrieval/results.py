"""A temporary home for the retrieval benchmarks, and result files that say how they were made."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.resampling import mean_interval
from ragtune.records import Chunk
from ragtune.settings import Settings, load_settings

SAMPLES = 2000
PACKAGES = ("torch", "lancedb", "elasticsearch")


@contextmanager
def scratch_settings() -> Iterator[Settings]:
    """Yield the settings with a home that is deleted afterwards; on Elasticsearch the index is `ragtune-benchmark`."""
    settings = load_settings()
    index = settings.index.model_copy(update={"name": "ragtune-benchmark"})
    with TemporaryDirectory(prefix="ragtune-benchmark-") as folder:
        yield settings.model_copy(update={"home": Path(folder), "index": index})


def interval(values: Sequence[float], clusters: Sequence[str], seed: int) -> list[float]:
    """Return [mean, low, high] with 95% confidence, resampled by cluster."""
    return [round(value, 4) for value in mean_interval(values, clusters, SAMPLES, seed)]


def chunks_sha256(chunks: Sequence[Chunk]) -> str:
    """Return a hash of the passages that does not depend on their order."""
    return hashlib.sha256("\n".join(sorted(chunk.id for chunk in chunks)).encode()).hexdigest()


def as_text(value: Any) -> str:
    """Return the value as JSON with each innermost list on one line."""
    text = json.dumps(value, indent=1)
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"


def write_results(path: Path, settings: Settings, facts: dict[str, Any], results: Any) -> None:
    """Write the results as JSON, with the command, commit, packages and machine that made them."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    origin = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", f"benchmarks.retrieval.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "commit": commit,
        "hardware": hardware(),
        "packages": {name: version(name) for name in PACKAGES},
        "index": settings.index.backend,
        "embedder": settings.embedder.model or settings.embedder.backend,
    }
    plain = json.loads(
        json.dumps({**origin, **facts, "results": results}), parse_float=lambda text: round(float(text), 6)
    )
    path.write_text(as_text(plain))
    print(f"Written to {path}")
