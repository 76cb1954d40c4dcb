import json
import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import fsspec
import pytest

from ragtune.errors import SourceError
from ragtune.knowledge import sources
from ragtune.knowledge.sources import describe_ignored, read_sources
from ragtune.records import Document, content_id


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def by_path(documents: list[Document]) -> dict[str, Document]:
    return {document.path: document for document in documents}


def test_a_folder_gives_every_document_with_its_metadata(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"guide/start.md": "# Getting started\n\nThe gate opens at eight.", "notes.txt": "Der Hund und die Katze"},
    )
    os.utime(tmp_path / "guide" / "start.md", (1_700_000_000, 1_700_000_000))
    corpus = read_sources([f"folder:{tmp_path}"])
    start = by_path(corpus.documents)["guide/start.md"]
    assert start.title == "Getting started"
    assert start.topic == "guide"
    assert start.language == "en"
    assert start.source == f"folder:{tmp_path}"
    assert start.modified == "2023-11-14T22:13:20+00:00"
    assert start.id == content_id(f"folder:{tmp_path}", "guide/start.md")
    assert by_path(corpus.documents)["notes.txt"].language == "de"
    assert corpus.quarantine == []


def test_identity_stays_and_version_changes_when_a_document_is_edited(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "# A\n\nOne."})
    before = read_sources([f"folder:{tmp_path}"]).documents[0]
    write(tmp_path, {"a.md": "# A\n\nTwo."})
    after = read_sources([f"folder:{tmp_path}/"]).documents[0]
    assert after.id == before.id
    assert after.sha256 != before.sha256


def test_touching_a_file_changes_no_version(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "# A\n\nOne."})
    before = read_sources([f"folder:{tmp_path}"]).documents[0]
    os.utime(tmp_path / "a.md", (1, 1))
    assert read_sources([f"folder:{tmp_path}"]).documents[0].sha256 == before.sha256


def test_hidden_and_binary_files_are_skipped(tmp_path: Path) -> None:
    junk: dict[str, str | bytes] = {
        ".git/config.md": "x",
        ".secret.md": "x",
        "node_modules/p/README.md": "x",
        "i.png": b"\x89PNG",
    }
    write(tmp_path, {**junk, "a.md": "# A\n\nText."})
    corpus = read_sources([f"folder:{tmp_path}"])
    assert [document.path for document in corpus.documents] == ["a.md"]
    assert corpus.quarantine == []


def test_broken_documents_go_to_quarantine_with_the_reason_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1000)
    broken: dict[str, str | bytes] = {
        "cut.pdf": b"%PDF-1.4\n1 0 obj\n<<",
        "fake.pdf": "not a pdf",
        "fake.docx": b"PK\x03\x04 nothing",
        "empty.md": "  \n",
        "nul.txt": b"abc\x00\x01\x02def",
        "huge.txt": "x" * 1001,
    }
    half = {"half.jsonl": '{"id": "h", "text": "half a pair: \\ud800"}'}
    write(tmp_path, {**broken, **half, "good.md": "# Good\n\nText."})
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere")
    corpus = read_sources([f"folder:{tmp_path}"])
    reasons = {item.path: item.reason for item in corpus.quarantine}
    texts = {document.path: document.text for document in corpus.documents}
    assert texts == {"good.md": "# Good\n\nText.", "half.jsonl#h": "half a pair: \ufffd"}
    assert set(reasons) == {*broken, "gone.md"}
    assert "damaged" in reasons["cut.pdf"]
    assert "not a PDF" in reasons["fake.pdf"]
    assert "damaged" in reasons["fake.docx"]
    assert "empty" in reasons["empty.md"]
    assert "NUL" in reasons["nul.txt"]
    assert "1,001 bytes" in reasons["huge.txt"]
    assert "No such file" in reasons["gone.md"]


