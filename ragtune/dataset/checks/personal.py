"""Finds personal data and secrets in a text, offline: presidio's recognisers that need no language model, and keys.

Presidio takes seconds to load, so it is asked only about texts with an at sign or a long number.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer

LEAST_SCORE = 0.4
"""From here on presidio calls a find likely; nine digits in a row as a social security number have 0.05."""
_REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "IN", "BR", "AU", "JP")
_MAY_HOLD = re.compile(r"\w@\w|\d(?:[ ().-]{0,2}\d){6,}|\b[A-Z]{2}\d{2} ?\w{4}|\b(?:bc1|[13])[A-Za-z0-9]{25,}")
_SECRET = re.compile(
    r"\b(?:sk|pk|rk)[-_](?:live[-_]|test[-_]|ant[-_]|proj[-_])?[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{35}|\bhf_[A-Za-z0-9]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\."
)
# `2147483647` is a number of a valid length and area, and so is many a date.
_NO_PHONE = re.compile(r"^\d+$|\d{4}-\d{2}-\d{2}|^\d+\.\d+$")


def personal_data(text: str) -> str:
    """Return what of a person or which secret stands in a text, such as `email address`; empty for nothing."""
    if _SECRET.search(text):
        return "secret"
    if not _MAY_HOLD.search(text):
        return ""
    for recognizer in _recognizers():
        for found in recognizer.analyze(text, recognizer.supported_entities, None):
            phone = found.entity_type == "PHONE_NUMBER"
            if found.score >= LEAST_SCORE and not (phone and _NO_PHONE.search(text[found.start : found.end])):
                return str(found.entity_type).replace("_", " ").lower()
    return ""


@lru_cache(maxsize=1)
def _recognizers() -> "tuple[EntityRecognizer, ...]":
    """Return the recognisers with checksums or number plans; mail is checked by the packaged list of domains."""
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        CryptoRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        PhoneRecognizer,
        UsSsnRecognizer,
    )
    from tldextract import TLDExtract

    domains = TLDExtract(cache_dir=None, suffix_list_urls=())

    class Mail(EmailRecognizer):
        """Presidio's own asks the network for the newest domains."""

        def validate_result(self, pattern_text: str) -> bool:
            return bool(domains(pattern_text).suffix)

    return (
        Mail(),
        CreditCardRecognizer(),
        IbanRecognizer(),
        PhoneRecognizer(supported_regions=_REGIONS, leniency=2),
        UsSsnRecognizer(),
        CryptoRecognizer(),
    )
