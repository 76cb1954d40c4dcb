"""The page Knowledge: documents, quarantine, the account of words, sources, a search that explains itself."""

import json

import pytest

from ragtune.errors import SourceError
from ragtune.knowledge.catalogue import Catalogue
from ragtune.knowledge.library import Library
from ragtune.records import RetrievalRow
from ragtune.settings import load_settings
from ragtune.store.warehouse import Warehouse
from ragtune_serving.console.documents import excerpt
from tests.support.browser import browser_at
from tests.support.console_gateway import ConsoleGateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.visitor import Visitor

HOSTILE = '<script>window.stolen = 1</script><img src="x" onerror="window.stolen = 2">'


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    documents = tmp_path_factory.mktemp("documents")
    for number in range(60):
        (documents / f"page-{number:02}.md").write_text(f"# Page {number}\n\nNumber {number} of the shelf.\n")
    (documents / "safety.txt").write_text(f"Safety\n======\n\nThe note is valid for four hours. {HOSTILE}\n")
    (documents / "comment.html").write_text("<title>Web</title><p>A page.</p><!-- left out on purpose -->")
    (documents / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    upstream = ScriptedUpstream()
    running = ConsoleGateway(tmp_path_factory.mktemp("home"), documents, upstream)
    running.documents = documents
    yield running
    running.close()
    upstream.close()


def measured(at: str, recall: float) -> RetrievalRow:
    return RetrievalRow(
        run_id="r",
        measured_at=at,
        index_sha256="i",
        dataset_sha256="d",
        embedder="minilm",
        chunks=61,
        n=100,
        recall_1=recall - 0.2,
        recall_5=recall - 0.1,
        recall_10=recall,
        mrr_10=recall,
        ndcg_10=recall,
        p50_ms=8.0,
        p95_ms=12.0,
        index_bytes=1 << 20,
    )


@pytest.mark.browser
def test_every_part_of_the_page_is_usable_and_accessible_with_data(gateway):
    Warehouse(gateway.settings.home / "warehouse.duckdb").append(
        [measured("2026-05-01T10:00:00+00:00", 0.8), measured("2026-05-02T10:00:00+00:00", 0.9)]
    )
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("rita", "reviewer"), "/console/knowledge")
        browser.shows("62 documents")
        browser.check()
        browser.one("#q").send_keys("page-59")
        browser.shows("1 document\n")
        assert "q=page-59" in browser.driver.current_url
        browser.one("#documents tbody a").click()
        browser.shows("Number 59 of the shelf.", ".document")
        browser.check()
        for part, text in (
            ("quarantine", "broken.pdf"),
            ("sources", "folder:"),
            ("search?q=how+long+is+the+note+valid", "rank 1"),
            ("quality", "0.900"),
        ):
            browser.open(f"/console/knowledge/{part}")
            browser.shows(text)
            browser.check()
        assert browser.all(".chart canvas")


@pytest.mark.browser
def test_markup_of_a_document_is_shown_and_never_run(gateway):
    with browser_at(gateway.url) as browser:
        browser.sign_in(gateway.key("rita", "reviewer"), "/console/knowledge/search?q=note+valid+four+hours")
        browser.shows("window.stolen = 1")
        browser.one("tbody a").click()
        browser.shows("window.stolen = 1", ".document")
        assert browser.script("return window.stolen === undefined")
        assert browser.errors() == []


def test_the_list_turns_pages_sorts_and_says_when_nothing_matches(gateway):
    rita = Visitor(gateway.url, gateway.key("rita", "reviewer"))
    first, second = (rita.get(f"/console/knowledge?page={page}&order=title").text for page in (0, 1))
    assert "1–50 of 62" in first
    assert "51–62 of 62" in second
    assert 'rel="next"' not in second
    assert "No document has" in rita.get("/console/knowledge?q=nowhere").text


