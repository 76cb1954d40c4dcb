"""The language of a question, and what people get in it."""

from dataclasses import replace
from pathlib import Path

import pytest

from ragtune.answer.answering import Answerer
from ragtune.answer.language_packs import ENGLISH, Frame, packs
from ragtune.answer.passages import search_text
from ragtune.answer.question_language import Languages
from ragtune.errors import SettingsError
from ragtune.records import Hit, Message
from ragtune.settings import AnswerSettings, load_settings
from ragtune.text.language import likely_language
from tests.support.answering_fakes import ListRetriever, ScriptedChat, WordEvidence, chunk

PACKS = packs()
GERMAN = replace(chunk("mensa", "Die Mensa schließt um 14 Uhr. Hunde bleiben draußen."), language="de")
DUTCH = replace(chunk("kantine", "De kantine sluit om 14 uur."), language="nl")


def answerer(*chunks, **settings) -> Answerer:
    retriever = ListRetriever(chunks or (GERMAN,))
    return Answerer(retriever, AnswerSettings(**settings), evidence=WordEvidence(0.3))


def answer(question: str, reply: str = "I could not find this in the documents.", /, *chunks, **settings):
    return answerer(*chunks, **settings).answer(question, ScriptedChat(lambda messages: reply))


@pytest.mark.parametrize(
    ("question", "expected", "language"),
    [
        ("Was kostet ein Boot?", "en", "de"),
        ("mensa morgens", "de", "de"),
        ("mensa morgens", "en", "en"),
        ("Who is Henrike Voss?", "de", "en"),
        ("Et le samedi ?", "en", "fr"),
        ("opening hours in winter", "de", "de"),
        ("Когда открыто?", "en", "ru"),
        ("Когда открыто?", "uk", "uk"),
        ("東京は?", "zh", "zh"),
        ("", "fr", "fr"),
        ("`as` or `is`", "fr", "fr"),
    ],
)
def test_a_question_has_the_expected_language_unless_another_one_is_clear(question, expected, language):
    assert likely_language(question, expected) == language


def test_a_short_question_has_the_language_of_its_conversation_before_that_of_the_passages():
    languages = Languages(AnswerSettings())
    passages = [Hit(GERMAN, 1.0), Hit(GERMAN, 0.5), Hit(DUTCH, 0.4)]
    history = (Message("user", "When is the canteen open?"), Message("assistant", "Die Mensa ist da, und das ist gut."))
    assert languages.frame("mensa", (), passages).language == "de"
    assert languages.frame("mensa", history, passages).language == "en"
    assert languages.frame("Und wann ist sie zu?", history, passages).language == "de"
    assert languages.frame("mensa").language == "en"


@pytest.mark.parametrize("reply", ["I could not find this in the documents.", "Das konnte ich nicht finden.", ""])
def test_a_quotation_in_place_of_a_refusal_is_marked_in_the_language_of_the_question(reply):
    result = answer("Wann schließt die Mensa?", reply)
    assert result.text == "Aus den Dokumenten: „Die Mensa schließt um 14 Uhr.“ [1]"
    assert (result.language, result.warnings, result.refused) == ("de", (), False)


def test_a_refusal_of_the_model_counts_less_in_a_language_that_it_was_not_trained_on():
    """The packaged model refuses more than half of the German questions that the passages answer."""

    class ShareIsThreshold(WordEvidence):
        def threshold(self, refused_share: float) -> float:
            return refused_share

    settings = AnswerSettings(refused_share=0.2, model_refuses=0.0, model_refuses_foreign=0.8)
    asked = Answerer(ListRetriever((GERMAN,)), settings, evidence=ShareIsThreshold())
    assert asked.prepare("When does the canteen close?").rules.doubtful == pytest.approx(1.0)
    assert asked.prepare("Wann schließt die Mensa?").rules.doubtful == pytest.approx(0.2)


def test_a_refusal_is_delivered_in_the_language_of_the_question():
    result = answer("Wie viele Pinguine regieren die Mensa seit dem letzten Winter?")
    assert result.text == "Das konnte ich in den Dokumenten nicht finden."
    assert result.refused
    assert result.closest
    english = answer("How many penguins govern the Mensa since the last of the winters?")
    assert (english.text, english.language) == (ENGLISH.refusal, "en")


def test_warnings_come_in_the_language_of_the_question():
    result = answer("Wann schließt die Mensa?", "Um 14 Uhr. [3]", quotations=False)
    assert result.warnings == ("Sie nannte Textstelle 3, aber die Worte stehen in Textstelle 1.",)


