"""Measures what an index of Markdown and text pages costs, compared with another checkout of RagTune.

    git worktree add --detach /tmp/before ea6e744
    python -m benchmarks.documents.index --before /tmp/before

Both checkouts build the index of the same generated pages with `ragtune index`, each in a process of its own and a new
home, and take turns, so that a slow minute of the machine hits both. Which of them comes first alternates.
`--pages 20 --rounds 1` shows in a minute whether everything is in place.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from ragtune.evaluation.resampling import mean_interval

RESULT = Path(__file__).with_suffix(".json")
ROOT = Path(__file__).parents[2]
_WORDS_TEXT = "harbour gate keeper lamp rope tide ferry crane bell winch buoy chart mast sail anchor pier dock hull"
_WORDS = _WORDS_TEXT.split()
_SAMPLES = 2000


def main() -> None:
    """Write the seconds of every round, and the ratio of both, to `index.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="another checkout of RagTune")
    parser.add_argument("--pages", type=int, default=2000, help="half of them Markdown, half of them text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    sides = {"now": ROOT, "before": options.before.resolve()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    chunks: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder, "pages")
        write_pages(pages, options.pages, random.Random(options.seed))
        for number in range(options.rounds):
            for name in sorted(sides, reverse=number % 2 == 1):
                counts = index(sides[name], pages, Path(folder, f"{name}-{number}"))
                seconds[name].append(counts["seconds"])
                chunks[name] = int(counts["chunks"])
                print(f"round {number + 1}, {name}: {counts['seconds']} s, {counts['chunks']} passages", flush=True)
    ratios = [now / before for now, before in zip(seconds["now"], seconds["before"], strict=True)]
    rounds = [str(number) for number in range(options.rounds)]
    result = {
        "command": " ".join(["python", "-m", "benchmarks.documents.index", *sys.argv[1:]]),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "pages": options.pages,
        "passages": chunks,
        "seconds": seconds,
        "ratio": [round(value, 3) for value in mean_interval(ratios, rounds, _SAMPLES, options.seed)],
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def write_pages(folder: Path, count: int, rng: random.Random) -> None:
    """Write `count` pages of some 100 words, in turns as Markdown and as text; no two say the same."""
    folder.mkdir()
    for number in range(count):
        paragraphs = [" ".join(rng.choices(_WORDS, k=45)).capitalize() + f" {number}." for _ in range(2)]
        title = f"{rng.choice(_WORDS).capitalize()} {number}"
        if number % 2:
            text, ending = "\n\n".join([title, "=" * len(title), *paragraphs]), "txt"
        else:
            items = "\n".join(f"- {word} number {number}" for word in rng.sample(_WORDS, 3))
            text, ending = "\n\n".join([f"# {title}", *paragraphs, items]), "md"
        folder.joinpath(f"{number}.{ending}").write_text(f"{text}\n")


def index(checkout: Path, pages: Path, home: Path) -> dict[str, float]:
    """Return what `ragtune index --json` of this checkout says of the pages; its seconds leave out the imports."""
    home.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "RAGTUNE_HOME": str(home),
        "RAGTUNE_SOURCES": json.dumps([f"folder:{pages}"]),
    }
    # The working directory is the new home: a `ragtune.yaml` of a checkout would count otherwise.
    command = [sys.executable, "-m", "ragtune_serving.cli", "index", "--json"]
    reply = subprocess.run(command, env=environment, cwd=home, stdout=subprocess.PIPE, text=True, check=True)
    counts: dict[str, float] = json.loads(reply.stdout)
    return counts


if __name__ == "__main__":
    main()
