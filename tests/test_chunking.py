import random
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.duplicates import fingerprint, mark_duplicates
from ragtune.records import Chunk, Document, content_id
from ragtune.settings import ChunkingSettings


def count_words(texts: Sequence[str]) -> list[int]:
    return [2 + len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]


def document(text: str, path: str = "a.md", title: str = "Town", kind: str = "prose") -> Document:
    return Document(
        id=content_id("s", path), source="s", path=path, title=title, text=text, sha256=content_id(text), kind=kind
    )


def chunks_of(text: str, limit: int = 60, overlap: int = 10, **facts: str) -> list[Chunk]:
    settings = ChunkingSettings(max_tokens=limit, overlap_tokens=overlap)
    chunks = chunk_documents([document(text, **facts)], settings, count_words)
    for chunk, count in zip(chunks, count_words([chunk.embedded_text for chunk in chunks]), strict=True):
        assert count <= limit, chunk
    assert [chunk.position for chunk in chunks] == list(range(len(chunks)))
    return chunks


def marked(chunks: list[Chunk]) -> list[Chunk]:
    return mark_duplicates(chunks, [fingerprint(chunk) for chunk in chunks])


def sentences(n: int, word: str = "gate") -> str:
    return " ".join(f"Sentence {word} number {n} ends here." for n in range(n))


def test_a_document_that_fits_is_one_chunk() -> None:
    text = "# Town\n\nIt has a gate.\n\n## Hours\n\nEight to five."
    (chunk,) = chunks_of(text)
    assert chunk.heading_path == ()
    assert "## Hours" in chunk.text
    assert chunk.id == content_id(chunk.document_id, chunk.text)
    assert chunk.embedded_text.startswith("Town\n")


def test_sections_are_kept_whole_under_their_heading_path() -> None:
    hours, walls = sentences(6, "hour"), sentences(6, "wall")
    text = f"# Town\n\n## Gates\n\n{sentences(5)}\n\n### Hours\n\n{hours}\n\n## Walls\n\n{walls}"
    chunks = chunks_of(text)
    assert [chunk.heading_path for chunk in chunks] == [("Gates",), ("Gates", "Hours"), ("Walls",)]
    assert chunks[1].text == sentences(6, "hour")
    assert "Gates > Hours" in chunks[1].embedded_text


def test_only_a_paragraph_that_is_cut_overlaps() -> None:
    whole = chunks_of(f"{sentences(6, 'a')}\n\n{sentences(6, 'b')}")
    assert [chunk.text for chunk in whole] == [sentences(6, "a"), sentences(6, "b")]
    first, second, *_ = chunks_of(sentences(20))
    last_sentence = first.text.rsplit(". ", 1)[-1]
    assert second.text.startswith(last_sentence)
    assert not chunks_of(sentences(20), overlap=0)[1].text.startswith(last_sentence)


def test_nothing_of_a_long_text_is_lost() -> None:
    rng = random.Random(3)
    words = [f"w{n}" for n in range(900)]
    body = " ".join(word + ("." if rng.random() < 0.1 else "") for word in words)
    found = set(re.findall(r"w\d+", " ".join(chunk.text for chunk in chunks_of(body))))
    assert found == set(words)


def test_code_stays_whole_and_is_fenced_again_where_it_must_be_cut() -> None:
    code = "```python\n" + "\n".join(f"value_{n} = open_gate({n})" for n in range(6)) + "\n```"
    chunks = chunks_of(f"{sentences(5)}\n\n{code}")
    assert code in [chunk.text for chunk in chunks]
    long = "```python\n" + "\n".join(f"value_{n} = open_gate({n})" for n in range(40)) + "\n```"
    pieces = chunks_of(long)
    assert len(pieces) > 1
    assert all(chunk.text.startswith("```python\n") and chunk.text.endswith("\n```") for chunk in pieces)
    assert sum(chunk.text.count("open_gate") for chunk in pieces) == 40


def test_a_heading_mark_inside_code_is_no_heading() -> None:
    (chunk,) = chunks_of("Text.\n\n```sh\n# a comment\nls\n```")
    assert "# a comment" in chunk.text


def test_table_pieces_repeat_the_header() -> None:
    rows = "\n".join(f"| gate {n} | opens at {n} |" for n in range(30))
    chunks = chunks_of(f"| name | hours |\n|---|---|\n{rows}")
    assert len(chunks) > 1
    assert all(chunk.text.startswith("| name | hours |\n|---|---|\n") for chunk in chunks)
    assert sum(chunk.text.count("opens at") for chunk in chunks) == 30


