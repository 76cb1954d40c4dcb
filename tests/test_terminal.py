"""What commands print: text of users as it is, and no lines of libraries between ours."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ragtune.dataset.reviews.store import ReviewStore
from ragtune.records import Chunk, QAPair
from ragtune.settings import child_environment, load_settings
from ragtune.store.artifacts import ArtifactStore
from ragtune_serving.cli import app
from ragtune_serving.client import Reply
from ragtune_serving.commands import asking
from ragtune_serving.terminal import progress_bar
from tests.support.tiny_llama import make_tiny_llama

TITLE = "[draft] notes [/etc/hosts] :warning:"
"""Rich would print this as "notes" with a sign, or fail because of a closing tag without an opening one."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / TITLE
    monkeypatch.setenv("RAGTUNE_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_search_and_documents_print_titles_as_they_are(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "[old] docs"
    folder.mkdir()
    (folder / "hosts.md").write_text(f"# {TITLE}\n\nThe file [/etc/hosts] maps names to addresses.\n")
    (folder / "[broken].pdf").write_text("not a PDF")
    printed = invoke("index", "--source", f"folder:{folder}")
    assert "Left out [broken].pdf: " in printed
    assert f"1. {TITLE}  0." in invoke("search", "names and addresses")
    assert TITLE in invoke("documents", "list")
    assert f"title         {TITLE}" in invoke("documents", "show", "hosts.md")
    assert f"[broken].pdf  (folder:{folder})" in invoke("documents", "quarantine")
    assert f"folder:{folder}" in invoke("sources", "list")


def test_an_answer_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    place = {"source": "a/[b].pdf", "headings": ["On [x]"], "page": 3, "start": 0}
    citation = {"number": 1, "title": TITLE, "document": "d", "chunk": "c", "text": TITLE, **place}
    warnings = [f"A warning about {TITLE}."]
    fields = {"citations": [citation], "warnings": warnings, "closest": [], "model_version": "1", "response_id": "r1"}
    asking.show(Reply(f"It is in {TITLE} [1]", fields, 12.0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"It is in {TITLE} [1]", lines[1], f"  note: A warning about {TITLE}."]
    assert lines[1] == f"  [1] {TITLE} > On [x]  (a/[b].pdf, page 3)"
    assert lines[3] == "  version 1, 12 ms, response r1"


def test_a_refusal_is_printed_with_the_closest_passages(capsys: pytest.CaptureFixture[str]) -> None:
    passage = {"number": 2, "title": TITLE, "source": "a/[b].pdf", "sentence": "It is [old].", "score": 0.2}
    fields = {"citations": [], "warnings": [], "closest": [passage], "model_version": "1", "response_id": "r1"}
    asking.show(Reply("I could not find this in the documents.", fields, 12.0))
    assert f"  closest: {TITLE}  (a/[b].pdf): It is [old]." in capsys.readouterr().out


def test_status_prints_the_name_of_the_home_as_it_is(home: Path) -> None:
    assert f"home        {home}\n" in invoke("status")


def test_review_prints_files_and_names_of_reviewers_as_they_are(home: Path, tmp_path: Path) -> None:
    store = ArtifactStore(home / "artifacts")
    chunk = Chunk(
        id="c", document_id="d", source="s", title=TITLE, heading_path=(), text="The default is 5.", position=0
    )
    pair = QAPair(id="p", question="What is the default?", answer="5", kind="default", document_id="d", chunk_id="c")
    for name, record in (("chunks", chunk), ("qa_candidates", pair), ("qa_dataset", pair)):
        store.set_current(store.write_records(name, [record]))
    file = tmp_path / "[draft].csv"
    assert f"1 pair in {file}." in invoke("review", "export", str(file), "--reviewer", TITLE, "--count", "1")
    assert f"  {TITLE}: 0 decided, 1 assigned" in invoke("review", "status")
    ReviewStore(load_settings().feedback_url).close()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_shows_the_name_of_a_task_as_it_is(is_terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=is_terminal, markup=False, emoji=False, width=160)
    with progress_bar(console) as progress:
        progress(f"reading {TITLE}", 1, 1)
    assert f"reading {TITLE}" in stream.getvalue()


QUANTISE = """
import sys
from pathlib import Path
from ragtune.model.compression.quantization import quantize_w4a16, quantize_w8a8
from ragtune.model.compression.weights import unpack_w4a16
from ragtune.settings import QuantizationSettings, prepare_process
from ragtune_assets.progress import LoggedProgress, log_to
from tests.support.tiny_llama import talks

prepare_process()
log_to(sys.stdout)
folder, progress = Path(sys.argv[1]), LoggedProgress(0)
packed = quantize_w4a16(folder / "model", talks(4), QuantizationSettings(), folder / "w4a16", progress=progress)
quantize_w8a8(folder / "model", folder / "w8a8", progress=progress)
unpack_w4a16(packed, folder / "unpacked")
"""


def test_between_our_lines_of_a_quantisation_there_is_nothing_of_the_libraries(tmp_path: Path) -> None:
    make_tiny_llama(tmp_path / "model")
    command = [sys.executable, "-c", QUANTISE, str(tmp_path)]
    child = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
    lines = child.stdout.splitlines()
    assert [line for line in lines if not re.match(r"\d\d:\d\d:\d\d quantising ", line)] == []
    assert lines[-1].endswith("quantising to INT8 1 of 1")
    config = json.loads((tmp_path / "w4a16" / "config.json").read_text())
    assert config["quantization_config"]["format"] == "pack-quantized"


def test_an_error_of_a_library_is_still_printed() -> None:
    code = (
        "import logging, torch, torch.fx\n"
        "from llmcompressor.logger import logger\n"
        "logger.warning('a warning of llm-compressor')\n"
        "logger.error('an error of llm-compressor')\n"
        "logging.getLogger('torch.fx._symbolic_trace').warning('a warning of torch')\n"
        "logging.getLogger('torch.fx._symbolic_trace').error('an error of torch')\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True, timeout=300, check=True
    )
    printed = child.stdout + child.stderr
    assert "an error of llm-compressor" in printed
    assert "an error of torch" in printed
    assert "a warning" not in printed


def test_control_characters_of_a_document_are_shown_and_do_not_steer_the_terminal(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "log.md").write_text("# Log \x1b]0;pwned\x07\n\nThe boiler \x1b[2Jfailed at noon.\n")
    invoke("index", "--source", f"folder:{folder}")
    printed = invoke("search", "boiler at noon") + invoke("documents", "list") + invoke("documents", "show", "log.md")
    assert "\x1b" not in printed
    assert "\x07" not in printed
    assert "\\x1b[2Jfailed" in printed
    assert "Log \\x1b]0;pwned\\x07" in printed
