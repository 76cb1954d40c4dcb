"""Guesses the language of a text from its script and its most common words, without a model or a download."""

import re
from collections import Counter

# The numbers here were chosen by hand. docs/dataset.md says what the guess finds: 31 of 38 short pairs in thirteen
# other languages, and none of 4,000 English ones taken for foreign.
_SAMPLE_CHARACTERS = 4000
_SCRIPT_SHARE = 0.3
# Ukrainian differs from Russian in few letters, and kana are a small part of Japanese.
_SCRIPT_SHARES = {"uk": 0.02, "ja": 0.1}
_FEWEST_VOTES = 3
_VOTE_SHARE = 0.08
_CLEAR_LEAD = 2
# Languages in one script, of which a question may show only the letters of the other.
_ONE_SCRIPT = ({"ru", "uk"}, {"ja", "zh"})
_CODE_BLOCK = re.compile(r"```.*?```", re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`]*`")
_SPACED_WORD = re.compile(r"[^\s`'’\"(),;:!?]+")
_SCRIPTS = (
    ("ja", r"[\u3040-\u30ff]"),
    ("ko", r"[\uac00-\ud7af]"),
    ("zh", r"[\u4e00-\u9fff]"),
    ("ar", r"[\u0600-\u06ff]"),
    ("he", r"[\u0590-\u05ff]"),
    ("el", r"[\u0370-\u03ff]"),
    ("hi", r"[\u0900-\u097f]"),
    ("th", r"[\u0e00-\u0e7f]"),
    ("uk", r"[іїєґІЇЄҐ]"),
    ("ru", r"[\u0400-\u04ff]"),
)
COMMON_WORDS = {
    "en": "the and of to is that for it with as are be this by or from not if can which you a i do does what how when "
    "in where why who whose has have had should would could must may been but they their there these those than then "
    "into about my me your its we our only each other more no get at on used called",
    "de": "der die und das ist nicht ein eine einer zu den dem des mit von für auf werden wird auch sich im oder sie "
    "wenn was wie welche welcher welches wann warum wo kann ich bei aus nach es sind hat",
    "fr": "le la les des et est une un que pour dans qui sur pas avec plus par au ce cette sont être vous ou du de "
    "quel quelle quels comment pourquoi quand où je il elle se peut faut",
    "es": "el la los las de que y en un una es por con para no se del al como más este esta está son ser usted o "
    "qué cuál cómo cuándo dónde su lo hay puede yo",
    "it": "il la di che e un una per non con sono del della dei gli le lo si nel più come anche questo è essere o "
    "cosa quale quando perché dove da i al alla può",
    "pt": "o a os as de que e em um uma para com não por do da dos das se no na mais como é são ou você ao "
    "qual quando onde pode ser esta este isso",
    "nl": "de het een en van is dat niet te op met voor zijn aan die in wordt ook als bij of worden naar "
    "wat welke hoe wanneer waarom waar ik kan er uit",
    "pl": "i w na z do nie się to jest że o jak za po przez od dla są być oraz lub tym który co jaki jaka kiedy gdzie "
    "dlaczego można czy",
    "sv": "och att det är en som på av för med den till inte har om ett kan eller från ska vid du vad vilken vilket "
    "hur när varför i jag man",
    "cs": "a se na je v že to s z do pro jako jsou není by nebo které který podle však být při co jak kdy kde proč "
    "jaký jaká může",
    "tr": "ve bir bu için ile de da olarak olan gibi daha çok veya ise kadar değil en her ne nedir nasıl hangi neden "
    "nerede mi",
}
"""The most common words of documentation and of questions in each language that is written in Latin script."""
_COMMON_WORDS = {language: frozenset(words.split()) for language, words in COMMON_WORDS.items()}


def guess_language(text: str, fallback: str = "en") -> str:
    """Return an ISO 639-1 code, or `fallback` if the text is too short or too mixed to decide."""
    sample = _sample(text)
    if language := _language_of_script(sample):
        return language
    votes, words = _votes(sample)
    best = max(votes, key=lambda language: votes[language])
    return best if votes[best] >= max(_FEWEST_VOTES, _VOTE_SHARE * words) else fallback


def likely_language(question: str, expected: str) -> str:
    """Return the language of a question: `expected`, unless the words of one other language are clearly more.

    A question has few words, and many common words belong to several languages: `in` is English, German and Dutch.
    """
    sample = _INLINE_CODE.sub(" ", _sample(question))
    if language := _language_of_script(sample):
        return expected if {language, expected} in _ONE_SCRIPT else language
    votes, words = _votes(sample)
    best, second = sorted(votes, key=lambda language: -votes[language])[:2]
    lead = votes[best] - votes.get(expected, 0)
    is_clear = lead >= _CLEAR_LEAD and votes[best] > votes[second] and votes[best] >= _VOTE_SHARE * words
    return best if is_clear else expected


def _sample(text: str) -> str:
    return _CODE_BLOCK.sub(" ", text[: 2 * _SAMPLE_CHARACTERS])[:_SAMPLE_CHARACTERS]


def _language_of_script(sample: str) -> str:
    """Return the language that is written in the script of the text, or "" for Latin script."""
    letters = sum(character.isalpha() for character in sample)
    for language, pattern in _SCRIPTS:
        if letters and len(re.findall(pattern, sample)) / letters > _SCRIPT_SHARES.get(language, _SCRIPT_SHARE):
            return language
    return ""


def _votes(sample: str) -> tuple[dict[str, int], int]:
    """Return how many of the words each language has among its common words, and how many words there are."""
    # Identifiers with digits, dots or underscores belong to no language.
    words = (word.rstrip(".") for word in _SPACED_WORD.findall(sample.lower()))
    counts = Counter(word for word in words if word.isalpha())
    votes = {language: sum(counts[word] for word in words) for language, words in _COMMON_WORDS.items()}
    return votes, counts.total()
