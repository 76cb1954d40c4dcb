"""The text tools: words, sentences, shingles, white space; the language guess is tested with the readers."""

import random

import pytest

from ragtune.text.sentences import line_sentence_spans, sentence_spans, split_sentences
from ragtune.text.shingles import BandIndex, Bands, jaccard, minhash_bands, near_pairs, shingles
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import STOP_WORDS, content_words, stem


def test_content_words_are_stems_without_stop_words() -> None:
    assert content_words("What is the limit of the retries?") == {"limit", "retri"}
    assert not content_words("What is the of a")


def test_an_identifier_counts_whole_and_by_its_parts() -> None:
    assert content_words("LoraConfig") == {"loraconfig", "lora", "config"}
    assert content_words("max_retries") == {"max_retri", "max", "retri"}
    assert content_words("maxRetries limits") & content_words("a limit of retries")


def test_what_an_apostrophe_leaves_is_no_content_word() -> None:
    assert content_words("it's") == frozenset()
    assert content_words("don't") == {"don"}


@pytest.mark.parametrize("word", ["train", "trains", "trained", "training"])
def test_forms_of_a_word_share_a_stem(word: str) -> None:
    assert stem(word) == "train"


def test_short_words_keep_their_endings() -> None:
    assert [stem(word) for word in ("as", "bed", "ring", "bus")] == ["as", "bed", "ring", "bus"]


def test_other_languages_have_stop_words_of_their_own_and_keep_their_endings() -> None:
    assert content_words("Was ist die Größe der Warteschlangen?", "de") == {"größe", "warteschlangen"}
    assert {"en", "de", "fr"} <= STOP_WORDS.keys()
    assert content_words("o nome", "xx") == {"o", "nome"}


def test_sentences_are_spans_without_white_space_around_them() -> None:
    text = "  One thing. Another thing!\n\nA third"
    assert [text[start:end] for start, end in sentence_spans(text)] == ["One thing.", "Another thing!", "A third"]
    assert list(sentence_spans(text, 2, 12)) == [(2, 12)]


@pytest.mark.parametrize(
    "sentence",
    [
        "It takes a format, e.g. JSON, and writes it.",
        "It was written by J. Smith.",
        "1. Install the package first.",
        "Use `a. B` here.",
        "It is closed (see below. Really) at night.",
        "`call(name, ...)` (class)",
        "Defaults to 5. |",
        "Version 2.5 is out.",
        "The lock was made by Hallam Inc. Leeds for the mill.",
        "The crane was drawn by Prof. Okafor, not by Dr. Lund.",
        "A gate under Sec. 9 stays shut, as Art. IV says.",
        "It holds approx. 200 litres, i.e. max. 40 buckets.",
        "Ships from the U.S. Coast Guard use it.",
        "See Nr. 5 and vol. 3 first.",
        "The keeper wrote of it (cf. Fig. 3) in May.",
        "Das Tor ist aus Holz, z. B. Eiche, bzw. Stahl, mit max. Höhe 3 m.",
        "Le tarif de Mme. Roux vaut env. Noël compris.",
        "Мост стоит на ул. Садовой, т. е. Восточной.",
    ],
)
def test_a_full_stop_does_not_always_end_a_sentence(sentence: str) -> None:
    assert split_sentences(sentence) == [sentence]


def test_a_sentence_may_begin_with_a_digit_a_bracket_or_markup() -> None:
    text = 'Does it end? 3 more follow. (Only here.) `run` starts it. "Yes." *Note* well.'
    assert split_sentences(text) == [
        "Does it end?",
        "3 more follow.",
        "(Only here.)",
        "`run` starts it.",
        '"Yes."',
        "*Note* well.",
    ]


def test_numbered_sentences_in_one_line_are_separate() -> None:
    assert split_sentences("1. Lift the bar. 2. Open the gate. (3) Wait.") == [
        "1. Lift the bar.",
        "2. Open the gate.",
        "(3) Wait.",
    ]


def test_list_items_end_a_sentence_and_wrapped_lines_do_not() -> None:
    assert split_sentences("Choose one\n- red\n- blue\nand\ngreen. Done") == [
        "Choose one",
        "- red",
        "- blue\nand\ngreen.",
        "Done",
    ]


def test_the_sentences_of_lines_end_with_their_line() -> None:
    text = "One. Two\nthree\n\nfour."
    assert [text[start:end] for start, end in line_sentence_spans(text)] == ["One.", "Two", "three", "four."]


def test_an_empty_text_has_no_sentences_and_no_shingles() -> None:
    assert split_sentences(" \n ") == []
    assert shingles("...") == frozenset()
    assert jaccard(shingles(""), shingles("")) == 0.0


def test_shingles_are_runs_of_three_words_whatever_their_case_and_punctuation() -> None:
    assert len(shingles("One two three four")) == 2
    assert shingles("One, two: THREE!") == shingles("one two three")
    assert len(shingles("only two")) == 1


def test_jaccard_is_the_shared_part_of_both() -> None:
    # "a b c d" has {abc, bcd}, "b c d e" has {bcd, cde}: one of three is shared.
    assert jaccard(shingles("a b c d"), shingles("b c d e")) == pytest.approx(1 / 3)


def test_equal_sets_have_equal_bands_and_become_candidates() -> None:
    shape, index = Bands(16, 4), BandIndex()
    first, second = shingles("the harbour opens at dawn every day"), shingles("nothing of the kind was ever said here")
    index.add(7, minhash_bands(first, shape))
    assert index.candidates(minhash_bands(first, shape)) == [7]
    assert index.candidates(minhash_bands(second, shape)) == []


@pytest.mark.parametrize("threshold", [0.35, 0.5, 0.7, 0.9])
def test_near_pairs_agree_with_brute_force(threshold: float) -> None:
    rng = random.Random(2)
    words = [f"w{n}" for n in range(400)]
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(40)]
    for text in texts[:40]:
        changed = text.split()
        for _ in range(rng.randrange(12)):
            changed[rng.randrange(60)] = rng.choice(words)
        texts.append(" ".join(changed))
    expected = {
        (i, j)
        for j in range(len(texts))
        for i in range(j)
        if jaccard(shingles(texts[i]), shingles(texts[j])) >= threshold
    }
    assert expected
    assert set(near_pairs(texts, threshold)) == expected


def test_white_space_collapses_to_single_spaces() -> None:
    assert collapse_whitespace("  It\n is\t5. ") == "It is 5."


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("港口开放。渡轮停运！为什么？", ["港口开放。", "渡轮停运！", "为什么？"]),
        ("「開く。」と言う。閉まる。", ["「開く。」", "と言う。", "閉まる。"]),
        ("هل الميناء مفتوح؟ نعم. يغلق مساء.", ["هل الميناء مفتوح؟", "نعم.", "يغلق مساء."]),
        ("« Il ouvre. » Elle ferme.", ["« Il ouvre. » Elle ferme."]),
        ("Гавань открыта. Паром стоит.", ["Гавань открыта.", "Паром стоит."]),
    ],
)
def test_sentences_end_in_other_scripts_too(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_texts_without_spaces_have_shingles_of_words() -> None:
    assert len(shingles("港口每天早上开放")) == 2
    assert jaccard(shingles("港口每天早上六点开放"), shingles("港口每天早上七点开放")) < 1.0
    assert shingles("港口，每天早上开放。") == shingles("港口每天早上开放")


def test_content_words_are_found_in_texts_without_spaces() -> None:
    assert content_words("港口每天开放") >= {"港口", "每天", "开放"}
    assert content_words("har\u00adbour") == content_words("harbour")