def test_a_language_without_a_pack_is_answered_in_english_sentences_and_says_so():
    result = answer("Hoe laat sluit de kantine en wat is er?", ENGLISH.refusal, DUTCH)
    assert result.text == 'From the documents: "De kantine sluit om 14 uur." [1]'
    assert result.language == "nl"
    (warning,) = result.warnings
    assert "'nl', for which there is no language pack" in warning


def test_the_settings_may_fix_the_language():
    result = answer("When does the Mensa close?", language="fr")
    assert result.text == "D’après les documents : « Die Mensa schließt um 14 Uhr. » [1]"
    assert result.language == "fr"


def test_the_settings_may_name_the_file_of_a_pack(tmp_path: Path):
    text = (Path(__file__).parent.parent / "ragtune/answer/languages/en.yaml").read_text()
    file = tmp_path / "nl.yaml"
    file.write_text(text.replace("code: en", "code: nl").replace("From the documents:", "Uit de documenten:"))
    for settings in (
        {"language": str(file)},
        {"language_packs": (str(file),)},
        {"language_packs": (str(file),), "language": "nl"},
    ):
        result = answer("Hoe laat sluit de kantine en wat is er?", ENGLISH.refusal, DUTCH, **settings)
        assert result.text == 'Uit de documenten: "De kantine sluit om 14 uur." [1]'
        assert (result.language, result.warnings) == ("nl", ())


@pytest.mark.parametrize("setting", ["language", "prompt_language"])
def test_a_language_without_a_pack_in_the_settings_is_an_error_that_lists_the_packs(setting):
    with pytest.raises(SettingsError, match=rf"(?s)`answer\.{setting}` has 'xx'.*de, en, fr"):
        Languages(AnswerSettings(**{setting: "xx"}))


def test_the_prompt_stays_english_unless_the_settings_say_otherwise():
    question = "Wann schließt die Mensa?"
    english = answerer().prepare(question).messages
    assert english[0].content.startswith("Answer the question briefly")
    assert "\n\nQuestion: Wann" in english[1].content
    for language in ("de", "auto"):
        system, user = answerer(prompt_language=language).prepare(question).messages
        assert system.content.startswith("Beantworte die Frage kurz")
        assert "\n\nFrage: Wann" in user.content


def test_a_model_that_is_trained_here_reads_the_english_prompt(tmp_path: Path):
    settings = {"home": tmp_path, "answer": {"prompt_language": "auto"}}
    with pytest.raises(SettingsError, match="trained on the English prompt"):
        load_settings(settings)
    engine = {"backend": "openai", "url": "http://127.0.0.1:1", "model": "m"}
    assert load_settings({**settings, "engine": engine}).answer.prompt_language == "auto"


@pytest.mark.parametrize(
    ("question", "language", "reply"),
    [
        ("Danke!", "de", "Gern geschehen."),
        ("merci beaucoup", "fr", "Je vous en prie."),
        ("thanks", "en", "You are welcome."),
    ],
)
def test_small_talk_is_answered_in_its_language_without_the_model(question, language, reply):
    chat = ScriptedChat(lambda messages: pytest.fail("the model was asked"))
    result = answerer().answer(question, chat)
    assert (result.text, result.language, result.warnings, result.refused) == (reply, language, (), False)


def test_a_phrase_of_several_languages_is_answered_in_that_of_the_conversation():
    history = (Message("user", "Wann schließt die Mensa und was kostet es?"),)
    assert answerer().prepare("ok", history).reply == "Gut. Fragen Sie mich jederzeit wieder."
    assert answerer().prepare("ok").reply == "Good. Ask me again whenever you like."


def test_small_talk_without_documents_goes_to_the_model():
    chat = ScriptedChat(lambda messages: "De rien !")
    assert Answerer(None, AnswerSettings()).answer("merci", chat).text == "De rien !"


def test_a_follow_up_is_recognised_by_the_words_of_its_language():
    history = (Message("user", "Wann schließt die Mensa?"),)
    question = "Welche Preise gelten für Studierende und Gäste dort?"
    assert search_text(question, history, Frame("de", PACKS["de"])) == f"Wann schließt die Mensa? {question}"
    assert search_text(question, history) == question
    french = "Qu’en est-il des prix pour les familles nombreuses ?"
    assert search_text(french, (Message("user", "Q"),), Frame("fr", PACKS["fr"])) == f"Q {french}"
