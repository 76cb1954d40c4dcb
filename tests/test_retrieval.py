import json
from pathlib import Path

import numpy as np
import pytest

from ragtune.backends.lance_index import LanceIndex
from ragtune.errors import SettingsError
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.names import body_text, names_in, object_names
from ragtune.knowledge.retrieval import Retriever, fuse, search_log
from ragtune.records import Chunk, Hit, content_id
from ragtune.settings import IndexSettings
from tests.support.counting_embedder import CountingEmbedder

NOISE = " ".join(f"peft LoraConfig adapter setting {number}" for number in range(9))


def chunk(title: str, text: str, document: str = "") -> Chunk:
    return Chunk(
        id=content_id(title, text),
        document_id=document or title,
        source="package:peft",
        title=title,
        heading_path=(),
        text=text,
        position=0,
    )


CHUNKS = [
    chunk("peft.LoraConfig", "Holds the options of one low-rank method. `r` is the rank."),
    chunk("peft.LoraModel", f"Builds a model. {NOISE}"),
    chunk("peft.get_peft_model", f"Wraps a model. {NOISE}"),
    chunk("torch.nn.modules.linear.Linear", "Applies a linear map to the incoming data."),
    chunk("Getting started", "Install the package and fine-tune an adapter."),
]


def retriever_over(tmp_path: Path, chunks: list[Chunk]) -> Retriever:
    index, embedder = LanceIndex(tmp_path / "index", "words", 32), CountingEmbedder()
    update_index(index, embedder, chunks)
    return Retriever(index, embedder, IndexSettings())


@pytest.fixture
def retriever(tmp_path: Path) -> Retriever:
    return retriever_over(tmp_path, CHUNKS)


def first(retriever: Retriever, text: str, **options: object) -> str:
    return retriever.search(text, 3, **options)[0].chunk.title  # type: ignore[arg-type]


def hit(name: str, document: str = "", score: float = 1.0) -> Hit:
    return Hit(
        Chunk(id=name, document_id=document or name, source="s", title=name, heading_path=(), text=name, position=0),
        score,
    )


def test_fusion_adds_reciprocal_ranks() -> None:
    fused = fuse([[hit("a"), hit("b")], [hit("b"), hit("c")]], 10, k=60)
    assert [each.chunk.id for each in fused] == ["b", "a", "c"]
    assert fused[0].score == pytest.approx(1 / 62 + 1 / 61)
    assert fused[1].score == pytest.approx(1 / 61)


def test_fusion_weighs_its_lists_and_keeps_to_the_limit() -> None:
    fused = fuse([[hit("a")], [hit("b")], [hit("c")]], 2, k=60, weights=[1.0, 3.0, 2.0])
    assert [each.chunk.id for each in fused] == ["b", "c"]


def test_ties_are_broken_the_same_way_every_time() -> None:
    assert [each.chunk.id for each in fuse([[hit("b")], [hit("a")]], 10, k=60)] == ["a", "b"]


@pytest.mark.parametrize("question", ["peft.LoraConfig", "What is `LoraConfig`?", "LoraConfig.r", "loraconfig"])
def test_an_object_named_in_the_question_comes_first(retriever: Retriever, question: str) -> None:
    assert first(retriever, question) == "peft.LoraConfig"


def test_a_public_name_finds_the_object_where_it_really_lives(retriever: Retriever) -> None:
    assert first(retriever, "adapter setting of torch.nn.Linear") == "torch.nn.modules.linear.Linear"


def test_without_the_name_match_a_text_full_of_the_words_would_win(retriever: Retriever) -> None:
    off = Retriever(retriever.index, retriever.embedder, IndexSettings(name_weight=0.0))
    question = "adapter setting LoraConfig"
    assert first(off, question) != "peft.LoraConfig"
    assert first(retriever, question) == "peft.LoraConfig"