def test_a_key_with_a_filter_sees_its_own_documents_only(gateway):
    vera = Visitor(gateway.url, gateway.key("vera", "operator", filter_={"title": "Page 7"}))
    page = vera.get("/console/knowledge").text
    assert "1 document" in page
    assert "Page 7" in page
    assert "Page 8" not in page
    assert "broken.pdf" not in vera.get("/console/knowledge/quarantine").text
    found = vera.get("/console/knowledge/search?q=number+8+of+the+shelf").text
    assert "Page 7" in found
    assert "page-08.md" not in found


def test_a_search_explains_its_scores_by_the_ranks_of_its_lists(gateway):
    rita = Visitor(gateway.url, gateway.key("rita", "reviewer"))
    page = rita.get("/console/knowledge/search?q=note+valid+four+hours").text
    assert "<mark>note</mark> is <mark>valid</mark> for <mark>four hours</mark>" in page
    assert "1/61 + 1/61" in page
    assert f"{2 / 61:.4f}" in page


def test_a_document_shows_what_became_of_its_words(gateway):
    rita = Visitor(gateway.url, gateway.key("rita", "reviewer"))
    entry = Catalogue(gateway.settings).by_origin("comment.html")
    page = rita.get(f"/console/documents/{entry.id}").text
    assert 'left out: comment</th><td class="number">4<' in page
    assert "left out on purpose" in page
    assert 'lost</th><td class="number ">0<' in page


def test_the_catalogue_follows_the_library(tmp_path):
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "one.md").write_text("# One\n\nFirst.\n")
    settings = load_settings({"home": tmp_path / "home", "sources": [f"folder:{documents}"]})
    catalogue = Catalogue(settings)
    assert catalogue.contents().entries == ()
    library = Library(settings)
    library.read()
    (entry,) = catalogue.contents().entries
    assert (entry.title, entry.removed, catalogue.document(entry).text) == ("One", False, "# One\n\nFirst.")
    (documents / "two.md").write_text("# Two\n\nSecond.\n")
    library.read()
    assert [one.title for one in catalogue.contents().entries] == ["One", "Two"]
    library.remove(["two.md"])
    assert [one.removed for one in catalogue.contents().entries] == [False, True]
    assert catalogue.entry(entry.id).path == "one.md"
    assert catalogue.entry("nobody") is None
    entry.file.write_text(json.dumps({"id": "other", "text": ""}) + "\n")
    with pytest.raises(SourceError, match="read again meanwhile"):
        catalogue.document(entry)


def test_a_document_without_the_named_passage_is_shown_from_its_beginning(gateway):
    catalogue = Catalogue(gateway.settings)
    document = catalogue.document(catalogue.by_origin("safety.txt"))
    chunk = next(one for one in gateway.chunks if one.document_id == document.id)
    around = excerpt(document, chunk, "valid for four hours")
    text = around.before + "".join(part.text for part in around.passage) + around.after
    assert text == document.text
    assert [part.text for part in around.passage if part.marked] == ["valid for four hours"]
    whole = excerpt(document, None, "")
    assert (whole.before, "".join(part.text for part in whole.passage), whole.cut) == ("", document.text, False)


def test_ten_thousand_documents_are_listed_and_found_without_reading_the_library_again(tmp_path, monkeypatch):
    lines = [
        json.dumps({"id": f"d{number}", "title": f"Document {number}", "text": f"The text of {number}. " * 20})
        for number in range(10_000)
    ]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    settings = load_settings({"home": tmp_path / "home", "sources": [f"jsonl:{tmp_path / 'many.jsonl'}"]})
    Library(settings).read()
    catalogue = Catalogue(settings)
    catalogue.contents()  # the first look reads the library
    monkeypatch.setattr(Catalogue, "_read", lambda _: pytest.fail("the library was read again"))
    assert len(catalogue.find({}, "document 999")) == 11
    assert catalogue.document(catalogue.find({}, "Document 9999")[0]).text.startswith("The text of 9999.")
