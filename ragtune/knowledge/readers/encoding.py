"""Bytes to text: UTF-8 first, then byte order marks, then the likeliest legacy encoding."""

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


def decode(raw: bytes) -> str:
    r"""Return the text of the bytes with `\n` line ends; one bad byte in UTF-8 costs one character.

    Raises UnreadableError for bytes that are no text.
    """
    return _decoded(raw).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(raw: bytes) -> str:
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
    from charset_normalizer import from_bytes

    best = from_bytes(raw).best()
    return best.encoding if best else None
