"""Bytes to text: UTF-8 first, then byte order marks, then the likeliest legacy encoding."""

import re

from ragtune.knowledge.readers.reading import UnreadableError

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# At most one broken byte in this many characters: the file is UTF-8 with damage, not another encoding.
# Chosen by hand: Latin-1 prose in European languages has one accented letter in 10 to 40 characters.
_CHARACTERS_PER_DAMAGE = 60
_SAMPLE_BYTES = 200_000
_HIGH = re.compile(rb"[\x80-\xff]+")
# French and Czech have up to 15% of accented letters, seldom two in a row; Cyrillic or Chinese text is nearly all
# high bytes. Chosen by hand between the two.
_LONGEST_RUN, _MOST_ACCENTS = 1.5, 0.35
_MARKS_OF_ALL = "€‚„…‹›‘’“”•–—«»§°©®·\xa0"
# The letters other than ASCII of each encoding's languages, by their alphabets; the most common encoding first.
_LETTERS = {
    "cp1252": frozenset("äöüßÄÖÜàâæçéèêëîïôœùûÿÀÂÇÉÈÊËÎÏÔŒÙÛáíóúñÁÍÓÚÑ¿¡ãõÃÕåøÅØÆìòÌÒ" + _MARKS_OF_ALL + "£½²³µ"),
    "cp1250": frozenset("ąćęłńóśźżĄĆĘŁŃÓŚŹŻáčďéěíňřšťúůýžÁČĎÉĚÍŇŘŠŤÚŮÝŽôľĺŕőűŐŰöüÖÜđĐăâîșțşţ" + _MARKS_OF_ALL),
    "cp1254": frozenset("çğıöşüÇĞİÖŞÜâîû" + _MARKS_OF_ALL),
    "cp1257": frozenset("ąčęėįšųūžĄČĘĖĮŠŲŪŽāēģīķļņĀĒĢĪĶĻŅõäöüÕÄÖÜ" + _MARKS_OF_ALL),
}
# The other encodings of the Latin alphabet are ISO 8859 (all but 5 to 8 and 11), DOS, Mac and EBCDIC code pages.
_LATIN = re.compile(
    r"cp125[0247-8]|latin_1|iso8859_(?:[2349]|1[03-6])|cp(?:437|775|85[0278]|86[0135])|mac_(?:roman|latin2|turkish|iceland|croatian|romanian)|hp_roman8"
    r"|cp(?:037|500|1026|1140|273)"
)


def whole_characters(text: str) -> str:
    r"""Return the text with U+FFFD for each half of a surrogate pair, which `\\ud800` in JSON may leave."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def decode(raw: bytes) -> str:
    r"""Return the text of the bytes with `\n` line ends; one bad byte in UTF-8 costs one character.

    Raises UnreadableError for bytes that are no text.
    """
    return _decode(raw).replace("\r\n", "\n").replace("\r", "\n")


def _decode(raw: bytes) -> str:
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return raw.decode(encoding, errors="replace")
    if b"\0" in raw:
        raise UnreadableError("it holds NUL bytes: this is not text")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return _decode_legacy(raw, error)


def _decode_legacy(raw: bytes, error: UnicodeDecodeError) -> str:
    """Decode bytes that are not clean UTF-8: damaged UTF-8, or a legacy encoding."""
    repaired = raw.decode("utf-8", errors="replace")
    damage = repaired.count("\ufffd")
    multibyte = sum(ord(character) > 127 for character in repaired) - damage
    if damage <= multibyte:
        # Valid multi-byte sequences do not happen by chance in a legacy encoding.
        return repaired
    guess = _likeliest(raw[:_SAMPLE_BYTES])
    if guess is None:
        if damage * _CHARACTERS_PER_DAMAGE <= len(repaired):
            return repaired
        place = f"byte {raw[error.start]:#04x} at {error.start}"
        raise UnreadableError(f"it is not UTF-8 ({place}) and no other encoding fits")
    return raw.decode(guess, errors="replace")


def _likeliest(raw: bytes) -> str | None:
    """Return the encoding that fits: Windows-1252 for Western European letters, else the detector's best guess.

    The detector tells alphabets apart well, and the Latin encodings hardly, because they share most letters. Where
    it names one of those, the letters that each would give decide.
    """
    from charset_normalizer import from_bytes

    best = from_bytes(raw).best()
    if best is not None and not _LATIN.fullmatch(best.encoding) and not _is_accented_latin(raw):
        return best.encoding
    fits = [encoding for encoding in _LETTERS if _can_decode(raw, encoding)]
    if not fits:
        return best.encoding if best else None
    return max(fits, key=lambda encoding: _familiar_share(raw, encoding))


def _is_accented_latin(raw: bytes) -> bool:
    """Return whether bytes above 127 are few and stand alone, as accents do among the letters of Latin."""
    runs = _HIGH.findall(raw)
    high = sum(map(len, runs))
    plain = len(re.findall(rb"[A-Za-z]", raw))
    return high < _LONGEST_RUN * len(runs) and high < _MOST_ACCENTS * (high + plain)


def _can_decode(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _familiar_share(raw: bytes, encoding: str) -> float:
    """Return the share of the non-ASCII characters, decoded in this way, that the encoding's languages use."""
    high = [character for character in raw.decode(encoding) if ord(character) > 127]
    return sum(character in _LETTERS[encoding] for character in high) / len(high)
