"""Both search indexes do the same things, by one suite; the embedded one also with the graph of a large index."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ragtune.backends.lance_index import LanceIndex
from ragtune.errors import SearchIndexError
from ragtune.ports import IndexQuery, SearchIndex
from ragtune.records import Chunk, content_id
from tests.support.elastic import elastic_opener

DIMENSION = 8
Open = Callable[..., SearchIndex]


def chunk(title: str, text: str, position: int = 0, topic: str = "", document: str = "") -> Chunk:
    identity = content_id(document or title, text)
    return Chunk(
        id=identity,
        document_id=document or title,
        source="folder:docs",
        title=title,
        heading_path=("Part",),
        text=text,
        position=position,
        topic=topic,
        page=2,
        start=40,
        path=f"{title}.pdf",
    )


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


FISH = chunk("Fish", "What they do: herrings are swimming in cold water.", topic="sea")
BIRD = chunk("Birds", "The swallow flies low before rain.", topic="air")
CODE = chunk("peft.LoraConfig", "Configuration of an adapter; it's `r` that sets the rank.", topic="code")
ALL = [(FISH, unit(1)), (BIRD, unit(2)), (CODE, unit(3))]


@pytest.fixture(params=["lance", "lance with a graph", pytest.param("elasticsearch", marks=pytest.mark.elasticsearch)])
def open_index(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "elasticsearch":
        return elastic_opener(request, tmp_path)

    large = {"graph_from": 1} if request.param == "lance with a graph" else {}

    def lance(embedder: str = "one", dimension: int = DIMENSION) -> SearchIndex:
        return LanceIndex(tmp_path / "index", embedder, dimension, **large)

    return lance


def titles(index: SearchIndex, text: str, **options: object) -> list[str]:
    return [hit.chunk.title for hit in index.search_text(text, 10, **options)]  # type: ignore[arg-type]


def test_the_state_changes_with_what_readers_see_and_with_nothing_else(open_index: Open) -> None:
    index, reader = open_index(), open_index()
    assert reader.state() == ""
    index.apply(ALL, [])
    first = reader.state()
    assert first
    reader.search_text("herrings", 3)
    assert reader.state() == index.state() == first
    index.apply([], [FISH.id])
    assert reader.state() not in ("", first)


def test_an_index_never_built_is_empty_and_finds_nothing(open_index: Open) -> None:
    index = open_index()
    assert index.versions() == {}
    assert index.search_text("herring", 5) == []
    assert index.search_vector(unit(1), 5) == []


def test_words_are_found_by_their_stem(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    assert titles(index, "herring that swims") == ["Fish"]
    assert titles(index, "adapters") == ["peft.LoraConfig"]


def test_the_little_words_of_a_question_find_nothing(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    assert titles(index, "What is it that they do?") == []


LANGUAGES = {
    "de": ("Die Bibliotheken der Städte schließen abends.", "Wann schließt die Bibliothek der Stadt?"),
    "fr": ("Les chevaux dorment dans l’écurie.", "Où dort le cheval ?"),
    "es": ("Los panes salen del horno a las seis.", "¿Cuándo sale el pan?"),
    "ru": ("Собаки спят на крыльце.", "Где спит собака?"),
    "el": ("Οι γάτες κοιμούνται στην αυλή.", "Πού είναι η γάτα;"),
    "ar": ("المكتبات مغلقة يوم الجمعة.", "متى تفتح المكتبة؟"),
    "ko": ("우산은 현관에서 빌릴 수 있습니다.", "우산을 어디서 빌리나요?"),
    "zh": ("自行车存放在地下车库里。", "自行车放在哪里？"),
    "ja": ("自転車は地下の車庫に置いてください。", "自転車はどこに置きますか。"),
    "th": ("จักรยานจอดในโรงรถใต้ดิน", "จักรยานจอดที่ไหน"),
}
"""For each language a passage, and a question that shares a word with it, in another form if the language has any."""


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_question_finds_the_passage_of_its_language(open_index: Open, language: str) -> None:
    index = open_index()
    passages = [replace(chunk(code, text), language=code) for code, (text, _) in LANGUAGES.items()]
    index.apply([*((passage, unit(n)) for n, passage in enumerate(passages)), *ALL], [])
    assert titles(index, LANGUAGES[language][1])[0] == language


def test_what_looks_the_same_is_found_and_shown_as_written(open_index: Open) -> None:
    index = open_index()
    hyphens = chunk("Soft", "The har\u00adbour mas\u00adter counts ﬁfty ｂｕｏｙｓ.")
    index.apply([*ALL, (hyphens, unit(4))], [])
    for word in ("harbour", "fifty", "buoys", "bu\u200boys"):
        assert [hit.chunk for hit in index.search_text(word, 3)] == [hyphens]


def test_a_very_long_word_is_found(open_index: Open) -> None:
    digests = ["0a1b2c3d" * 16, "0a1b2c3d" * 15 + "0a1b2c3e", "f" * 5000]
    index = open_index()
    index.apply([(chunk(f"File {n}", f"Its sum is {digest}."), unit(n)) for n, digest in enumerate(digests)], [])
    for n, digest in enumerate(digests):
        assert titles(index, f"What has the sum {digest}?")[0] == f"File {n}"
        assert titles(index, digest) == [f"File {n}"]


def test_a_hit_carries_the_whole_chunk(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    assert index.search_text("herring", 1)[0].chunk == FISH


def test_names_with_dots_are_found_by_their_parts(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    assert titles(index, "loraconfig") == ["peft.LoraConfig"]
    assert titles(index, "lora config") == ["peft.LoraConfig"]


def test_vectors_are_ranked_by_cosine_similarity(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    expected = sorted(ALL, key=lambda pair: -float(pair[1] @ unit(2)))
    hits = index.search_vector(unit(2), 10)
    assert [hit.chunk for hit in hits] == [each for each, _ in expected]
    assert hits[0].score > hits[1].score > hits[2].score


def test_many_questions_are_answered_in_their_order(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    queries = [IndexQuery(text="swallow"), IndexQuery(vector=unit(1), limit=1), IndexQuery(text="nothing like it")]
    found = [[hit.chunk.title for hit in hits] for hits in index.search(queries)]
    assert found == [["Birds"], ["Fish"], []]


def test_a_crowd_of_questions_finds_what_each_finds_alone(open_index: Open) -> None:
    index = open_index()
    index.apply([(chunk(f"Fish {n}", f"Fish number {n} swims."), unit(n)) for n in range(30)], [])
    queries = [IndexQuery("", unit(100 + n), 4) for n in range(100)]
    queries += [IndexQuery("fish number 7", None, 3), IndexQuery("", unit(5), 50), IndexQuery("", unit(6), 3)]
    together = index.search(queries)
    for query, hits in zip(queries, together, strict=True):
        (alone,) = index.search([query])
        assert [hit.chunk for hit in hits] == [hit.chunk for hit in alone]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], abs=1e-4)


def test_filters_act_on_words_and_on_vectors(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    assert titles(index, "water rain rank", where={"topic": "air"}) == ["Birds"]
    assert [hit.chunk.title for hit in index.search_vector(unit(1), 10, {"topic": "air"})] == ["Birds"]
    assert titles(index, "rank", where={"names": "loraconfig"}) == ["peft.LoraConfig"]
    assert titles(index, "rank", where={"title": "o'clock"}) == []


def test_an_unknown_filter_lists_the_valid_ones(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    with pytest.raises(SearchIndexError, match="document_id, source, title, topic, names"):
        index.search_text("rank", 5, {"colour": "red"})


def test_words_that_look_like_query_syntax_are_only_words(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    assert titles(index, 'herring" AND (title:* OR -x~2 {') == ["Fish"]
    assert titles(index, "  ") == []


def test_deleted_chunks_are_gone_and_the_rest_stays(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    index.apply([], [FISH.id])
    assert set(index.chunk_ids()) == {BIRD.id, CODE.id}
    assert titles(index, "herring swallow") == ["Birds"]
    assert len(index.search_vector(unit(1), 10)) == 2


def test_an_index_whose_chunks_all_left_finds_nothing(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    index.apply([], [chunk.id for chunk, _ in ALL])
    assert index.search_text("herring", 10) == []
    assert index.search_vector(unit(1), 10) == []


def test_a_chunk_with_the_same_id_is_replaced(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    moved = Chunk(
        id=FISH.id,
        document_id=FISH.document_id,
        source=FISH.source,
        title=FISH.title,
        heading_path=FISH.heading_path,
        text=FISH.text,
        position=7,
        topic="river",
    )
    before = index.versions()[FISH.id]
    index.apply([(moved, unit(9))], [])
    assert index.versions()[FISH.id] != before
    assert [hit.chunk for hit in index.search_text("herring", 5)] == [moved]
    assert len(index.versions()) == 3


def test_vectors_come_back_as_they_were_stored(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL, [])
    found = index.vectors([FISH.id, CODE.id, "unknown"])
    assert set(found) == {FISH.id, CODE.id}
    np.testing.assert_allclose(found[CODE.id], unit(3), atol=1e-6)


def test_a_reader_that_is_open_follows_the_writer(open_index: Open) -> None:
    reader, writer = open_index(), open_index()
    writer.apply(ALL[:1], [])
    assert titles(reader, "herring swallow") == ["Fish"]
    writer.apply(ALL[1:], [FISH.id])
    assert titles(reader, "herring swallow") == ["Birds"]


def test_an_update_that_fails_half_way_changes_nothing(open_index: Open) -> None:
    index = open_index()
    index.apply(ALL[:2], [])

    def broken() -> Iterator[tuple[Chunk, np.ndarray]]:
        yield CODE, unit(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.apply(broken(), [FISH.id])
    assert set(open_index().chunk_ids()) == {FISH.id, BIRD.id}
    assert titles(index, "rank herring") == ["Fish"]
    index.apply([(CODE, unit(3))], [])
    assert set(index.chunk_ids()) == {FISH.id, BIRD.id, CODE.id}


def test_another_embedder_is_told_to_rebuild_and_its_build_replaces_the_old_one(open_index: Open) -> None:
    open_index().apply(ALL, [])
    other = open_index("two", 4)
    assert other.versions() == {}
    assert titles(other, "herring") == ["Fish"]
    with pytest.raises(SearchIndexError, match="embedder 'one'"):
        other.search_vector(np.ones(4, dtype=np.float32) / 2, 5)
    other.apply([(BIRD, np.ones(4, dtype=np.float32) / 2)], [])
    assert set(other.chunk_ids()) == {BIRD.id}
    assert titles(other, "herring") == []
    with pytest.raises(SearchIndexError, match="embedder 'two'"):
        open_index().search_vector(unit(1), 5)


def test_an_index_takes_room_once_it_was_built(open_index: Open) -> None:
    index = open_index()
    assert index.size_bytes() == 0
    index.apply(ALL, [])
    assert index.size_bytes() > 1000


def test_equal_scores_are_ordered_by_chunk_id_whenever_each_was_written(open_index: Open) -> None:
    index = open_index()
    twins = [chunk("Twin", "The same words here.", document=f"document {number}") for number in range(6)]
    for each in twins:
        index.apply([(each, unit(1))], [])
    ids = sorted(each.id for each in twins)
    assert [hit.chunk.id for hit in index.search_text("same words", 10)] == ids
    assert [hit.chunk.id for hit in index.search_vector(unit(1), 10)] == ids