def test_a_bar_in_a_cell_stays_when_a_wide_row_is_cut() -> None:
    row = f"| {sentences(8)} | north\\|south | open |"
    text = "\n".join(chunk.text for chunk in chunks_of(f"| a | b | c |\n|---|---|---|\n{row}"))
    assert "north|south; open" in text


def test_a_piece_that_repeats_another_one_is_kept_as_its_copy() -> None:
    chunks = chunks_of("\n\n".join([sentences(6, "a"), sentences(6, "b"), sentences(6, "a")]))
    assert [chunk.text for chunk in chunks] == [sentences(6, "a"), sentences(6, "b"), sentences(6, "a")]
    assert [chunk.duplicate_of for chunk in chunks] == ["", "", chunks[0].id]
    assert len({chunk.id for chunk in chunks}) == 3


def test_a_list_is_cut_between_items() -> None:
    items = [f"- gate {n} opens at dawn and it closes late" for n in range(20)]
    chunks = chunks_of("\n".join(items))
    assert len(chunks) > 1
    assert [line for chunk in chunks for line in chunk.text.split("\n")] == items


def test_a_nested_list_keeps_its_items_when_it_is_cut() -> None:
    inner = "\n".join(f"    - `option{n}` {{string}} decides something about gate {n}" for n in range(12))
    chunks = chunks_of(f"- `options` {{Object}} all of these:\n{inner}")
    lines = [line.strip() for chunk in chunks for line in chunk.text.split("\n")]
    assert sum(line.startswith("- `option") for line in lines) == 13


@pytest.mark.parametrize(
    "text", ["x" * 5000, "ab " * 3000, "| a |\n|---|\n| " + "word " * 500 + "|", "# " + "long heading " * 80]
)
def test_whatever_the_text_no_chunk_is_over_the_bound(text: str) -> None:
    assert chunks_of(text, title="A title " * 30)


def test_a_tokenizer_whose_counts_do_not_add_up_is_bounded_too() -> None:
    def superadditive(texts: Sequence[str]) -> list[int]:
        return [2 + int(len(text.split()) ** 1.3) for text in texts]

    chunks = chunk_documents([document(sentences(60))], ChunkingSettings(max_tokens=60), superadditive)
    assert max(superadditive([chunk.embedded_text for chunk in chunks])) <= 60
    assert [chunk.position for chunk in chunks] == list(range(len(chunks)))


def test_an_api_page_is_cut_at_its_labels_and_each_part_says_where_it_belongs() -> None:
    parameters = "\n".join(f"- `p{n}` (int, default {n}): The width of gate number {n}." for n in range(12))
    text = f"`kit.open(p0)`  (function)\n\nOpen a gate.\n\nParameters:\n{parameters}\n\nReturns:\n- Gate: The gate."
    chunks = chunks_of(text, limit=100, title="kit.open", kind="api")
    assert chunks[0].heading_path == ()
    assert chunks[0].text.startswith("`kit.open(p0)`")
    assert all(chunk.heading_path == ("Parameters",) for chunk in chunks[1:])
    assert all(
        line.startswith(("- `p", "Parameters:", "Returns:", "- Gate", ""))
        for c in chunks[1:]
        for line in c.text.split("\n")
    )
    assert chunks[-1].text.endswith("Returns:\n- Gate: The gate.")
    assert "kit.open > Parameters" in chunks[1].embedded_text


def test_cutting_twice_gives_the_same_ids() -> None:
    text = f"# A\n\n{sentences(30)}\n\n## B\n\n{sentences(30, 'b')}"
    assert [chunk.id for chunk in chunks_of(text)] == [chunk.id for chunk in chunks_of(text)]


def make_chunk(text: str, number: int, title: str = "T", heading: tuple[str, ...] = ()) -> Chunk:
    return Chunk(
        id=f"c{number}", document_id=f"d{number}", source="s", title=title, heading_path=heading, text=text, position=0
    )


PROSE = (
    "The gate is opened by the guard early in the morning and it is closed again late at night when all have gone home"
)
LONG = f"{PROSE}. " + " ".join(
    f"Then the {word} passes slowly." for word in ("baker", "smith", "miller", "tanner", "weaver", "cook")
)


@pytest.mark.parametrize(
    "other",
    [
        LONG.upper() + "!",
        LONG.replace("guard early", "**guard**  early"),
        LONG.replace("guard", "`guard`").replace(". ", ".\n\n"),
        LONG.replace("opened", "ope\u00adned"),
        f"> {LONG}",
        LONG.replace("guard early", "_guard_ early"),
    ],
)
def test_case_white_space_punctuation_and_markup_make_no_other_text(other: str) -> None:
    assert marked([make_chunk(LONG, 1), make_chunk(other, 2)])[1].duplicate_of == "c1"


