"""Measures how often the one passage with an identifier comes first: typed alone, in a question, and in a sentence.

    python -m benchmarks.retrieval.identifiers

Thirty identifiers of each of twelve shapes stand in one passage each of 1,200 generated ones. Word search alone
and the hybrid look for each of them.
"""

import argparse
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.retrieval.results import scratch_settings, write_results
from ragtune.backends.catalog import embedder_from, search_index_from
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.retrieval import Mode, Retriever
from ragtune.records import Chunk, content_id

PASSAGES, PER_SHAPE = 1200, 30
FORMS = {
    "bare": "{}",
    "asked": "What do I have to know about {}?",
    "sentence": "Since the last delivery the operators report that {} shows up again and again at the northern plant.",
}
MODES: tuple[Mode, ...] = ("text", "hybrid")
SUBJECTS = "pump,valve,router,scanner,printer,turbine,ferry,crane,boiler,switch,sensor,archive,ledger,depot"
ACTIONS = "checks,records,opens,closes,reports,cleans,delivers,repairs,counts,moves,stores,replaces"
OBJECTS = "orders,pallets,letters,filters,keys,parcels,invoices,cables,meters,samples,tickets,reports"
PLACES = "at the northern plant,in the harbour,near the old station,in hall four,on the upper deck,by the river"
TIMES = "every morning,before the shift ends,once a month,after each delivery,on working days,during the night"


def _pick(rng: random.Random, words: str) -> str:
    return rng.choice(words.split(","))


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _hex(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("0123456789abcdef", k=count))


def _letters(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=count))


def _syllables(rng: random.Random, parts: str, count: int) -> str:
    return "".join(rng.choices(parts.split(), k=count))


SHAPES: dict[str, Callable[[random.Random], str]] = {
    "vulnerability": lambda rng: f"CVE-{rng.randint(2015, 2026)}-{_digits(rng, 5)}",
    "part number": lambda rng: (
        f"{_letters(rng, 2).upper()}-{_digits(rng, 4)}-{_letters(rng, 1).upper()}{_digits(rng, 1)}"
    ),
    "sha256": lambda rng: _hex(rng, 64),
    "sha512": lambda rng: _hex(rng, 128),
    "error code": lambda rng: f"E{_digits(rng, 5)}",
    "constant": lambda rng: "_".join(_letters(rng, 4).upper() for _ in range(3)),
    "version": lambda rng: f"{rng.randint(1, 9)}.{rng.randint(0, 40)}.{rng.randint(0, 40)}",
    "path": lambda rng: f"/{_letters(rng, 3)}/{_pick(rng, SUBJECTS)}/{_pick(rng, OBJECTS)}/{_letters(rng, 5)}.conf",
    "address": lambda rng: f"{_letters(rng, 5)}.{_letters(rng, 6)}@{_pick(rng, SUBJECTS)}.example.org",
    "uuid": lambda rng: "-".join(_hex(rng, n) for n in (8, 4, 4, 4, 12)),
    "cyrillic word": lambda rng: _syllables(rng, "ба во ги да же зу ки ло ми ну пе ра си ту фо", 4),
    "kanji word": lambda rng: _syllables(rng, "山 川 田 木 林 森 石 金 玉 水 火 土 空 海 島 橋 村 町 門 車", 4),
}


def passages(seed: int) -> tuple[list[Chunk], list[tuple[str, str, str]]]:
    """Return generated passages, and (shape, identifier, id of its passage) of every identifier."""
    rng = random.Random(seed)
    unique: dict[str, str] = {}
    for shape, make in SHAPES.items():
        while sum(name == shape for name in unique.values()) < PER_SHAPE:
            unique.setdefault(make(rng), shape)
    places = rng.sample(range(PASSAGES), len(unique))
    by_place = dict(zip(places, unique, strict=True))
    chunks, targets = [], []
    for number in range(PASSAGES):
        subject = _pick(rng, SUBJECTS)
        sentences = [
            f"The {_pick(rng, SUBJECTS)} {_pick(rng, ACTIONS)} {rng.randint(2, 90)} {_pick(rng, OBJECTS)} "
            f"{_pick(rng, PLACES)} {_pick(rng, TIMES)}."
            for _ in range(5)
        ]
        if number in by_place:
            sentences.insert(rng.randrange(5), f"The entry for it in the list is {by_place[number]}, as agreed.")
        text = " ".join(sentences)
        title = f"Notes on the {subject}, part {number}"
        chunk = Chunk(
            id=content_id(title, text),
            document_id=content_id(title),
            source="generated",
            title=title,
            heading_path=(),
            text=text,
            position=0,
        )
        chunks.append(chunk)
        if number in by_place:
            targets.append((unique[by_place[number]], by_place[number], chunk.id))
    return chunks, targets


def first_shares(retriever: Retriever, targets: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Return for each form and mode the share of identifiers whose passage comes first, and the misses by shape."""
    shares: dict[str, Any] = {}
    for form, template in FORMS.items():
        for mode in MODES:
            results = retriever.search_many([template.format(name) for _, name, _ in targets], 3, mode)
            missed = [
                shape
                for (shape, _, right), hits in zip(targets, results, strict=True)
                if not hits or hits[0].chunk.id != right
            ]
            misses = {shape: missed.count(shape) for shape in SHAPES if shape in missed}
            shares[f"{form}, {mode}"] = {"first": round(1 - len(missed) / len(targets), 4), "misses": misses}
            print(f"{form}, {mode}: {shares[f'{form}, {mode}']}")
    return shares


def main() -> None:
    """Measure and write `identifiers.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    with scratch_settings() as settings:
        chunks, targets = passages(options.seed)
        embedder = embedder_from(settings)
        index = search_index_from(settings, embedder)
        update_index(index, embedder, chunks)
        shares = first_shares(Retriever(index, embedder, settings.index), targets)
        facts = {"seed": options.seed, "passages": len(chunks), "identifiers": len(targets)}
        write_results(options.out, settings, facts, shares)


if __name__ == "__main__":
    main()
