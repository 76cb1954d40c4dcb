"""Measures what it costs to embed questions that arrive at the same time, one by one and together.

    python -m benchmarks.serving.embedding [--rounds 10]

8 threads ask for the vector of one question each, at once: each in a forward pass of its own, and through the
`SharedEmbedder`, in rounds that take turns. Counted are the processor time and the time on the clock of a question.
Writes embedding.json next to this script; `largest difference` is that of the vectors of both ways.
"""

import argparse
import json
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.serving.overhead import fresh_questions
from benchmarks.serving.served_home import facts
from ragtune.backends.minilm import MiniLmEmbedder
from ragtune.backends.shared_embedder import SharedEmbedder

THREADS = 8


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    alone = MiniLmEmbedder(threads=THREADS)
    ways = {"one by one": alone, "together": SharedEmbedder(alone, kept_texts=0)}
    questions, difference = fresh_questions(), 0.0
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda text: alone.embed([text]), [next(questions) for _ in range(THREADS)]))
        for number in range(options.rounds):
            texts = [next(questions) for _ in range(THREADS)]
            vectors = {}
            for name in list(ways)[:: 1 if number % 2 else -1]:
                processor, clock = time.process_time(), time.perf_counter()
                vectors[name] = list(pool.map(lambda text, way=ways[name]: way.embed([text])[0], texts))
                seconds[name].append((time.process_time() - processor, time.perf_counter() - clock))
            difference = max(difference, float(np.abs(np.subtract(vectors["one by one"], vectors["together"])).max()))
    result = {
        **facts("benchmarks.serving.embedding"),
        "threads": THREADS,
        "rounds": options.rounds,
        "milliseconds of a question, median": {
            name: {
                "processor": round(1000 * median(one for one, _ in taken) / THREADS, 2),
                "clock": round(1000 * median(one for _, one in taken) / THREADS, 2),
            }
            for name, taken in seconds.items()
        },
        "largest difference": difference,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