@pytest.mark.parametrize(
    ("words", "others"),
    [
        ("guard", "porter"),
        ("is opened", "is not opened"),
        ("is opened", "may be opened"),
        ("morning", "morning at 8"),
        ("The gate", "The gate of Turku"),
        ("closed again", "closed"),
        ("night", "night (5 $)"),
        ("guard", "guard_of"),
        ("Then the smith passes slowly.", "The smith passes slowly then."),
    ],
)
def test_a_text_that_differs_in_any_word_is_another_text(words: str, others: str) -> None:
    first, second = marked([make_chunk(LONG, 1), make_chunk(LONG.replace(words, others), 2)])
    assert (first.duplicate_of, second.duplicate_of) == ("", "")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The pier holds 1.5 tons.", "The pier holds 15 tons."),
        ("It is -5 degrees.", "It is 5 degrees."),
        ("It costs 5 €.", "It costs 5 $."),
        ("We write C.", "We write C++."),
        ("Only if a == b", "Only if a != b"),
        ("Only if a < b", "Only if a > b"),
        ("```\nf(x)\n```", "```\nf[x]\n```"),
        ("It takes 10⁶ steps.", "It takes 106 steps."),
    ],
)
def test_numbers_signs_and_code_are_compared_exactly(one: str, other: str) -> None:
    assert marked([make_chunk(one, 1), make_chunk(other, 2)])[1].duplicate_of == ""


def test_the_same_text_under_another_heading_is_another_text() -> None:
    chunks = [
        make_chunk(LONG, n, heading=("Hooks", name)) for n, name in enumerate(["before()", "after()", "before()"])
    ]
    assert [chunk.duplicate_of for chunk in marked(chunks)] == ["", "", "c0"]


def test_the_same_text_under_another_title_is_another_text() -> None:
    chunks = [make_chunk(PROSE, 1, "Office of Turku"), make_chunk(PROSE, 2, "Office of Tartu")]
    assert [chunk.duplicate_of for chunk in marked(chunks)] == ["", ""]


def test_every_copy_names_its_original() -> None:
    chunks = marked([make_chunk(PROSE, 1), make_chunk(LONG, 2), make_chunk(PROSE.upper(), 3)])
    assert [chunk.duplicate_of for chunk in chunks] == ["", "", "c1"]


CHINESE = "港口每天早上六点开放。渡轮在大风时停止运行！旅客能不能带自行车上船？可以，但是必须提前一天登记。"


def test_a_long_text_without_spaces_is_cut_at_sentence_ends_and_stays_as_it_is() -> None:
    def count_characters(texts: Sequence[str]) -> list[int]:
        return [2 + len(text) for text in texts]

    text = "".join(CHINESE.replace("六", str(hour)) for hour in range(6))
    settings = ChunkingSettings(max_tokens=64, overlap_tokens=0)
    chunks = chunk_documents([document(text, title="港")], settings, count_characters)
    assert len(chunks) > 3
    assert "".join(chunk.text for chunk in chunks) == text
    assert all(chunk.text.endswith(("。", "！", "？")) for chunk in chunks)


def test_a_sentence_without_spaces_and_longer_than_a_passage_is_cut_between_words() -> None:
    def count_characters(texts: Sequence[str]) -> list[int]:
        return [2 + len(text) for text in texts]

    text = "".join(f"ท่าเรือเปิดทุกเช้าที่{n}และปิดในตอนเย็น" for n in range(8))
    settings = ChunkingSettings(max_tokens=64, overlap_tokens=0)
    chunks = chunk_documents([document(text, title="ก")], settings, count_characters)
    assert len(chunks) > 3
    assert "".join(chunk.text for chunk in chunks) == text


def test_a_word_longer_than_a_passage_gets_no_spaces() -> None:
    word = "".join(f"k{n}" for n in range(60))
    settings = ChunkingSettings(max_tokens=64, overlap_tokens=0)
    chunks = chunk_documents([document(word)], settings, lambda texts: [2 + len(text) for text in texts])
    assert "".join(chunk.text for chunk in chunks) == word


def test_a_chunk_has_the_language_of_its_document() -> None:
    german = replace(document("Der Hafen ist offen."), language="de")
    (chunk,) = chunk_documents([german], ChunkingSettings(max_tokens=64, overlap_tokens=0), count_words)
    assert chunk.language == "de"
