"""The knowledge base of a home: what people decided stays through every read."""

import json
from pathlib import Path

import pytest

from ragtune.errors import SettingsError, SourceError
from ragtune.knowledge.library import Library
from ragtune.settings import load_settings


def write(folder: Path, **texts: str) -> str:
    """Write NAME.md files and return the folder as a source."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text)
    return f"folder:{folder}"


def library(tmp_path: Path, *sources: str) -> Library:
    return Library(load_settings({"home": tmp_path / "home", "sources": sources}))


@pytest.fixture
def two(tmp_path: Path) -> Library:
    """A library whose source `one` has a.md and b.md and whose source `two` has c.md, after a read."""
    one = write(tmp_path / "one", a="# A\n\nFirst.", b="# B\n\nSecond.")
    knowledge = library(tmp_path, one, write(tmp_path / "two", c="# C\n\nThird."))
    knowledge.read()
    return knowledge


def paths(knowledge: Library) -> list[str]:
    return [document.path for document in knowledge.documents()]


def test_a_removed_document_stays_away_through_every_read_until_it_is_restored(two: Library, tmp_path: Path) -> None:
    (removed,) = two.remove(["a.md"])
    write(tmp_path / "one", a="# A\n\nFirst, edited.")
    again = library(tmp_path, *two.sources())
    assert [document.path for document in again.read().documents] == ["b.md", "c.md"]
    assert again.decisions().removed == (removed,)
    again.restore([removed.id])
    assert paths(again) == ["a.md", "b.md", "c.md"]
    assert again.find("a.md").text.strip().endswith("First, edited.")


def test_the_settings_give_a_source_its_language_whatever_the_documents_say(tmp_path: Path) -> None:
    text = "---\nlanguage: en\n---\n# Pult\n\nDas Pult."
    sources = write(tmp_path / "one", a=text), write(tmp_path / "two", b=text)
    settings = {"home": tmp_path / "home", "sources": sources}
    unset = Library(load_settings(settings)).read()
    assert [document.language for document in unset.documents] == ["en", "en"]
    german = Library(load_settings({**settings, "languages": {f"{sources[0]}/": "de"}}))
    corpus = german.read(reread=[])
    assert [document.language for document in corpus.documents] == ["de", "en"]
    assert [document.language for document in german.documents()] == ["de", "en"]
    assert {spec for spec, state in german.states().items() if state != unset.states[spec]} == {sources[0]}
    assert corpus.states == german.states()


def test_a_language_of_what_is_no_source_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "one", a="# A\n\nFirst.")
    settings = {"home": tmp_path / "home", "sources": [source], "languages": {"folder:elsewhere": "de"}}
    with pytest.raises(SettingsError, match=f"(?s)elsewhere, which is no source.*{source}"):
        Library(load_settings(settings)).read()
    with pytest.raises(SettingsError, match="languages"):
        load_settings({**settings, "languages": {source: "German"}})


def test_removing_twice_is_removing_once(two: Library) -> None:
    first = two.remove(["a.md"])
    two.remove([first[0].id])
    assert list(two.decisions().removed) == first


def test_one_source_is_read_again_and_the_others_stay_as_they_were(two: Library, tmp_path: Path) -> None:
    write(tmp_path / "one", a="# A\n\nEdited.")
    write(tmp_path / "two", c="# C\n\nEdited.", d="# D\n\nNew.")
    steps: list[str] = []
    corpus = two.refresh([f"folder:{tmp_path}/two/"], progress=lambda what, done, total: steps.append(what))
    assert [document.path for document in corpus.documents] == ["a.md", "b.md", "c.md", "d.md"]
    assert "First" in two.find("a.md").text
    assert "Edited" in two.find("c.md").text
    assert set(steps) == {f"reading folder:{tmp_path}/two"}


def test_a_refresh_also_reads_sources_that_were_never_read(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one", a="# A\n\nFirst."), write(tmp_path / "two", c="# C\n\nThird.")
    knowledge = library(tmp_path, one, other)
    assert [document.path for document in knowledge.refresh([other]).documents] == ["a.md", "c.md"]


def test_the_library_remembers_sources_that_were_added_or_dropped(two: Library, tmp_path: Path) -> None:
    one, other = two.sources()
    third = two.add(write(tmp_path / "three", e="# E\n\nFifth."))
    two.drop(one)
    assert library(tmp_path, one, other).sources() == [other, third]
    two.drop(third)
    two.add(one)
    assert two.decisions() == type(two.decisions())()


def test_a_relative_folder_is_added_with_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "docs", a="# A\n\nFirst.")
    monkeypatch.chdir(tmp_path)
    assert library(tmp_path).add("folder:docs/") == f"folder:{tmp_path}/docs"
    assert library(tmp_path, "folder:docs").sources() == ["folder:docs"], "it is the same folder"


def test_the_last_source_cannot_be_dropped(tmp_path: Path) -> None:
    one = write(tmp_path / "one", a="# A\n\nFirst.")
    with pytest.raises(SourceError, match="the only source"):
        library(tmp_path, one).drop(one)


def test_a_password_is_not_written_to_disk(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="given with a password") as refusal:
        library(tmp_path).add("ftp://me:secret@host/docs")
    assert "secret" not in str(refusal.value)


def test_a_source_of_the_settings_is_dropped_without_its_password(tmp_path: Path) -> None:
    knowledge = library(tmp_path, "folder:x", "ftp://me:secret@host/docs")
    assert knowledge.drop("ftp://host/docs/") == "ftp://host/docs"
    assert knowledge.sources() == ["folder:x"]
    assert "secret" not in (knowledge.folder / "decisions.json").read_text()


def test_an_unreadable_source_is_not_added(tmp_path: Path) -> None:
    empty = library(tmp_path, "folder:x")
    with pytest.raises(SourceError, match="There is no folder"):
        empty.add(f"folder:{tmp_path}/nowhere")
    assert empty.sources() == ["folder:x"]


def test_the_quarantine_is_kept_even_if_no_document_could_be_read(tmp_path: Path) -> None:
    knowledge = library(tmp_path, write(tmp_path / "one", a=""))
    with pytest.raises(SourceError, match="the file is empty"):
        knowledge.read()
    assert [(item.path, item.reason) for item in knowledge.quarantine()] == [("a.md", "the file is empty")]


def test_the_error_for_an_unknown_or_ambiguous_name_lists_the_choices(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one", guide="# A\n\nx"), write(tmp_path / "two", guide="# B\n\ny")
    knowledge = library(tmp_path, one, other)
    knowledge.read()
    with pytest.raises(SourceError, match=r"for example guide\.md"):
        knowledge.remove(["giude.md"])
    ids = [document.id for document in knowledge.documents()]
    with pytest.raises(SourceError, match=rf"2 documents are called 'guide.md'(.|\n)*{ids[0]}(.|\n)*{ids[1]}"):
        knowledge.remove(["guide.md"])
    with pytest.raises(SourceError, match="there is none"):
        knowledge.restore(["guide.md"])
    with pytest.raises(SourceError, match="not a source of this home"):
        knowledge.refresh(["package:numpy"])


def test_the_error_before_the_first_read_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="ragtune index"):
        library(tmp_path).documents()


def test_the_error_after_removing_every_document_says_how_to_restore_them(tmp_path: Path) -> None:
    knowledge = library(tmp_path, write(tmp_path / "one", a="# A\n\nx"))
    knowledge.read()
    knowledge.remove(["a.md"])
    with pytest.raises(SourceError, match="ragtune documents restore"):
        knowledge.refresh([])


def test_the_files_of_a_library_are_plain_json(two: Library) -> None:
    two.remove(["a.md"])
    (shelf,) = [row for row in json.loads((two.folder / "shelf.json").read_text()) if row["spec"].endswith("one")]
    lines = (two.folder / shelf["file"]).read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["a.md", "b.md"]
    assert json.loads((two.folder / "decisions.json").read_text())["removed"][0]["path"] == "a.md"


def test_existing_pairs_are_added_listed_and_read_again_like_documents(two: Library, tmp_path: Path) -> None:
    file = tmp_path / "faq.jsonl"
    file.write_text('{"question": "How?", "answer": "So."}\n{"question": "Why?"}\n')
    name = two.add(f"pairs:{file.parent}/./faq.jsonl")
    assert name == f"pairs:{file}"
    shelf = two.shelves()[-1]
    assert ([pair.question for pair in shelf.pairs], len(shelf.documents)) == (["How?"], 0)
    assert [item.path for item in two.quarantine()] == ["faq.jsonl, line 2"]
    before = two.states()[name]
    file.write_text('{"question": "How?", "answer": "So."}\n{"question": "Why?", "answer": "Because."}\n')
    assert two.states()[name] != before
    corpus = two.refresh([name])
    assert [pair.question for pair in corpus.pairs] == ["How?", "Why?"]
    assert [document.path for document in corpus.documents] == ["a.md", "b.md", "c.md"]
    two.drop(name)
    assert two.read().pairs == []


def test_a_file_without_one_good_pair_is_not_added(two: Library, tmp_path: Path) -> None:
    file = tmp_path / "faq.jsonl"
    file.write_text('{"question": "Why?"}\n')
    with pytest.raises(SourceError, match="the answer is empty"):
        two.add(f"pairs:{file}")
    assert len(two.sources()) == 2


def test_a_read_without_any_source_says_how_to_name_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAGTUNE_SOURCES", raising=False)
    with pytest.raises(SourceError, match=rf"no ragtune\.yaml in {tmp_path}") as error:
        library(tmp_path).read()
    assert "ragtune index --source folder:PATH" in error.value.fix
    assert "ragtune init" in error.value.fix
    (tmp_path / "ragtune.yaml").write_text("seed: 3\n")
    with pytest.raises(SourceError, match=r"ragtune\.yaml names none"):
        library(tmp_path).read()


def test_a_read_without_any_source_repeats_the_command_that_named_the_last_ones(tmp_path: Path) -> None:
    source = write(tmp_path / "my docs", a="# A\n\nFirst.")
    library(tmp_path).read([source])
    with pytest.raises(SourceError, match=f"ragtune index --source '{source}'"):
        library(tmp_path).read()
    assert paths(library(tmp_path)) == ["a.md"], "what was read stays"


def test_a_document_is_found_by_its_name_however_its_accents_are_written(tmp_path: Path) -> None:
    composed, apart = "k\u00fche.md", "ku\u0308he.md"
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / apart).write_text("# Cattle\n\nText.")
    knowledge = library(tmp_path, f"folder:{folder}")
    knowledge.read()
    assert knowledge.find(composed) == knowledge.find(apart)
    (folder / composed).write_text("# Cows\n\nText.")
    knowledge.read()
    assert [knowledge.find(name).title for name in (composed, apart)] == ["Cows", "Cattle"], "each as it is written"


def test_the_names_of_files_without_a_reader_are_kept_in_the_home(tmp_path: Path) -> None:
    source = write(tmp_path / "one", a="# A\n\nFirst.")
    (tmp_path / "one" / "plan.dwg").write_text("x")
    library(tmp_path, source).read()
    assert (library(tmp_path).ignored(), library(tmp_path).ignored_names()) == ({".dwg": 1}, {".dwg": ["plan.dwg"]})
