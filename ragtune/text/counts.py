"""Numbers with their nouns, for messages in English."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 document" or "2 documents"; `plural` is needed for nouns such as "query"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
