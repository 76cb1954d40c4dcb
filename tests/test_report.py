import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ragtune.evaluation.report.advice import advice
from ragtune.evaluation.report.content import Bar, Plot, build_report, side_by_side
from ragtune.evaluation.report.pages import as_html, as_markdown, drawn, ticks, write_report, zero
from tests.support.measured_candidate import measured_candidate


@pytest.fixture(scope="module")
def measured():
    return measured_candidate()


def test_a_report_says_what_was_decided_why_and_what_to_do_next(measured):
    report = build_report(measured)
    assert report.title == "Version 4: promoted"
    assert report.summary == measured.decision.reason
    assert [section.title for section in report.sections] == [
        "What to do next",
        "Scores",
        "Paired gains",
        "By kind, topic, source and language",
        "Calibration of refusals",
        "Answers that changed most",
        "Worst answers of the candidate",
        "Quantisation and speed",
        "Judges and people",
        "Where this comes from",
    ]
    assert "ragtune rollback" in report.sections[0].items[0]


def test_scores_of_people_and_writers_stand_in_tables_of_their_own(measured):
    scores = build_report(measured).sections[1]
    assert [table.title for table in scores.tables] == [
        "All questions, n = 48",
        "Questions of people, n = 32",
        "Questions of the writer, n = 16",
    ]
    names = {row[0] for row in scores.tables[1].rows}
    assert {"token_f1", "false_refusal (less is better)"} <= names


def test_the_number_of_questions_stands_in_the_cells_if_metrics_have_different_ones(measured):
    fewer = [replace(score, n=7) if score.metric == "citation" else score for score in measured.scores]
    table = build_report(replace(measured, scores=fewer)).sections[1].tables[0]
    assert table.title == "All questions"
    assert {row[0]: "n=7" in row[1] for row in table.rows if row[0] in ("citation", "token_f1")} == {
        "citation": True,
        "token_f1": False,
    }


def test_what_people_say_of_each_model_stands_before_what_judges_are_worth(measured):
    (section,) = [section for section in build_report(measured).sections if section.title == "Judges and people"]
    first, *others = section.tables
    assert first.rows == (("spring", "fine-tuned w8a8", "correct", "0.82", "0.74 to 0.89", "60"),)
    assert "Judges against people" in [table.title for table in others]


def test_the_answers_that_lost_most_come_before_those_that_won(measured):
    pairs = side_by_side(measured)
    assert len(pairs) == len(measured.live)
    swapped = replace(measured, live=measured.candidate, candidate=measured.live)
    changed = next(s for s in build_report(swapped).sections if s.title == "Answers that changed most").answers
    assert changed
    assert all(pair.after_score < pair.before_score for pair in changed)


def test_a_candidate_that_is_not_shown_to_be_better_is_told_how_many_questions_it_takes():
    measured = measured_candidate(0.5, 0.56)
    sentences = list(advice(measured))
    assert not measured.decision.promoted
    assert any(f"{measured.decision.questions_needed} questions find the planned gain" in s for s in sentences)


def test_rounding_that_costs_answers_names_the_setting(measured):
    lossy = replace(measured, gains=[replace(g, gain=replace(g.gain, gain=-0.1, high=-0.02)) for g in measured.gains])
    assert any("quantization.serve" in sentence for sentence in advice(lossy))
    assert not any("quantization.serve" in sentence for sentence in advice(replace(measured, gains=[])))


def test_passages_without_the_answer_are_the_first_thing_to_repair(measured):
    # 5 of 6 questions are shown the right passage; the upper bound is near 0.93, so it takes a few more to say so.
    scores = [replace(s, high=0.85) if s.metric == "retrieval_hit" else s for s in measured.scores]
    assert any("`ragtune search`" in sentence for sentence in advice(replace(measured, scores=scores)))


class Page(HTMLParser):
    """Collects the tags of a page and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_one_file_without_scripts_that_loads_nothing(measured):
    page = Page(as_html(build_report(measured)))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "link", "iframe", "object"}
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in page.tags)
    assert "url(" not in as_html(build_report(measured))


def test_markup_in_an_answer_is_shown_and_not_run(measured):
    html, markdown = as_html(build_report(measured)), as_markdown(build_report(measured))
    assert "<b>hired" not in html
    assert "&lt;b&gt;hired&lt;/b&gt;" in html
    assert "&lt;b>hired" in markdown


def test_markdown_has_the_sections_of_the_page_and_its_tables_are_regular(measured):
    markdown = as_markdown(build_report(measured))
    assert re.findall(r"^## (.+)$", markdown, re.MULTILINE) == [s.title for s in build_report(measured).sections]
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_a_plot_puts_values_and_zero_on_its_axis():
    plot = Plot("gain", (Bar("a", 0.1, 0.0, 0.2, 7), Bar("b", -0.2, -0.4, 0.0)), -0.4, 0.4)
    first, second = drawn(plot)
    assert (first.left, first.width, first.point, first.text) == (50.0, 25.0, 62.5, "+0.100 [+0.000, +0.200] n=7")
    assert (second.left, second.point) == (0.0, 25.0)
    assert zero(plot) == 50.0
    assert [text for _, text in ticks(plot)] == ["-0.40", "-0.20", "0.00", "0.20", "0.40"]


def test_a_report_is_written_as_html_and_markdown(measured, tmp_path):
    page = write_report(build_report(measured), tmp_path / "4")
    assert page.read_text().startswith("<!doctype html>")
    assert (tmp_path / "4" / "report.md").read_text().startswith("# Version 4: promoted")
