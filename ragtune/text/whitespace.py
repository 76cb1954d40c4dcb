"""Collapses white space."""


def collapse_whitespace(text: str) -> str:
    """Return the text with every run of white space replaced by one space, and none at its ends."""
    return " ".join(text.split())
