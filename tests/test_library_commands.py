"""`ragtune documents` and `ragtune sources`: what they print, and what a search finds afterwards."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ragtune.errors import RagTuneError, SourceError
from ragtune_serving.cli import app


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose index holds a folder of two readable documents and a broken one."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "cart.md").write_text("# Cart\n\nThe cart adds up the prices of all items.\n")
    (folder / "login.md").write_text("# Login\n\nA session lasts for thirty minutes.\n")
    (folder / "broken.pdf").write_text("no PDF at all")
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAGTUNE_SOURCES", json.dumps([f"folder:{folder}"]))
    monkeypatch.chdir(tmp_path)
    assert invoke("index")
    return folder


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception:
        raise result.exception
    return result.stdout


def as_json(*arguments: str):
    return json.loads(invoke(*arguments, "--json"))


def titles(query: str) -> set[str]:
    return {hit["title"] for hit in as_json("search", query)}


def test_a_removed_document_is_no_longer_found_until_the_printed_command_restores_it(docs: Path) -> None:
    report = as_json("documents", "remove", "cart.md")
    assert (report["index"]["deleted"], report["documents"][0]["path"]) == (1, "cart.md")
    assert titles("cart prices") == {"Login"}
    assert as_json("index")["deleted"] == 0, "the next read leaves it out as well"
    assert titles("cart prices") == {"Login"}
    assert [document["path"] for document in as_json("documents", "list", "--removed")] == ["cart.md"]
    invoke(*report["undo"].split()[1:])
    assert titles("cart prices") == {"Cart", "Login"}


def test_documents_are_listed_and_shown_with_their_passages(docs: Path) -> None:
    assert [document["path"] for document in as_json("documents", "list")] == ["cart.md", "login.md"]
    assert [document["title"] for document in as_json("documents", "list", "LOG")] == ["Login"]
    login = as_json("documents", "show", "login.md")
    assert (login["removed"], login["source"]) == (False, f"folder:{docs}")
    (passage,) = login["passages"]
    assert "thirty minutes" in passage["text"]
    assert login["text"][passage["start"] :].startswith("# Login")
    assert "thirty minutes" in login["text"]
    assert "thirty minutes" in invoke("documents", "show", "Login")
    assert "Documents: 2" in invoke("documents", "list")


def test_a_document_shows_what_was_left_out_and_which_passages_are_copies(docs: Path) -> None:
    words = "Parcels with glass are carried by hand and never stacked more than two boxes high on any of the carts."
    (docs / "glass.md").write_text(f"# Glass\n\n<!-- ask Ruth -->\n\n{words}\n\n[rates](https://example.org/rates)\n")
    (docs / "vases.md").write_text(f"# Glass\n\n{words}\n\n[rates](https://example.org/rates)\n")
    invoke("index")
    glass, vases = as_json("documents", "show", "glass.md"), as_json("documents", "show", "vases.md")
    assert {part["sample"] for part in glass["left_out"].values()} == {"ask Ruth", "https://example.org/rates"}
    assert (glass["accounted_for"], glass["lost"], glass["passages"][0]["copy_of"]) == (1.0, [], None)
    assert vases["passages"][0]["copy_of"] == {"chunk": glass["passages"][0]["chunk"], "source": "glass.md"}
    shares = {document["path"]: document["in_passages"] for document in as_json("documents", "list")}
    assert shares == {"cart.md": 1.0, "glass.md": glass["in_passages"], "login.md": 1.0, "vases.md": shares["vases.md"]}
    assert 0.7 < shares["glass.md"] < 0.9, "6 words of some 30 are a comment and an address"
    printed = invoke("documents", "show", "vases.md")
    assert f"a copy of {glass['passages'][0]['chunk']} in glass.md, not indexed" in printed
    assert "left out      4 words" in printed


def test_the_same_text_under_another_title_is_listed_and_both_are_found(docs: Path) -> None:
    (docs / "kiel.md").write_text("# Kiel\n\nThe counter is open from nine to five.\n")
    (docs / "bremen.md").write_text("# Bremen\n\nThe counter is open from nine to five.\n")
    invoke("index")
    (passage,) = as_json("documents", "show", "kiel.md")["passages"]
    assert [(other["source"], other["title"]) for other in passage["same_text_as"]] == [("bremen.md", "Bremen")]
    assert passage["copy_of"] is None
    assert "the same text as in kiel.md, under the title Kiel" in invoke("documents", "show", "bremen.md")
    for name in ("Kiel", "Bremen"):
        assert as_json("search", f"counter {name}")[0]["source"] == f"{name.lower()}.md"


def test_status_shows_how_much_the_index_holds(docs: Path) -> None:
    assert "index       2 documents, 2 passages" in invoke("status")
    assert as_json("status")["index"] == {"documents": 2, "passages": 2}


def test_a_removed_document_is_shown_whole(docs: Path) -> None:
    invoke("documents", "remove", "cart.md")
    cart = as_json("documents", "show", "cart.md")
    assert (cart["removed"], cart["in_passages"], cart["lost_words"]) == (True, 1.0, 0)


def test_a_search_can_be_narrowed_to_a_source_a_document_or_a_title(docs: Path, tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text('{"id": "m", "title": "Shipping", "text": "Prices of parcels."}\n')
    invoke("sources", "add", "jsonl:more.jsonl")

    def search(*filters: str) -> list[str]:
        options = [option for entry in filters for option in ("--filter", entry)]
        return [hit["source"] for hit in as_json("search", "prices", *options)]

    assert search(f"source=jsonl:{tmp_path}/more.jsonl") == ["m"]
    assert search("source=login.md") == search("title=Login") == ["login.md"]
    assert sorted(search(f"source=folder:{docs}")) == ["cart.md", "login.md"]
    assert search("title=Login", "source=cart.md") == []
    (tmp_path / "q.jsonl").write_text('{"id": "q1", "text": "prices"}\n')
    invoke("search", "--queries", "q.jsonl", "--run", "run.trec", "--level", "document", "--filter", "title=Cart")
    assert len((tmp_path / "run.trec").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (["author=Ruth"], "document_id, source, title, topic"),
        (["title"], "FIELD=VALUE"),
        (["source=crat.md"], r"for example cart\.md"),
        (["title=Cart", "title=Login"], "one value for each field"),
    ],
)
def test_a_wrong_filter_is_refused_with_what_is_valid(docs: Path, filters: list[str], message: str) -> None:
    options = [option for entry in filters for option in ("--filter", entry)]
    with pytest.raises(RagTuneError, match=message):
        invoke("search", "prices", *options)


def test_a_hit_names_its_path_headings_and_place(docs: Path) -> None:
    part = "The lamp on the upper deck is green and is lit at dusk by the second mate. " * 12
    text = f"# Ship\n\n{part}\n\n## Night\n\n{part}\n\n### Anchor\n\nThe anchor watch changes every {part}"
    (docs / "ship.md").write_text(text)
    invoke("index")
    hit = next(hit for hit in as_json("search", "anchor watch") if "anchor watch" in hit["text"])
    assert (hit["source"], hit["headings"], hit["page"]) == ("ship.md", ["Night", "Anchor"], 0)
    shown = as_json("documents", "show", "ship.md")["text"]
    assert shown[hit["start"] :].startswith("The anchor watch")
    assert "ship.md" in invoke("search", "anchor watch")


def test_the_quarantine_names_each_broken_document_with_its_reason(docs: Path) -> None:
    (document,) = as_json("documents", "quarantine")
    assert document["path"] == "broken.pdf"
    assert document["reason"] in invoke("documents", "quarantine")


def test_a_source_is_added_refreshed_and_removed(docs: Path, tmp_path: Path) -> None:
    other = tmp_path / "more.jsonl"
    other.write_text('{"id": "m", "title": "Shipping", "text": "Parcels leave on Mondays."}\n')
    added = as_json("sources", "add", "jsonl:more.jsonl")
    assert (added["source"], added["index"]["added"]) == (f"jsonl:{other}", 1)
    assert "Shipping" in titles("when do parcels leave")
    (docs / "cart.md").write_text("# Cart\n\nEdited, but not read again.\n")
    other.write_text('{"id": "m", "title": "Shipping", "text": "Parcels leave on Fridays."}\n')
    assert as_json("sources", "refresh", "jsonl:more.jsonl")["index"]["updated"] == 1
    assert "Fridays" in as_json("documents", "show", "m")["text"]
    rows = {row["source"]: row for row in as_json("sources", "list")}
    assert rows[f"jsonl:{other}"]["named_in"] == "the home"
    assert (rows[f"folder:{docs}"]["documents"], rows[f"folder:{docs}"]["quarantined"]) == (2, 1)
    removed = as_json("sources", "remove", "jsonl:more.jsonl")
    assert removed["undo"] == f"ragtune sources add jsonl:{other}"
    assert "Shipping" not in titles("when do parcels leave")
    assert f"folder:{docs}  (the settings)  2 documents, 1 not readable" in invoke("sources", "list")


def test_an_error_about_a_wrong_name_lists_valid_names(docs: Path) -> None:
    with pytest.raises(SourceError, match=r"for example cart\.md"):
        invoke("documents", "remove", "crat.md")
    with pytest.raises(SourceError, match=f"one of folder:{docs}"):
        invoke("sources", "refresh", "folder:elsewhere")


def test_a_run_file_has_the_ids_of_the_collection(docs: Path, tmp_path: Path) -> None:
    lines = [{"id": "MED-10", "title": "Statins", "text": "Statins lower cholesterol."}, {"id": "MED-2", "text": "x"}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "queries.jsonl").write_text('{"id": "q1", "text": "what lowers cholesterol"}\n')
    invoke("index", "--source", "jsonl:corpus.jsonl")
    invoke("search", "--queries", "queries.jsonl", "--run", "run.trec", "--level", "document")
    assert (tmp_path / "run.trec").read_text().split()[:4] == ["q1", "Q0", "MED-10", "1"]


def test_a_run_file_has_top_k_documents_even_if_one_document_has_most_of_the_passages(
    docs: Path, tmp_path: Path
) -> None:
    long = "\n\n".join(
        f"## Part {i}\n\n" + f"The price of item {i} is what the shop says it is. " * 12 for i in range(9)
    )
    lines = [{"id": "LONG", "text": long}, {"id": "A", "text": "A price."}, {"id": "B", "text": "Another price."}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "queries.jsonl").write_text('{"id": "q1", "text": "the price of an item"}\n')
    invoke("index", "--source", "jsonl:corpus.jsonl")
    invoke("search", "--queries", "queries.jsonl", "--run", "run.trec", "--level", "document", "--top-k", "3")
    assert sorted(line.split()[2] for line in (tmp_path / "run.trec").read_text().splitlines()) == ["A", "B", "LONG"]


def test_every_command_on_the_page_of_the_knowledge_base_exists() -> None:
    page = (Path(__file__).parent.parent / "docs" / "knowledge.md").read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    commands = {
        tuple(command.split()) for command in re.findall(r"^ragtune ((?:documents|sources) \w+|\w+)", blocks, re.M)
    }
    assert {("index",), ("documents", "restore"), ("sources", "add")} <= commands
    for command in commands:
        assert "Usage" in invoke(*command, "--help")


def test_existing_pairs_are_shown_as_what_they_are(docs: Path, tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text("question,answer\nHow long is a session?,Thirty minutes.\nAnd?,\n")
    invoke("sources", "add", "pairs:faq.csv")
    (row,) = [row for row in as_json("sources", "list") if row["source"] == f"pairs:{tmp_path}/faq.csv"]
    assert (row["pairs"], row["documents"], row["quarantined"]) == (1, 0, 1)
    assert "1 existing pair, 1 not readable" in " ".join(invoke("sources", "list").split())
    assert "Existing questions and answers, which are no documents: 1" in invoke("documents", "list")
    assert "faq.csv, line 3" in invoke("documents", "quarantine")
    assert len(as_json("documents", "list")) == 2
    assert as_json("index")["existing_pairs"] == 1
    assert titles("thirty minutes") == {"Login", "Cart"}, "a pair is no passage"
