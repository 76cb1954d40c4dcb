"""Cutting only what changed gives the passages that cutting everything gives."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ragtune.errors import SettingsError
from ragtune.knowledge.chunk_updates import chunk_changed
from ragtune.knowledge.chunking import chunk_documents
from ragtune.records import Document, content_id
from ragtune.settings import Settings
from tests.support.counting_embedder import CountingEmbedder

WORDS = ["herring", "swallow", "adapter", "quantise", "retrieve", "gateway", "harbour", "winter", "lantern", "copper"]


class ReadingEmbedder(CountingEmbedder):
    """Remembers every text whose tokens it counted."""

    def __init__(self, name: str = "words") -> None:
        super().__init__(name)
        self.counted: list[str] = []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        self.counted += texts
        return super().count_tokens(texts)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def document(number: int, kind: str = "prose", like: int | None = None) -> Document:
    """Return a page whose words follow from `like`, its own number by default; multiples of 3 say a little more."""
    words = random.Random(number if like is None else like).choices(WORDS, k=60)
    text = (
        f"# Page\n\n{' '.join(words)}{' so be it' * (number % 3 == 0)}\n\n## More\n\nAll about {' '.join(words[:20])}"
    )
    return Document(
        id=content_id(str(number)),
        source="s",
        path=f"{number}.md",
        title="Page",
        text=text,
        sha256=content_id(text),
        kind=kind,
    )


def pages(count: int, rng: random.Random) -> list[Document]:
    """Return documents of which every fourth says what another one says, or nearly."""
    return [document(n, rng.choice(["api", "prose"]), like=n % 7 if n % 4 == 0 else n) for n in range(count)]


def edited(documents: list[Document], rng: random.Random) -> list[Document]:
    """Return the documents with some changed, some gone, some new, some that now repeat another, in another order."""
    result = [document(rng.randrange(1000), like=rng.randrange(7)) for _ in range(3)]
    for each in documents:
        chance = rng.random()
        if chance < 0.1:
            result.append(replace(each, text=each.text + " One thing more."))
        elif chance < 0.2:
            result.append(replace(each, text=rng.choice(documents).text))
        elif chance > 0.3:
            result.append(each)
    return sorted(result, key=lambda each: rng.random()) if rng.random() < 0.3 else result


def test_after_any_edits_the_passages_and_the_marks_of_repeats_are_those_of_a_clean_cut(settings: Settings) -> None:
    rng, embedder = random.Random(3), CountingEmbedder()
    documents = pages(60, rng)
    for _ in range(12):
        clean = chunk_documents(documents, settings.chunking, embedder.count_tokens)
        assert chunk_changed(documents, settings, embedder) == clean
        assert any(chunk.duplicate_of for chunk in clean)
        documents = edited(documents, rng)


def test_unchanged_documents_are_not_even_tokenised(settings: Settings) -> None:
    documents = pages(20, random.Random(1))
    chunk_changed(documents, settings, ReadingEmbedder())
    embedder = ReadingEmbedder()
    documents[4] = replace(documents[4], text=documents[4].text + " The harbour froze.")
    chunk_changed(documents, settings, embedder)
    assert any("froze" in text for text in embedder.counted)
    assert not any(" ".join(random.Random(5).choices(WORDS, k=60)[:20]) in text for text in embedder.counted)
    embedder.counted.clear()
    chunk_changed(documents, settings, embedder)
    assert embedder.counted == []


def test_other_limits_or_another_tokenizer_cut_everything_anew(settings: Settings) -> None:
    documents = pages(20, random.Random(1))
    wide = chunk_changed(documents, settings, ReadingEmbedder())
    narrow = settings.model_copy(update={"chunking": settings.chunking.model_copy(update={"max_tokens": 32})})
    assert len(chunk_changed(documents, narrow, ReadingEmbedder())) > len(wide)
    other = ReadingEmbedder("other words")
    assert chunk_changed(documents, settings, other) == wide
    assert len(other.counted) > len(documents)


def test_a_torn_file_is_made_anew(settings: Settings) -> None:
    documents = pages(20, random.Random(1))
    found = chunk_changed(documents, settings, ReadingEmbedder())
    (path,) = (settings.home / "library").iterdir()
    whole = path.read_bytes()
    for torn in (b"", whole[:100], whole[:-10], whole.replace(b"harbour", b"HARBOUR")):
        path.write_bytes(torn)
        assert chunk_changed(documents, settings, ReadingEmbedder()) == found
        assert path.read_bytes() == whole


def test_what_left_the_documents_is_not_kept(settings: Settings) -> None:
    documents = pages(20, random.Random(1))
    chunk_changed(documents, settings, CountingEmbedder())
    chunk_changed(documents[:5], settings, CountingEmbedder())
    (path,) = (settings.home / "library").iterdir()
    assert len(path.read_text().splitlines()) == 1 + 5


def test_chunks_that_the_embedder_would_not_read_to_their_end_are_refused(settings: Settings) -> None:
    embedder = CountingEmbedder()
    embedder.max_tokens = 128
    with pytest.raises(SettingsError, match=r"max_tokens is 240, but the embedder words reads only the first 128"):
        chunk_changed([document(1)], settings, embedder)
