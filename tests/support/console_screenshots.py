"""Takes the screenshots of docs/howto/console.md: `python -m tests.support.console_screenshots FOLDER`.

The documents are examples/manual, the pairs are written from them. Answers, verdicts, versions and measurements are
invented for the pictures.
"""

import json
import random
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.evaluation.judges import RUBRIC
from ragtune.records import GateDecision, RetrievalRow, Score
from ragtune.store.registry import ModelRegistry
from ragtune.store.warehouse import Warehouse
from ragtune_serving.studies import StudyPlan
from tests.support.browser import NARROW, WIDE, Browser
from tests.support.console_contents import REFUSAL, fill_experiment, fill_shadow, fill_traffic
from tests.support.console_gateway import ConsoleGateway
from tests.support.releases import released
from tests.support.scripted_upstream import ScriptedUpstream

ROOT = Path(__file__).parent.parent.parent
ANSWERS = {"hot work": "It is valid for four hours. [1]"}
QUESTIONS = ("How long is a hot work note good for?", "Who invented the printing press with movable type?")
SIZE = (1280, 800)
LONG, HIGH = ("experiment", "shadow"), (1280, 1200)
"""Pages whose first screen says little, and the size in which they are shown."""


class Answering(ScriptedUpstream):
    """Answers the questions of the pictures."""

    async def answer(self, body):
        question = body["messages"][-1]["content"].lower()
        asked = question[-200:]
        self.words = next((text for words, text in ANSWERS.items() if words in asked), REFUSAL).split(" ")
        return self._reply(body)


def fill(gateway: ConsoleGateway) -> None:
    """Put a week of work into a home."""
    draw, now = random.Random(7), datetime.now(UTC)
    pairs = ExtractiveWriter(2).write(gateway.chunks)
    gateway.with_dataset(pairs)
    reviews = gateway.services.reviews.reviews
    for number, pair in enumerate(pairs[:14]):
        reviews.decide(pair, "bo", "reject" if number % 5 == 0 else "accept")
        if number % 3:
            reviews.decide(pair, "cleo", "reject" if number % 7 == 0 else "accept")
    fill_traffic(gateway, pairs, draw)
    home = gateway.settings.home
    registry, warehouse = ModelRegistry(gateway.settings), Warehouse(home / "warehouse.duckdb")
    for number in (1, 2, 3):
        registry.register(released(home, f"{number} weights".encode(), seed=16 + number))
        if number < 3:
            registry.move("champion", str(number))
    decisions = [_decision("2", 0.046, 0.012, promoted=True), _decision("3", 0.011, -0.024, promoted=False)]
    warehouse.append(decisions)
    warehouse.append([_score("token_f1", 0.463), _score("citation", 0.871), _score("refusal", 0.902)])
    warehouse.append([_measured(now - timedelta(days=6 - day), 0.86 + 0.012 * day) for day in range(6)])


