"""Brings text into the form in which it is searched: what looks the same or means the same letter becomes the same.

Only search uses this form. Stored passages, prompts and citations keep the characters of the document.
"""

import re
import unicodedata

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
"""Characters without a width: soft hyphens, joiners, marks of direction, variants of glyphs."""
_SUPERSCRIPT = re.compile("(?<=[^\\W_])[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_FRACTION = re.compile("(?<=\\d)(?=[¼½¾⅐-⅞])")
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′´`ʼ＇", "'"),
        **dict.fromkeys("“”„‟″«»＂", '"'),
        **dict.fromkeys("‐‑‒−﹣－", "-"),
        # The normal form of these would become a part of the word before them: `AcmeTM`.
        **dict.fromkeys("™℠®©", " "),
        # A mark that only stretches an Arabic word.
        "ـ": None,
    }
)


_QUOTES = str.maketrans({**dict.fromkeys("‘’‚‛ʼ＇", "'"), **dict.fromkeys("“”„‟＂", '"'), **dict.fromkeys("‐‑", "-")})


def straight_quotes(text: str) -> str:
    """Return the text with straight quotes and plain hyphens; every character keeps its place."""
    return text.translate(_QUOTES)


def normalize_for_search(text: str) -> str:
    """Return the text as search compares it: Unicode form NFKC, straight quotes, no invisible characters.

    Ligatures, full-width letters and composed accents become plain ones. An exponent keeps a sign of its own,
    because 10⁶ is not 106. The vowel am of Thai and Lao stays one character, as dictionaries have it.
    """
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", text)
    text = _SUPERSCRIPT.sub(lambda match: f"^{match[0]}", text)
    text = _FRACTION.sub(" ", text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    return text.replace("\u0e4d\u0e32", "\u0e33").replace("\u0ecd\u0eb2", "\u0eb3")
