"""Markdown becomes plain text, whatever the pieces in which it comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragtune.text.plain_text import PlainText, plain_text


@pytest.mark.parametrize(
    ("markdown", "plain"),
    [
        ("It is **four hours**, not *two*. [1]", "It is four hours, not two. [1]"),
        ("Call `shop.cart.total()` [1].", "Call shop.cart.total() [1]."),
        ("## Hot work\n\nA note.", "Hot work\n\nA note."),
        ("> Quoted\n> twice", "Quoted\ntwice"),
        ("See [the manual](https://x.example/a) [1, 2].", "See the manual (https://x.example/a) [1, 2]."),
        ("See <https://x.example>.", "See https://x.example."),
        ("```python\na_b = x * y * z\n```\nDone.", "a_b = x * y * z\nDone."),
        ("1. Open it.\n2. Close it.\n- and *rest*", "1. Open it.\n2. Close it.\n- and rest"),
        ("snake_case_name and 3 * 4 * 5", "snake_case_name and 3 * 4 * 5"),
        ("one\n---\ntwo", "one\n\ntwo"),
        ("5 < 6 & 7! [1] Yes! Really!", "5 < 6 & 7! [1] Yes! Really!"),
        ("![a plan](plan.png) of it", "a plan of it"),
        ("", ""),
    ],
)
def test_markup_goes_and_words_stay(markdown, plain):
    assert plain_text(markdown) == plain


def test_a_line_without_markup_is_shown_as_it_comes_and_one_with_markup_when_it_ends():
    stream = PlainText()
    assert [stream.feed(piece) for piece in ("It is ", "good", ". [1]", " So ", "is **th", "is** one", "\n", "x")] == [
        *("It is", " goo", "d.", " [1] So", " is", "", " this one\n", ""),
    ]
    assert stream.end() == "x"


PIECES = st.sampled_from(
    [
        "It is",
        " good",
        ".",
        " ",
        "\n",
        "*",
        "**",
        "_",
        "`",
        "```",
        "# ",
        "> ",
        "[1]",
        "[a](b)",
        "!",
        "\\",
        "<",
        "&amp;",
        "- ",
    ]
)


@given(st.lists(PIECES, max_size=14).map("".join), st.lists(st.integers(1, 5), max_size=30))
def test_the_pieces_do_not_change_the_text(markdown: str, sizes: list[int]):
    stream, shown, place = PlainText(), "", 0
    for size in [*sizes, len(markdown)]:
        shown += stream.feed(markdown[place : place + size])
        place += size
    assert shown + stream.end() == plain_text(markdown)
