"""Language packs: the files of the package hold together, and a wrong file is named with its field."""

from pathlib import Path

import pytest
import yaml

from ragtune.answer import language_packs
from ragtune.answer.language_packs import ENGLISH, Frame, packs, read_pack
from ragtune.answer.refusals import is_refusal
from ragtune.answer.small_talk import SMALL_TALK
from ragtune.errors import SettingsError
from ragtune.text.language import guess_language

PACKS = packs()
FOLDER = Path(language_packs.__file__).parent / "languages"


def changed(tmp_path: Path, **fields: object) -> Path:
    """Return a copy of the English pack with these fields; a field that is None is left out."""
    content = yaml.safe_load((FOLDER / "en.yaml").read_text()) | fields
    path = tmp_path / "pack.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in content.items() if value is not None}))
    return path


def test_the_package_has_packs_of_three_languages_under_their_codes():
    assert list(PACKS) == ["de", "en", "fr"]
    assert all(pack.code == code for code, pack in PACKS.items())
    assert {path.stem for path in FOLDER.iterdir()} == set(PACKS)


@pytest.mark.parametrize("code", ["de", "fr"])
def test_every_longer_text_of_a_pack_is_in_its_language(code: str):
    pack = PACKS[code]
    texts = [*pack.prompt.model_dump().values(), *pack.warnings.model_dump().values(), *pack.replies, pack.refusal]
    guesses = {text: guess_language(text, code) for text in texts}
    assert {text: guess for text, guess in guesses.items() if guess != code} == {}
    assert not set(texts) & {*ENGLISH.prompt.model_dump().values(), *ENGLISH.warnings.model_dump().values()}


@pytest.mark.parametrize(
    ("code", "text", "refused"),
    [
        ("de", "Das konnte ich in den Dokumenten nicht finden.", True),
        ("de", "Leider steht in den Textstellen nichts dazu.", True),
        ("de", "Ich kann diese Frage anhand der Textstellen nicht beantworten. [1]", True),
        ("de", "Die Textstellen enthalten keine Angaben zu Hunden.", True),
        ("de", "Der Preis wird in den Dokumenten nicht genannt.", True),
        ("de", "Der Saal kann von Montag bis Freitag gemietet werden. [1]", False),
        ("de", "Das Fernrohr kann man bei Regen nicht nutzen. [2]", False),
        ("de", "Die Dokumente enthalten keine Bilder.", False),
        ("de", "Leider nein, am Montag ist geschlossen. [1]", False),
        ("fr", "Je n'ai pas trouvé cela dans les documents.", True),
        ("fr", "Je n’ai pas trouvé cela dans les documents.", True),
        ("fr", "Désolé, je ne sais pas.", True),
        ("fr", "Je ne peux pas répondre à cette question.", True),
        ("fr", "Le prix n'est pas indiqué dans les documents.", True),
        ("fr", "Les passages ne contiennent pas la réponse.", True),
        ("fr", "On ne peut pas camper près du lac. [1]", False),
        ("fr", "Les documents ne contiennent pas d'images.", False),
        ("en", "I couldn’t find this in the passages.", True),
    ],
)
def test_a_refusal_is_recognised_in_every_language(code: str, text: str, refused: bool):
    assert is_refusal(text, (PACKS[code],)) is refused


def test_the_refusal_of_another_language_is_no_refusal_unless_its_pack_counts():
    assert not is_refusal(PACKS["de"].refusal)
    assert is_refusal(PACKS["de"].refusal, (ENGLISH, PACKS["de"]))


@pytest.mark.parametrize("code", ["de", "en", "fr"])
def test_no_reply_to_small_talk_is_a_refusal_and_every_phrase_has_its_reply(code: str):
    pack = PACKS[code]
    assert not any(is_refusal(reply, PACKS.values()) for reply in pack.replies)
    assert all(pack.reply_to(phrase) == group.reply for group in pack.small_talk for phrase in group.phrases)


def test_a_phrase_is_recognised_without_its_punctuation_and_case_and_a_question_is_no_phrase():
    assert PACKS["de"].reply_to("vielen DANK!!") == "Gern geschehen."
    assert PACKS["fr"].reply_to("c’est tout.") == "Au revoir."
    assert PACKS["fr"].reply_to("Ça va?") == PACKS["fr"].reply_to("ça va ?") != ""
    assert PACKS["de"].reply_to("Danke, und wann macht die Mensa zu?") == ""
    assert ENGLISH.reply_to("how many planets are there") == ""


def test_the_model_is_trained_on_the_english_phrases_in_their_order():
    assert SMALL_TALK[0][0][:3] == ("Hello", "hi", "hello there")
    assert SMALL_TALK[-1] == (ENGLISH.off_topic, ENGLISH.refusal)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"refusal": None}, "field 'refusal': Field required"),
        ({"greeting": "Hi"}, "field 'greeting': Extra inputs are not permitted"),
        ({"quotation": "{text}"}, r"field 'quotation': .*places in it are \{text\}, and must be \{number\}, \{text\}"),
        ({"quotation": "{text"}, "field 'quotation'"),
        ({"refusal_forms": ["(find"]}, r"field 'refusal_forms\.0': .*no regular expression"),
        ({"follow_up": {"begins": [], "refers_back": ["it"]}}, r"field 'follow_up\.begins'"),
        ({"code": "English"}, "field 'code'"),
    ],
)
def test_a_wrong_pack_is_named_with_its_file_and_field(tmp_path: Path, fields: dict[str, object], message: str):
    path = changed(tmp_path, **fields)
    with pytest.raises(SettingsError, match=message) as error:
        read_pack(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["code: [", None, b"\xff\xfe"])
def test_a_pack_that_cannot_be_read_is_named(tmp_path: Path, text: str | bytes | None):
    path = tmp_path / "nl.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match=r"nl\.yaml cannot be read"):
        read_pack(path)


def test_a_pack_of_ones_own_replaces_the_packaged_one_with_its_code(tmp_path: Path):
    own = changed(tmp_path, code="de", refusal="Steht da nicht.")
    assert packs([str(own)])["de"].refusal == "Steht da nicht."


def test_a_pack_of_ones_own_adds_its_language(tmp_path: Path):
    assert list(packs([str(changed(tmp_path, code="nl"))])) == ["de", "en", "fr", "nl"]


def test_a_frame_knows_whether_its_language_has_a_pack():
    assert Frame("nl", ENGLISH).lacks_pack
    assert not Frame("en", ENGLISH).lacks_pack
