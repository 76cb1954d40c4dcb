import random
import re
import time
from collections.abc import Sequence

import pytest

from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.duplicates import fingerprints, mark_duplicates
from ragtune.records import Chunk, Document, content_id
from ragtune.settings import ChunkingSettings
from ragtune.text.shingles import jaccard, shingles


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


def marked(chunks: list[Chunk], title_bound: frozenset[str] = frozenset()) -> list[Chunk]:
    return mark_duplicates(chunks, fingerprints(chunks, title_bound))


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
    ("other", "duplicate"),
    [
        (LONG.upper() + "!", True),
        (LONG.replace("guard early", "**guard**  early"), True),
        (LONG + " So be it.", True),
        (LONG.replace("morning", "morning at 8"), False),
        (LONG.replace("guard", "`guard_of`"), False),
        (LONG + " Set `a == 1`.", False),
        ("Walls are built of stone which comes from the hills in the north where nobody lives any more today", False),
    ],
)
def test_repeated_text_is_marked_but_never_a_text_with_other_facts(other: str, duplicate: bool) -> None:
    first, second = marked([make_chunk(LONG, 1), make_chunk(other, 2)])
    assert first.duplicate_of == ""
    assert second.duplicate_of == ("c1" if duplicate else "")


def test_the_same_text_under_another_heading_is_another_text() -> None:
    chunks = [
        make_chunk(LONG, n, heading=("Hooks", name)) for n, name in enumerate(["before()", "after()", "before()"])
    ]
    assert [chunk.duplicate_of for chunk in marked(chunks)] == ["", "", "c0"]


def test_boilerplate_of_many_documents_is_marked_wherever_it_stands() -> None:
    notice = "Licensed under the terms of the town, which you find at the gate, and without any warranty at all."
    texts = [f"{PROSE} in part {word}.\n\n{notice}" for word in ("north", "south")]
    first, second, third = marked([make_chunk(texts[0], 1), make_chunk(texts[1], 2), make_chunk(notice, 3)])
    assert (first.duplicate_of, second.duplicate_of, third.duplicate_of) == ("", "", "c1")


def test_short_answers_under_different_titles_are_both_kept() -> None:
    _, second = marked([make_chunk("No.", 1, "Is it open?"), make_chunk("No.", 2, "Is it free?")])
    assert second.duplicate_of == ""


def test_equal_api_pages_of_different_objects_are_both_kept() -> None:
    chunks = [make_chunk(PROSE, 1, "kit.A.close"), make_chunk(PROSE, 2, "kit.B.close")]
    assert [chunk.duplicate_of for chunk in marked(chunks, title_bound=frozenset({"c1", "c2"}))] == ["", ""]
    assert [chunk.duplicate_of for chunk in marked(chunks)] == ["", "c1"]


def test_near_duplicates_agree_with_brute_force_and_ten_thousand_chunks_take_seconds() -> None:
    rng = random.Random(5)
    vocabulary = ["".join(rng.choice("abcdefghij") for _ in range(6)) for _ in range(3000)]
    texts = [" ".join(rng.choices(vocabulary, k=120)) for _ in range(9000)]
    for n in range(1000):
        words = texts[n].split()
        for _ in range(n % 4):
            words[rng.randrange(120)] = rng.choice(vocabulary)
        texts.append(" ".join(words))
    started = time.process_time()
    found = marked([make_chunk(text, n) for n, text in enumerate(texts)])
    seconds = time.process_time() - started
    for n in range(1000):
        near = jaccard(shingles(texts[n]), shingles(texts[9000 + n])) >= 0.9
        assert found[9000 + n].duplicate_of == (f"c{n}" if near else "")
    assert not any(chunk.duplicate_of for chunk in found[:9000])
    assert seconds < 30  # measured on two busy cores: 4.9 and 5.4; the rest is room