@pytest.mark.parametrize(
    ("question", "passage"),
    [
        ("What does BuildKit do?", "Makes a kit out of parts."),
        ("Explain BuildKit", "Makes a kit out of parts."),
        ("What is the default of colour in BuildKit?", "`colour`: how it looks, by default red."),
        ("BuildKit.size", "`size`: a number for BuildKit, BuildKit and BuildKit."),
    ],
)
def test_of_a_named_object_the_passage_that_tells_what_was_asked_comes_first(
    tmp_path: Path, question: str, passage: str
) -> None:
    texts = [
        "Makes a kit out of parts.",
        "`colour`: how it looks, by default red.",
        "`size`: a number for BuildKit, BuildKit and BuildKit.",
    ]
    pages = [
        Chunk(
            id=f"c{n}",
            document_id="kit",
            source="package:kit",
            title="kit.BuildKit",
            heading_path=(),
            text=text,
            position=n,
        )
        for n, text in enumerate(texts)
    ]
    assert retriever_over(tmp_path, [*pages, *CHUNKS]).search(question, 1)[0].chunk.text == passage


def test_a_parameter_is_found_in_the_part_that_lists_it_however_often_the_others_say_its_name(tmp_path: Path) -> None:
    texts = [
        "Draws a map.",
        "Parameters:\n- `ink` (str): What it is drawn with.",
        *[f"ink ink draw {n}" for n in range(9)],
    ]
    pages = [
        Chunk(
            id=f"c{n}",
            document_id="map",
            source="package:map",
            title="map.draw_map",
            heading_path=(),
            text=text,
            position=n,
        )
        for n, text in enumerate(texts)
    ]
    hits = retriever_over(tmp_path, [*pages, *CHUNKS]).search("What is `ink` in draw_map?", 2)
    assert hits[0].chunk.text == texts[1]
    assert hits[0].score >= hits[1].score


LONG_PAGE = [
    ("Ovens", "The kitchen guide speaks of ovens, kitchen ovens and the guide's kitchen."),
    ("Knives", "Sharpen a blade on a wet stone. The kitchen guide says kitchen, guide and kitchen again."),
    ("Bread", "An oven of 240 degrees bakes it in the kitchen. Turn the loaf after a quarter of an hour."),
]


@pytest.mark.parametrize(
    ("question", "heading"),
    [
        ("In the kitchen guide, how does one sharpen a blade?", "Knives"),
        ("What does the kitchen guide say about bread?", "Bread"),
        ("In the kitchen guide, when is the loaf turned?", "Bread"),
    ],
)
def test_of_a_long_page_the_passage_comes_first_whose_line_or_heading_tells_what_was_asked(
    tmp_path: Path, question: str, heading: str
) -> None:
    page = [
        Chunk(
            id=f"c{n}",
            document_id="guide",
            source="folder:guide",
            title="Kitchen guide",
            heading_path=("Kitchen guide", name),
            text=text,
            position=n,
        )
        for n, (name, text) in enumerate(LONG_PAGE)
    ]
    assert retriever_over(tmp_path, [*page, *CHUNKS]).search(question, 1)[0].chunk.heading_path[-1] == heading


def test_passages_that_tell_alike_stay_as_they_were_found(tmp_path: Path) -> None:
    page = [
        Chunk(
            id=f"c{n}",
            document_id="guide",
            source="folder:guide",
            title="Kitchen guide",
            heading_path=(),
            text=f"Something {n}.",
            position=n,
        )
        for n in range(3)
    ]
    retriever = retriever_over(tmp_path, page)
    question = "Unheard of?"
    by_vector = [hit.chunk.id for hit in retriever.search(question, 3, "vector")]
    assert [hit.chunk.id for hit in retriever.search(question, 3)] == by_vector


def test_hybrid_finds_what_either_part_finds(retriever: Retriever) -> None:
    found = {each.chunk.id for each in retriever.search("install adapter", 5)}
    text = {each.chunk.id for each in retriever.search("install adapter", 2, mode="text")}
    vector = {each.chunk.id for each in retriever.search("install adapter", 2, mode="vector")}
    assert text <= found
    assert vector <= found


