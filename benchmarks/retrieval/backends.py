"""Compares the embedded index with Elasticsearch: overlap of the first ten hits, and nDCG@10.

    python -m benchmarks.retrieval.backends --elasticsearch http://127.0.0.1:9200

Both have the passages of the home's dataset with the same vectors and search for its test questions.
"""

import argparse
from pathlib import Path

from benchmarks.retrieval.quality import DEEP, Rankings, facts, from_home, table
from benchmarks.retrieval.results import interval, scratch_settings, write_results
from ragtune.backends.catalog import embedder_from
from ragtune.backends.elastic_index import ElasticIndex
from ragtune.backends.lance_index import LanceIndex
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.retrieval import Mode, Retriever
from ragtune.ports import SearchIndex

TOP = 10
MODES: tuple[Mode, ...] = ("hybrid", "text", "vector")


def overlaps(some: Rankings, others: Rankings) -> list[float]:
    """Return for each question the share of the first ten hits that both rankings have, in any order."""
    shares = []
    for one, other in zip(some, others, strict=True):
        a, b = ({hit.chunk.id for hit in hits[:TOP]} for hits in (one, other))
        shares.append(len(a & b) / max(len(a), len(b), 1))
    return shares


def main() -> None:
    """Measure and write `backends.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elasticsearch", required=True, help="address of a node")
    parser.add_argument("--limit", type=int, help="largest number of questions")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    with scratch_settings() as settings:
        chunks, questions, digest = from_home(options.limit)
        distinct = [chunk for chunk in chunks if not chunk.duplicate_of]
        embedder = embedder_from(settings)
        shape = (embedder.name, embedder.dimension)
        elastic = ElasticIndex(
            options.elasticsearch, "", settings.index.name, *shape, scratch=settings.home / "unfinished"
        )
        indexes: dict[str, SearchIndex] = {"lance": LanceIndex(settings.home / "index", *shape), "elastic": elastic}
        rankings: dict[str, Rankings] = {}
        for name, index in indexes.items():
            update_index(index, embedder, distinct)
            retriever = Retriever(index, embedder, settings.index)
            for mode in MODES:
                texts = [question.text for question in questions]
                rankings[f"{mode}, {name}"] = retriever.search_many(texts, DEEP, mode)
        clusters = [question.cluster for question in questions]
        shared = {mode: overlaps(rankings[f"{mode}, lance"], rankings[f"{mode}, elastic"]) for mode in MODES}
        ways = {"hybrid": rankings["hybrid, lance"], **rankings}
        results = {
            "overlap_of_the_first_10": {
                mode: interval(shares, clusters, options.seed) for mode, shares in shared.items()
            },
            "quality": table(ways, questions, options.seed),
        }
        both = settings.model_copy(update={"index": settings.index.model_copy(update={"backend": "both"})})
        write_results(options.out, both, facts(questions, chunks, digest, options.seed), results)
        elastic.close()


if __name__ == "__main__":
    main()
