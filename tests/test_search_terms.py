"""The terms that word search compares: normal form, words without spaces, stems by language, identifiers."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ragtune.text.normal_form import normalize_for_search
from ragtune.text.search_terms import _word_terms, contains_identifier, identifiers, index_terms, query_terms
from ragtune.text.segments import joint, split_words


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("harb\u00adour mas\u200bter", "harbour master"),
        ("\ufeffofﬁce ﬂoor", "office floor"),
        ("cafe\u0301", "café"),
        ("ＡＢＣ１２３", "ABC123"),
        ("the ship’s “log”", 'the ship\'s "log"'),
        ("10⁶ litres of H₂O", "10^6 litres of H2O"),
        ("1½ hours", "1 1⁄2 hours"),
        ("Tidal™ pumps", "Tidal  pumps"),
        ("non‑stop", "non-stop"),
        ("น้ำแข็ง", "น้ำแข็ง"),
        ("كتـــاب", "كتاب"),
    ],
)
def test_what_looks_the_same_has_one_form(text: str, normal: str) -> None:
    assert normalize_for_search(text) == normal


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("港口每天早上开放。", ["港口", "每天", "早上", "开放"]),
        ("港は毎朝開きます", ["港", "は", "毎朝", "開き", "ます"]),
        ("ท่าเรือเปิดทุกเช้า", ["ท่าเรือ", "เปิด", "ทุก", "เช้า"]),
        ("使用USB接口2次", ["使用", "USB", "接口", "2", "次"]),
        ("पानी ठंडा है", ["पानी", "ठंडा", "है"]),
    ],
)
def test_words_are_found_in_scripts_without_spaces(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_no_space_stands_between_sentences_of_scripts_without_spaces() -> None:
    assert joint("港口开放。", "渡轮停运。") == ""
    assert joint("It opens.", "It closes.") == " "


@pytest.mark.parametrize(
    ("language", "stored", "asked"),
    [
        ("en", "The harbours are closing", "closed harbour"),
        ("de", "Die Fähren fahren nach den Häfen", "Fähre Hafen"),
        ("fr", "Les bateaux nationaux partent", "bateau national"),
        ("es", "Los barcos llegaron temprano", "barco"),
        ("it", "Le navi arrivano domani", "nave"),
        ("pt", "Os navios chegaram", "navio"),
        ("nl", "De schepen varen", "schepen"),
        ("sv", "Båtarna seglar", "båten"),
        ("ru", "Паромы стоят в гаванях", "гавань"),
        ("ar", "السفن في الموانئ", "سفن"),
        ("el", "Τα καράβια φεύγουν", "καραβια"),
        ("ko", "항구에서 배를 탑니다", "항구"),
        ("zh", "冷藏仓库在港口", "仓库"),
        ("ja", "冷蔵倉庫は港にあります", "倉庫"),
        ("th", "คลังสินค้าอยู่ที่ท่าเรือ", "ท่าเรือ"),
    ],
)
def test_a_question_in_any_language_shares_a_term_with_its_passage(language: str, stored: str, asked: str) -> None:
    assert set(query_terms(asked)) & set(index_terms(stored, language))


def test_stems_of_other_languages_never_meet_english_ones() -> None:
    assert index_terms("Die Gifte", "de") == ["de|gift"]
    assert index_terms("gifts") == ["gift"]
    assert {"gift", "de|gift"} <= set(query_terms("gift"))


def test_small_words_of_each_language_are_no_terms() -> None:
    assert index_terms("What is it that they do?") == []
    assert index_terms("Was ist das und wie?", "de") == []
    assert index_terms("Что это такое", "ru") == ["так"]


def test_a_joined_word_is_a_term_as_a_whole_and_by_its_parts() -> None:
    assert index_terms("Order KX-31_B") == ["order", "kx", "31", "b", "kx-31_b"]
    assert "c++" in index_terms("Write C++")
    assert "c#" in index_terms("Write C#.")


def test_a_very_long_word_stays_one_short_term() -> None:
    digest = "ab12" * 40
    (term,) = index_terms(digest)
    assert len(term) == 64
    assert index_terms(digest.upper()) == [term]
    assert index_terms(f"{digest[:-1]}3") != [term]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What does QRS-77 do?", ["qrs-77"]),
        ("Open /srv/tide/log.txt please", ["srv/tide/log.txt"]),
        ("Is E4021 in 3.14.2?", ["3.14.2", "e4021"]),
        ("Who opens the gate?", []),
        ("Where is the гавань?", ["гавань"]),
        ("Une année entière", []),
    ],
)
def test_identifiers_are_what_has_digits_joints_or_other_letters(question: str, expected: list[str]) -> None:
    assert identifiers(question) == expected


def test_an_identifier_is_no_part_of_a_longer_word() -> None:
    assert contains_identifier("see e40 and e4021.", "e4021")
    assert not contains_identifier("see e40217", "e4021")
    assert not contains_identifier("see xe4021", "e4021")
    assert contains_identifier("冷藏仓库在港口", "仓库")


def test_threads_that_stem_at_the_same_time_get_the_stems_of_one_thread() -> None:
    texts = [
        " ".join(f"{word}{ending}{n:b}".replace("0", "a").replace("1", "e") for n in range(40))
        for word in ("harbour", "kapı", "gemi", "schiff")
        for ending in ("lar", "en", "ings", "")
    ]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(query_terms, texts * 4))
    _word_terms.cache_clear()
    assert together == [query_terms(text) for text in texts * 4]


def test_the_letters_of_a_picture_in_base64_are_indexed_at_once() -> None:
    # The square of this length is 40 thousand million steps, an hour; a line of it takes some milliseconds.
    assert len(index_terms("iVBORw0K" * 25_000)) == 1
    assert identifiers("iVBORw0K" * 25_000) == ["ivborw0k" * 25_000]
