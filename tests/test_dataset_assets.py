"""The dataset's part of the asset graph on a small package, with a quick embedder."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ragtune.dataset.publishing import read_published
from ragtune.errors import DatasetError
from ragtune.evaluation.judges import RUBRIC
from ragtune.records import Chunk, QAPair
from ragtune.settings import load_settings
from ragtune_assets.dataset import read_results
from ragtune_assets.materialize import materialize
from ragtune_serving.cli import app
from ragtune_serving.studies import StudyDesk
from tests.support.dataset_home import Home
from tests.support.model_server import ModelServer

ROOTS = ["existing_pairs", "feedback_events", "raw_documents", "review_decisions"]


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    home.run()
    yield home
    home.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("built"))
    home.run()
    yield home
    home.close()


def test_reviews_change_the_dataset_once_and_an_unchanged_store_rebuilds_nothing(home):
    assert sorted(home.run()) == ROOTS
    bad, changed, good = [pair for pair in home.pairs() if pair.answerable and len(pair.answer.split()) > 4][:3]
    home.reviews.decide(bad, "ada", "reject", comment="Nobody asks that.")
    home.reviews.decide(changed, "ada", "correct", question=f"Could you tell me this: {changed.question}")
    home.reviews.decide(good, "bob", "accept")
    assert [name for name in home.run() if name not in ROOTS] == [
        "qa_dataset",
        "quality_report",
        "qa_splits",
        "published_dataset",
    ]
    after = home.pairs()
    assert bad.question not in {pair.question for pair in after}
    assert [pair.answer for pair in after if pair.writer == "review"] == [changed.answer]
    assert {pair.question for pair in after if "reviewed" in pair.scores} == {
        good.question,
        f"Could you tell me this: {changed.question}",
    }
    page = home.metadata("qa_dataset")
    assert (page["reviews accepted"], page["reviews rejected"], page["reviews corrected"]) == (1, 1, 1)
    assert sorted(home.run()) == ROOTS
    home.reviews.decide(good, "bob", "comment", comment="Well said.")
    assert sorted(home.run()) == ROOTS


def test_the_same_seed_gives_the_same_bytes_in_another_home(built, tmp_path_factory):
    other = Home(tmp_path_factory.mktemp("other"))
    try:
        other.run()
        first, second = (Path(home.store.current("published_dataset").uri) for home in (built, other))
    finally:
        other.close()
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.name != "artifact.json")
    assert len([name for name in names if name.suffix == ".parquet"]) == 4
    for name in names:
        if (first / name).is_file():
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


def page(number):
    text = (
        f"# Gadget{number} handbook\n\n## The gadget{number} lever\n\n"
        f"A gadget{number} is a machine{number} that folds paper{number} into boats{number} and planes{number}. "
        f"The lever{number} controls how fast paper{number} moves through rollers{number} and knives{number}.\n\n"
        f"- **Brake{number}**: stops the rollers{number} before any knife{number} reaches a finger{number}.\n"
    )
    return json.dumps({"id": f"g{number}", "title": f"Gadget{number} handbook", "text": text}) + "\n"


def test_ten_more_documents_add_pairs_and_move_none_and_the_command_line_shows_the_difference(tmp_path, monkeypatch):
    file = tmp_path / "pages.jsonl"
    file.write_text("".join(page(number) for number in range(20)))
    home = Home(tmp_path / "home", ["package:filelock", f"jsonl:{file}"])
    try:
        home.run()
        old = home.store.current("published_dataset")
        before = {item.pair.id: item.split for item in read_published(Path(old.uri))}
        file.write_text("".join(page(number) for number in range(30)))
        home.run()
        after = {
            item.pair.id: item.split
            for item in read_published(home.store.folder(home.store.current("published_dataset")))
        }
        assert len(after.keys() - before.keys()) >= 10
        assert all(split == before.get(pair, split) for pair, split in after.items())
        assert " 0 moved to another split" in home.metadata("published_dataset")["since the last version"]
    finally:
        home.close()
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path / "home"))
    listed = CliRunner().invoke(app, ["dataset", "versions"]).stdout.splitlines()
    assert [" current" in line for line in listed] == [False, True]
    result = CliRunner().invoke(app, ["dataset", "diff", old.sha256[:6], "--json"], catch_exceptions=False)
    diff = json.loads(result.stdout)
    added, changed = {pair["id"] for pair in diff["added"]}, {pair["after"]["id"] for pair in diff["changed"]}
    assert added >= after.keys() - before.keys() - changed
    assert diff["moved"] == []
    text = CliRunner().invoke(app, ["dataset", "diff", old.uri], catch_exceptions=False).stdout
    assert text.startswith(f"{len(diff['added'])} added, {len(diff['removed'])} removed")
    with pytest.raises(DatasetError, match="'nothing' matches 0 published datasets"):
        CliRunner().invoke(app, ["dataset", "diff", "nothing"], catch_exceptions=False)


def test_an_answer_that_people_rate_as_right_comes_into_the_dataset_as_a_pair_of_people(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGTUNE_HOME", str(tmp_path / "home"))
    right, wrong = "which error comes when a lock is not free in time", "what does it mean that i waited too long"
    said = "Raised when the lock could not be acquired in timeout seconds."
    rows = [
        {"question": right, "answer": f"{said} [1]", "sources": [f"Timeout\n{said}"]},
        {"question": wrong, "answer": "It is raised when the disk is full. [1]", "sources": [f"Timeout\n{said}"]},
    ]
    file, approved = tmp_path / "answers.jsonl", tmp_path / "approved.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def invoke(*arguments):
        return CliRunner().invoke(app, ["evaluate", *arguments], catch_exceptions=False).stdout

    invoke("create", "week", "--file", str(file))
    invoke("assign", "week", "ada", "bob")
    store = StudyDesk(load_settings({"home": tmp_path / "home"})).store
    items = store.items("week")
    for name in ("ada", "bob"):
        for task in store.open_tasks("week", name):
            choice = "yes" if items[task.item_id].question == right else "no"
            store.rate(task.id, name, dict.fromkeys(RUBRIC, choice))
    store.close()
    assert "1 pair in" in invoke("pairs", "week", str(approved))
    home = Home(tmp_path / "home", ["package:filelock", f"pairs:{approved}"])
    try:
        home.run()
        (pair,) = [pair for pair in home.pairs() if pair.origin == "people"]
        chunks = {chunk.id: chunk for chunk in home.store.read_records(home.store.current("chunks"), Chunk)}
        (split,) = [item.split for item in home.items() if item.pair.id == pair.id]
        questions = {pair.question for pair in home.pairs()}
    finally:
        home.close()
    assert (pair.question, pair.answer, pair.kind, pair.writer) == (right, said, "existing", "people")
    assert pair.imported_from == f"pairs:{approved}, line 1"
    assert "could not be acquired" in chunks[pair.chunk_id].text
    assert split in ("train", "validation", "gate", "test")
    assert wrong not in questions, "people rated its answer as wrong"


def test_the_data_docs_are_a_folder_of_pages_that_the_asset_links(built):
    place = built.metadata("quality_report")["data docs"]
    page = built.settings.home / place
    assert not Path(place).is_absolute()
    assert "Data Docs" in page.read_text()
    assert len(list(page.parent.rglob("*.html"))) >= 5
    assert built.metadata("qa_dataset")["data docs"] == place


def test_the_published_card_shows_the_results_of_the_quality_report(built):
    report = built.store.current("quality_report")
    results = read_results(built.store, report)
    assert len(results) == report.rows > 5
    card = (built.store.folder(built.store.current("published_dataset")) / "README.md").read_text()
    assert all(result.name in card for result in results)


def test_selecting_the_dataset_builds_the_report_of_the_same_step(home):
    ran = materialize(home.definitions, home.store, home.instance, ["qa_dataset"], force=True)
    assert ran == ["qa_dataset", "quality_report"]


def test_a_configured_model_writes_and_judges_and_its_cost_is_shown(tmp_path):
    def reply(body):
        prompt = body["messages"][1]["content"]
        if "Question:" in prompt:
            return json.dumps({"grounded": 1, "clear": 0.1 if "shown nowhere" in prompt else 1, "relevant": 1})
        quote = next(line for line in reversed(prompt.split("\n")) if len(line.split()) > 3)
        title = prompt[:60].split("\n")[1]
        questions = [f"What stands at the end of {title}?", f"What is {quote[:9]} shown nowhere?"]
        items = [{"question": text, "answer": quote, "quotes": [quote], "kind": "fact"} for text in questions]
        return json.dumps({"items": items})

    server = ModelServer(reply)
    priced = {"price_in": 1.0, "price_out": 1.0, "max_calls": 6, "concurrency": 1}
    model = {"model": "openai/writer", "url": server.url, "api_key": "k", **priced}
    home = Home(tmp_path, writer=model, judge={**model, "max_calls": 5000})
    try:
        home.run()
        page = home.metadata("qa_candidates")
        assert (page["writer requests"], page["writer prompt tokens"]) == (6, 600)
        assert page["writer stopped"] == "max_calls = 6"
        assert page["writer cost usd"] == pytest.approx(6 * 150 / 1e6)
        page = home.metadata("qa_dataset")
        assert page["judge requests"] >= len(home.pairs())
        assert "the judge gave it too little" in page["rejected"]
        assert all(pair.scores["judge_clear"] == 1 for pair in home.pairs())
        assert any(pair.writer == "llm" for pair in home.pairs())
        assert sorted(home.run()) == ROOTS
    finally:
        home.close()
        server.close()


def test_pairs_carry_scores_of_the_index_and_the_embedder(built):
    scores = [pair.scores for pair in built.pairs()]
    assert all(0 <= score["nearest"] <= 1 for score in scores)
    ranks = [score["retrievable"] for score in scores if "retrievable" in score]
    assert len(ranks) == sum(pair.answerable for pair in built.pairs())
    assert sum(ranks) / len(ranks) > 0.5
    assert "| topic | train |" in built.metadata("qa_splits")["topics"]


def test_a_document_that_comes_back_has_the_split_it_had(tmp_path):
    file = tmp_path / "pages.jsonl"
    file.write_text("".join(page(number) for number in range(20)))
    home = Home(tmp_path / "home", ["package:filelock", f"jsonl:{file}"])
    try:
        home.run()
        first = home.splits()
        file.write_text(page(19))
        home.run()
        assert set(home.splits()) < set(first)
        file.write_text("".join(page(number) for number in range(20)))
        home.run()
        assert home.splits() == first
    finally:
        home.close()


def test_a_review_whose_pair_is_no_longer_written_is_listed(home):
    gone = QAPair(
        id="x", question="What was written long ago?", answer="This.", kind="purpose", document_id="", chunk_id=""
    )
    home.reviews.decide(gone, "ada", "reject")
    home.run()
    assert gone.question in home.metadata("qa_dataset")["orphaned reviews"]