def test_text_mode_embeds_nothing(retriever: Retriever) -> None:
    embedder = CountingEmbedder()
    Retriever(retriever.index, embedder, IndexSettings()).search("install", 3, mode="text")
    assert embedder.embedded == []


def test_a_filter_keeps_to_one_document(retriever: Retriever) -> None:
    hits = retriever.search("adapter", 5, where={"document_id": "Getting started"})
    assert [each.chunk.title for each in hits] == ["Getting started"]


def test_many_questions_get_the_same_hits_as_one_at_a_time(retriever: Retriever) -> None:
    questions = ["LoraConfig.r", "wraps a model", "linear map of torch.nn.Linear and peft.LoraModel", "", "install"]
    together = retriever.search_many(questions, 3)
    assert together == [retriever.search(each, 3) for each in questions]
    assert retriever.search_many([], 3) == []


def test_vectors_that_are_known_are_not_made_again(retriever: Retriever) -> None:
    questions = ["LoraConfig.r", "wraps a model"]
    embedder = CountingEmbedder()
    known = retriever.embedder.embed(questions)
    found = Retriever(retriever.index, embedder, IndexSettings()).search_many(questions, 3, vectors=known)
    assert embedder.embedded == []
    assert found == retriever.search_many(questions, 3)


def test_an_unknown_mode_lists_the_valid_ones(retriever: Retriever) -> None:
    with pytest.raises(SettingsError, match="hybrid, text, vector"):
        retriever.search("x", 3, mode="magic")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="at least 1"):
        retriever.search("x", 0)


def test_an_empty_index_has_no_hits(tmp_path: Path) -> None:
    index = LanceIndex(tmp_path / "none", "words", 32)
    assert Retriever(index, CountingEmbedder(), IndexSettings()).search("anything", 3) == []


def test_searches_are_logged_with_hits_scores_and_milliseconds(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "retrieval.jsonl"
    logged = Retriever(retriever.index, retriever.embedder, retriever.settings, search_log(path, with_query=True))
    hits = logged.search("LoraConfig.r", 2)
    logged.search("install", 1, mode="text")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["query"] for line in lines] == ["LoraConfig.r", "install"]
    assert lines[0]["chunk_ids"] == [each.chunk.id for each in hits]
    assert lines[0]["scores"] == pytest.approx([each.score for each in hits], abs=1e-6)
    assert lines[0]["milliseconds"] > 0
    assert lines[1]["mode"] == "text"


def test_what_was_searched_for_is_logged_only_if_it_may_be(retriever: Retriever, tmp_path: Path) -> None:
    log = search_log(tmp_path / "searches.jsonl", with_query=False)
    hits = Retriever(retriever.index, retriever.embedder, retriever.settings, log).search("LoraConfig.r", 2)
    text = (tmp_path / "searches.jsonl").read_text()
    assert json.loads(text)["chunk_ids"] == [each.chunk.id for each in hits]
    assert "query" not in json.loads(text)
    assert "LoraConfig.r" not in text


