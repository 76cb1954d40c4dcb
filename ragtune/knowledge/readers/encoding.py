"""Bytes to text: UTF-8 first, then byte order marks, then the likeliest legacy encoding."""

import codecs
import re
from collections import Counter

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
_CONTROLS = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")
# Of compressed or encrypted bytes one in ten is a control character that no text has. Chosen by hand: half of that.
_BYTES_PER_CONTROL = 20
_UTF_16_SHARE = 0.3  # of a text in Latin script nearly all; chosen by hand for texts that are partly in another
_ISO_2022_JP = (b"\x1b$B", b"\x1b$@", b"\x1b(J")  # the sequences that lead into its tables: RFC 1468
# What pages mean by these names, by the Encoding Standard of the WHATWG; Python reads some of them too strictly.
_MEANT = {
    "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "shift_jis": "cp932", "gb2312": "gb18030",
    "gbk": "gb18030", "euc_kr": "cp949", "big5": "big5hkscs", "tis-620": "cp874", "iso8859-11": "cp874",
}  # fmt: skip
_HIGH = re.compile(rb"[\x80-\xff]+")
# French and Czech have up to 15% of accented letters, seldom two in a row; Cyrillic or Chinese text is nearly all
# high bytes. Chosen by hand between the two.
_LONGEST_RUN, _MOST_ACCENTS = 1.5, 0.35
_MARKS_OF_ALL = "€‚„…‹›‘’“”•–—«»§°©®·½\xa0"
_ALPHABETS = {
    "en": "éï£",
    "fr": "àâçéèêëîïôœùûÿ",
    "de": "äöüßéµ²³",
    "es": "áéíóúñü¿¡ªº",
    "pt": "áâãàçéêíóôõúüªº",
    "it": "àèéìíòóùú",
    "da, no": "æøåéêèòô",
    "sv, fi": "åäöéü",
    "is": "áðéíóúýþæö",
    "pl": "ąćęłńóśźż",
    "cs, sk": "áäčďéěíĺľňóôŕřšťúůýž",
    "hu": "áéíóöőúüű",
    "ro": "ăâîșțşţ",
    "hr, sl": "čćđšž",
    "tr": "çğıöşüâîû",
    "lt": "ąčęėįšųūž",
    "lv": "āčēģīķļņōŗšūž",
    "et": "äõöüšž",
}
"""The letters other than ASCII that each language writes, and signs that are common in it."""
_LANGUAGES = {
    "cp1252": ("en", "fr", "de", "es", "pt", "it", "da, no", "sv, fi", "is", "et"),
    "iso8859_15": ("en", "fr", "de", "es", "pt", "it", "da, no", "sv, fi"),
    "cp1250": ("pl", "cs, sk", "hu", "ro", "hr, sl", "de"),
    "iso8859_2": ("pl", "cs, sk", "hu", "ro", "hr, sl", "de"),
    "cp1254": ("tr",),
    "cp1257": ("lt", "lv", "et"),
    "cp850": ("en", "fr", "de", "es", "pt", "it", "da, no", "sv, fi", "is"),
    "cp852": ("pl", "cs, sk", "hu", "ro", "hr, sl", "de"),
    "mac_roman": ("en", "fr", "de", "es", "pt", "it", "da, no", "sv, fi"),
}
"""The languages of each encoding of the Latin alphabet, the most common encoding first."""
_LETTERS = {
    encoding: tuple(frozenset(_ALPHABETS[name] + _ALPHABETS[name].upper() + _MARKS_OF_ALL) for name in languages)
    for encoding, languages in _LANGUAGES.items()
}
_MARK_IN_WORD = re.compile("(?<=[^\\W\\d_])[€‚„…‹›“”•–—«»§°©®]+(?=[^\\W\\d_])")
# The other encodings of the Latin alphabet are ISO 8859 (all but 5 to 8 and 11), DOS, Mac and EBCDIC code pages.
_LATIN = re.compile(
    r"cp125[0247-8]|latin_1|iso8859_(?:[2349]|1[03-6])|cp(?:437|775|85[0278]|86[0135])|mac_(?:roman|latin2|turkish|iceland|croatian|romanian)|hp_roman8"
    r"|cp(?:037|500|1026|1140|273)"
)


def whole_characters(text: str) -> str:
    r"""Return the text with U+FFFD for each half of a surrogate pair, which `\\ud800` in JSON may leave."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def decode_as_declared(raw: bytes, name: str) -> str:
    """Return the bytes of a page that names its encoding; raise LookupError if nobody knows it."""
    codec = codecs.lookup(name).name
    return raw.decode(_MEANT.get(codec, codec), errors="replace")


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
        return _decode_with_nul(raw)
    if any(sequence in raw for sequence in _ISO_2022_JP):
        return raw.decode("iso2022_jp_2", errors="replace")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return _decode_legacy(raw, error)


def _decode_with_nul(raw: bytes) -> str:
    """Decode bytes with NUL among them: UTF-16 without a mark, or a text with a few of them, each a bad character."""
    sample = raw[:_SAMPLE_BYTES]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if max(even, odd) > _UTF_16_SHARE * len(sample) / 2 and min(even, odd) * _CHARACTERS_PER_DAMAGE <= max(even, odd):
        # In UTF-16 the first or the second byte of every letter of the Latin alphabet is NUL.
        return raw.decode("utf-16-le" if odd > even else "utf-16-be", errors="replace")
    if raw.count(0) * _CHARACTERS_PER_DAMAGE > len(raw):
        raise UnreadableError("it holds NUL bytes: this is not text")
    return _decode(raw.replace(b"\0", "\ufffd".encode()))


def _decode_legacy(raw: bytes, error: UnicodeDecodeError) -> str:
    """Decode bytes that are not clean UTF-8: damaged UTF-8, or a legacy encoding."""
    sample = raw[:_SAMPLE_BYTES]
    if len(_CONTROLS.findall(sample)) * _BYTES_PER_CONTROL > len(sample):
        raise UnreadableError("it holds control characters and is no UTF-8: this is not text")
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
    """Return the share of the non-ASCII characters, decoded in this way, that the likeliest of its languages writes.

    A text has one language, seldom two: `õ` and `ö` stand in no text of Western Europe, and decode Hungarian wrongly.
    """
    text = raw.decode(encoding)
    high = Counter(character for character in text if ord(character) > 127)
    most = max(
        sum(count for character, count in high.items() if character in letters) for letters in _LETTERS[encoding]
    )
    return (most - len(_MARK_IN_WORD.findall(text))) / high.total()
