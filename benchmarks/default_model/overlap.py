"""Checks whether the default model was trained on near duplicates of the documents that it is measured on.

Run: python -m benchmarks.default_model.overlap (reads all corpora, takes some minutes)
"""

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import yaml

from ragtune.evaluation.benchmark import hardware
from ragtune.evaluation.out_of_domain import descriptions
from ragtune.knowledge.sources import read_sources
from ragtune.settings import Settings
from ragtune.text.shingles import near_pairs

HERE = Path(__file__).parent
REPLAYED = "descriptions of packages that are replayed"
LEARNT = HERE.parent.parent / "grounding" / "ragtune.yaml"


def main() -> None:
    """Compare every training document with the default corpus and the benchmarks' corpora; write `overlap.json`.

    The package descriptions that training replays are training documents too.
    """
    began = time.monotonic()
    learnt = yaml.safe_load(LEARNT.read_text())["sources"]
    others = [
        *Settings.model_fields["sources"].default,
        *(
            source
            for name in ("ragtune", "prose")
            for source in yaml.safe_load((HERE / f"{name}.yaml").read_text())["sources"]
        ),
    ]
    seed = Settings().seed
    held_out = len(descriptions(seed))
    replayed = [replace(document, source=REPLAYED) for document in descriptions(seed, skip=held_out)]
    documents = [*read_sources([*learnt, *others]).documents, *replayed]
    learnt = [*learnt, REPLAYED]
    threshold = Settings().dataset.jaccard
    is_learnt = [document.source in learnt for document in documents]
    near = [
        (documents[i], documents[j])
        for i, j in near_pairs([d.text for d in documents], threshold)
        if is_learnt[i] != is_learnt[j]
    ]
    affected = [b if a.source in learnt else a for a, b in near]
    source_of = {document.id: document.source for document in affected}
    sizes = Counter(document.source for document in documents)
    result = {
        "command": "python -m benchmarks.default_model.overlap",
        "hardware": hardware(),
        "seconds": round(time.monotonic() - began),
        "jaccard": threshold,
        "learnt": {source: sizes[source] for source in learnt},
        "held_out": {source: sizes[source] for source in others},
        "held_out_with_a_near_duplicate": dict(Counter(source_of.values())),
        "examples": [[a.title, b.title] for a, b in near[:20]],
    }
    (HERE / "overlap.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