def test_a_link_to_a_parent_folder_does_not_loop(tmp_path: Path) -> None:
    write(tmp_path, {"docs/a.md": "# A\n\nText."})
    (tmp_path / "docs" / "loop").symlink_to(tmp_path)
    assert len(read_sources([f"folder:{tmp_path}"]).documents) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [({}, "it is empty"), ({"a.png": b"x", "b.png": b"y"}, "2 .png"), ({"a.md": ""}, "the file is empty")],
)
def test_the_error_for_a_folder_without_readable_documents_says_what_is_there(
    tmp_path: Path, files: dict[str, str | bytes], message: str
) -> None:
    write(tmp_path, files)
    with pytest.raises(SourceError, match=message):
        read_sources([f"folder:{tmp_path}"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("folder:/nowhere/at/all", "There is no folder /nowhere/at/all"),
        ("jsonl:/nowhere.jsonl", "There is no file /nowhere.jsonl"),
        ("carrier-pigeon:home", "is not a source"),
        ("docs", "is not a source"),
        ("package:", "is not a source"),
        ("gopher9://host/docs", "Protocol not known"),
    ],
)
def test_the_error_for_an_unusable_source_names_it(spec: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_sources([spec])


def test_no_source_at_all_is_an_error() -> None:
    with pytest.raises(SourceError, match="There is no source"):
        read_sources([])


def test_jsonl_lines_become_documents_under_their_own_ids(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": "d1", "title": "Wings", "text": "Lift grows with speed."}),
        "{broken",
        json.dumps({"id": "d1", "title": "Again", "text": "The same id."}),
        json.dumps({"id": "d2", "title": "", "text": ""}),
        json.dumps(["no", "object"]),
        json.dumps({"id": 7, "text": "A number is an id too.", "topic": "ids"}),
    ]
    file = tmp_path / "corpus.jsonl"
    file.write_text("\n".join(lines))
    corpus = read_sources([f"jsonl:{file}"])
    assert [(d.path, d.title, d.topic) for d in corpus.documents] == [("d1", "Wings", ""), ("7", "7", "ids")]
    assert [item.path for item in corpus.quarantine] == ["line 2", "line 3", "d2", "line 5"]


def test_a_jsonl_file_in_a_folder_gives_its_records(tmp_path: Path) -> None:
    write(tmp_path, {"faq.jsonl": json.dumps({"id": "q1", "title": "Hours", "text": "Open at eight."})})
    assert [d.path for d in read_sources([f"folder:{tmp_path}"]).documents] == ["faq.jsonl#q1"]


def test_a_remote_folder_is_read_like_a_local_one() -> None:
    system = fsspec.filesystem("memory")
    system.pipe(
        {"/bucket/docs/b/two.md": b"# Two\n\nSecond.", "/bucket/docs/one.md": b"# One", "/bucket/docs/.hidden.md": b"x"}
    )
    try:
        corpus = read_sources(["memory://bucket/docs"])
    finally:
        system.rm("/bucket", recursive=True)
    assert [(d.path, d.title, d.topic) for d in corpus.documents] == [("b/two.md", "Two", "b"), ("one.md", "One", "")]
    assert corpus.documents[0].source == "memory://bucket/docs"
    assert corpus.documents[0].modified


def test_an_error_of_a_remote_client_is_reported_and_loses_only_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("bad", "good"):
        memory.pipe(f"/clients/{name}.md", b"# Title\n\nText.")
    fetch = memory.cat_file

    def refuse(path: str, **options: object) -> bytes:
        if "bad" in path:
            raise RuntimeError("the token has expired")
        return bytes(fetch(path, **options))

    monkeypatch.setattr(type(memory), "cat_file", lambda self, path, **options: refuse(path, **options))
    corpus = read_sources(["memory://clients"])
    assert [document.path for document in corpus.documents] == ["good.md"]
    assert "the token has expired" in corpus.quarantine[0].reason
    monkeypatch.setattr(type(memory), "find", lambda *args, **options: refuse("bad"))
    with pytest.raises(SourceError, match="cannot be listed: the token has expired"):
        read_sources(["memory://clients"])


def test_an_empty_remote_folder_is_an_error() -> None:
    with pytest.raises(SourceError, match="empty or does not exist"):
        read_sources(["memory://nothing/here"])


def test_a_password_in_a_url_stays_out_of_every_record() -> None:
    assert sources.without_password("ftp://me:secret@host/docs") == "ftp://host/docs"


def test_several_sources_are_read_in_order_and_each_once(tmp_path: Path) -> None:
    write(tmp_path, {"x/a.md": "# A", "y/a.md": "# A"})
    specs = [f"folder:{tmp_path}/y", f"folder:{tmp_path}/x", f"folder:{tmp_path}/y"]
    steps: list[tuple[str, int, int]] = []
    corpus = read_sources(specs, progress=lambda *step: steps.append(step))
    assert [document.source for document in corpus.documents] == specs[:2]
    assert len({document.id for document in corpus.documents}) == 2
    assert steps[-1] == (f"reading {specs[1]}", 1, 1)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
def test_a_time_without_a_zone_is_read_alike_in_every_time_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert sources._modification_time({"modified": datetime(2026, 11, 30, 12)}) == "2026-11-30T12:00:00+00:00"
        aware = datetime(2026, 11, 30, 12, tzinfo=timezone(timedelta(hours=2)))
        assert sources._modification_time({"LastModified": aware}) == "2026-11-30T10:00:00+00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_files_without_a_reader_are_counted_by_ending_and_the_first_are_named(tmp_path):
    for name in ("a.md", "b.dwg", "c.dwg", "d.dwg", "e.dwg", "f.2023", "g.7", "plan.doc", "Makefile"):
        (tmp_path / name).write_text("# Text\n\nSome words.\n")
    corpus = read_sources([f"folder:{tmp_path}"])
    assert describe_ignored(corpus.ignored, corpus.ignored_names) == (
        "4 .dwg: b.dwg, c.dwg, d.dwg, ...; 2 with a number as ending: f.2023, g.7; "
        "1 without an ending: Makefile; 1 .doc (save as .docx): plan.doc"
    )


def test_a_readme_is_read_whatever_its_ending_unless_that_of_another_kind_of_file(tmp_path):
    for name in ("README.de", "CHANGES.2", "readme.first", "README.png", "NOTES.zip"):
        (tmp_path / name).write_text("Some words of the yard.\n")
    corpus = read_sources([f"folder:{tmp_path}"])
    assert [document.path for document in corpus.documents] == ["CHANGES.2", "README.de", "readme.first"]
    assert sorted(corpus.ignored) == [".png", ".zip"]