def fill_study(gateway: ConsoleGateway) -> None:
    """Make a study of invented answers that two people have rated in part."""
    file = gateway.settings.home / "answers.jsonl"
    rows = [
        {
            "question": QUESTIONS[0] if number == 0 else f"How long is pass {number} good for?",
            "answer": f"It is valid for {'four hours' if number == 0 else f'{number} days'}. [1]",
            "expected": "four hours" if number == 0 else f"{number + number % 3} days",
            "sources": ["Safety > Hot work\nThe note is valid for four hours. After that, the technician signs again."],
        }
        for number in range(12)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    desk = gateway.services.studies
    desk.create(StudyPlan(name="spring", mode="rating", files=(file,), count=12))
    desk.store.assign("spring", ["bo", "cleo", "rita"], 3)
    for name in ("bo", "cleo"):
        for task in desk.store.open_tasks("spring", name):
            number = desk.store.items("spring")[task.item_id].position
            correct = "no" if number % 3 else "yes"
            clear = "partly" if name == "cleo" and number % 4 == 0 else "yes"
            choices = {**dict.fromkeys(RUBRIC, "yes"), "correct": correct, "clear": clear}
            desk.store.rate(task.id, name, choices, seconds=9.0)


def _decision(version: str, gain: float, low: float, promoted: bool) -> GateDecision:
    return GateDecision(
        promoted=promoted,
        reason="The gain is above zero with 95% confidence, and nothing else was lost."
        if promoted
        else "The gain may be zero: the interval reaches below it.",
        metric="token_f1",
        live=0.417,
        candidate=0.417 + gain,
        gain=gain,
        low=low,
        high=gain + (gain - low),
        smallest_detectable_gain=0.041,
        n=132,
        alpha=0.05,
        live_version=str(int(version) - 1),
        candidate_version=version,
        out_of_domain_gain=0.004,
        out_of_domain_low=-0.02,
        out_of_domain_high=0.03,
        out_of_domain_n=48,
    )


def _score(metric: str, value: float) -> Score:
    return Score(
        model="ragtune",
        precision="w8a8",
        metric=metric,
        value=value,
        low=value - 0.04,
        high=value + 0.04,
        n=160,
        split="test",
        dataset_sha256="d",
        model_version="2",
        seed=17,
        signature="s",
    )


def _measured(at: datetime, recall: float) -> RetrievalRow:
    return RetrievalRow(
        run_id="r",
        measured_at=at.isoformat(),
        index_sha256="i",
        dataset_sha256="d",
        embedder="minilm",
        chunks=184,
        n=100,
        recall_1=recall - 0.21,
        recall_5=recall - 0.05,
        recall_10=recall,
        mrr_10=recall - 0.15,
        ndcg_10=recall - 0.11,
        p50_ms=9.0,
        p95_ms=20.0 - 10 * (recall - 0.86),
        index_bytes=1 << 22,
    )


def take(browser: Browser, file: Path) -> None:
    """Write what the window shows, with 64 colours, which keeps a page of text small."""
    from PIL import Image

    browser.driver.save_screenshot(str(file))
    with Image.open(file) as image:
        small = image.convert("RGB").quantize(64)
    small.save(file, optimize=True)


def ask(browser: Browser) -> None:
    for number, question in enumerate(QUESTIONS, 1):
        browser.one("#question").send_keys(question + "\n")
        browser.until(lambda number=number: len(browser.all(".answer .actions")) == number, question)


def main(folder: Path) -> None:
    """Fill a home, open every page, write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    upstream = Answering()
    with tempfile.TemporaryDirectory() as home:
        # No look while pictures are taken: it would stop the experiment when it has seen enough.
        sections = {"dataset": {"reviews_per_pair": 2}, "experiments": {"look_seconds": 3600}}
        gateway = ConsoleGateway(Path(home), ROOT / "examples" / "manual", upstream, **sections)
        fill(gateway)
        browser = Browser(gateway.url)
        browser.resize(*SIZE)
        browser.sign_in(gateway.keys.client_key(), "/console/ask")
        ask(browser)
        take(browser, folder / "ask.png")
        browser.dark()
        take(browser, folder / "ask-dark.png")
        browser.dark(False)
        browser.resize(*NARROW)
        browser.script("scrollTo(0, 0)")
        take(browser, folder / "ask-phone.png")
        browser.resize(*SIZE)
        browser.all("button.mark")[0].click()
        browser.shows("Hot work", "#panel .document")
        take(browser, folder / "passage.png")
        # After the questions were asked: their answers would come from the arms of the experiment.
        pairs, draw = ExtractiveWriter(2).write(gateway.chunks), random.Random(17)
        fill_experiment(gateway, pairs, draw)
        fill_shadow(gateway, pairs, draw)
        browser.open("/console/reviews")
        browser.press("g")
        browser.shows("You got 20 more pairs.")
        take(browser, folder / "reviews.png")
        browser.dark()
        browser.open("/console/reviews?show=conflicts")
        take(browser, folder / "conflicts-dark.png")
        browser.dark(False)
        for name, path, text in (
            ("knowledge", "/console/knowledge", "documents"),
            ("search", "/console/knowledge/search?q=how+long+is+a+hot+work+note+valid", "rank 1"),
            ("quality", "/console/knowledge/quality", "Recall@10"),
            ("candidates", "/console/candidates", "longer-training"),
            ("candidate", "/console/candidates/2", "What the gate decided"),
            ("experiments", "/console/experiments", "Mirrored requests"),
            ("experiment", "/console/experiments/experiment?name=longer-training", "All outcomes"),
            ("shadow", "/console/experiments/shadow?name=before-release", "The newest different answers"),
            ("feedback", "/console/feedback", "By version"),
            ("health", "/console/health", "attention"),
        ):
            browser.resize(*(HIGH if name in LONG else SIZE))
            browser.open(path)
            browser.shows(text)
            browser.until(lambda: len(browser.all(".chart")) == len(browser.all(".chart canvas")), "the charts")
            take(browser, folder / f"{name}.png")
        browser.resize(*SIZE)
        fill_study(gateway)
        browser.sign_in(gateway.key("rita", "reviewer"), "/console/evaluate")
        browser.one("#rubric")
        browser.one(".guideline summary").click()
        browser.press("3")
        take(browser, folder / "evaluate.png")
        browser.one("[data-part=results]").click()
        browser.shows("Agreement of all")
        take(browser, folder / "agreement.png")
        browser.resize(*WIDE)
        browser.close()
        gateway.close()
    upstream.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