def test_a_search_that_cannot_be_logged_is_answered_and_one_warning_says_so(
    retriever: Retriever, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "logs"
    blocked.write_text("a file where the folder should be")
    log = search_log(blocked / "searches.jsonl", with_query=False)
    logged = Retriever(retriever.index, retriever.embedder, retriever.settings, log)
    assert logged.search("LoraConfig.r", 2) == logged.search("LoraConfig.r", 2) != []
    assert [record.message.partition(":")[0] for record in caplog.records] == ["searches are not logged now"]
    blocked.unlink()
    logged.search("LoraConfig.r", 2)
    assert len((blocked / "searches.jsonl").read_text().splitlines()) == 1


def test_an_object_can_be_called_by_each_end_of_its_path() -> None:
    assert object_names("peft.tuners.LoraConfig") == ["peft.tuners.loraconfig", "tuners.loraconfig", "loraconfig"]
    assert object_names("Getting started") == ["getting started"]


def test_names_are_read_from_questions_the_most_exact_first() -> None:
    assert names_in("How does `rank` of peft.LoraConfig work?") == [["peft.loraconfig", "loraconfig"], ["rank"]]
    assert names_in("What is LoraConfig.r?") == [["loraconfig.r", "loraconfig"]]
    assert names_in("set batch_size in SFTConfig") == [["batch_size"], ["sftconfig"]]
    assert names_in("What is `run_key` of a run request?") == [["run_key"]]


@pytest.mark.parametrize("question", ["How do I train a model?", "What is an asset check?", "What is an op?"])
def test_plain_words_are_no_names_whatever_a_question_asks_about_them(question: str) -> None:
    assert names_in(question) == []


def test_a_camel_case_title_is_also_searched_by_its_words() -> None:
    assert body_text(CHUNKS[0]).endswith("\npeft Lora Config")
    assert body_text(CHUNKS[4]) == CHUNKS[4].embedded_text


def test_a_query_vector_of_the_index_is_unit_length(retriever: Retriever) -> None:
    hits = retriever.search(CHUNKS[0].embedded_text, 1, mode="vector")
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert np.isfinite(hits[0].score)


def shelf(count: int) -> list[Chunk]:
    """Return passages about the same things, of which none has an identifier."""
    return [
        chunk(f"Notes {n}", f"What the fault in pump {'abcdefgh'[n % 8] * 3} does, and what to do.")
        for n in range(count)
    ]


@pytest.mark.parametrize(
    "name", ["FLT-2031-0077", "rel/7.4.1", "ops@quay.example", "Y3391", "0c" * 64, "гавань", "冷藏仓库"]
)
@pytest.mark.parametrize("form", ["{}", "What does {} do?", "In pump aaa, what is the fault {} and what does it do?"])
def test_the_one_passage_with_an_identifier_comes_first(tmp_path: Path, name: str, form: str) -> None:
    right = chunk("Leaflet", f"Nothing like the others; {name} is mentioned.")
    retriever = retriever_over(tmp_path, [*shelf(30), right])
    assert first(retriever, form.format(name)) == "Leaflet"


def test_an_identifier_that_many_documents_have_changes_nothing(tmp_path: Path) -> None:
    common = [chunk(f"Year {n}", f"In 2031 gate number {n} was opened.") for n in range(8)]
    retriever = retriever_over(tmp_path, [*common, chunk("Plan", "Which gate is closed: the northern gate is closed.")])
    assert first(retriever, "Which gate was closed in 2031: the northern gate?") == "Plan"


def test_scores_fall_with_the_rank_when_an_exact_hit_was_put_first(tmp_path: Path) -> None:
    retriever = retriever_over(tmp_path, [*shelf(30), chunk("Leaflet", "Nothing alike, FLT-2031-0077 is named.")])
    scores = [hit.score for hit in retriever.search("What does the fault FLT-2031-0077 do?", 20)]
    assert scores == sorted(scores, reverse=True)


def test_a_name_is_found_with_a_soft_hyphen_in_the_question(retriever: Retriever) -> None:
    assert first(retriever, "What is Lora\u00adConfig?") == "peft.LoraConfig"


def test_the_embedder_reads_the_normal_form_and_the_hit_keeps_the_text(tmp_path: Path) -> None:
    index, embedder = LanceIndex(tmp_path / "index", "words", 32), CountingEmbedder()
    written = chunk("Pier", "The ofﬁce of the har\u00adbour")
    update_index(index, embedder, [written])
    assert embedder.embedded == ["Pier\nThe office of the harbour"]
    assert Retriever(index, embedder, IndexSettings()).search("harbour", 1)[0].chunk == written
