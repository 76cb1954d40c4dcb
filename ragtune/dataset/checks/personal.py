"""Finds personal data and secrets in a text, offline.

Personal data is found by those of presidio's recognisers that need no language model, keys of services by patterns
of our own. Presidio takes seconds to load, so only texts with an at sign or a long number reach it.
"""

import re
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer

LEAST_SCORE = 0.4
"""The score that presidio gives a valid telephone number; nine digits in a row as a social security number get 0.05.
Chosen by hand; tests/test_personal.py has the cases that it must tell apart."""
# Countries whose number plans a telephone number may follow; chosen by hand.
_REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "IN", "BR", "AU", "JP")
# A cheap filter in front of presidio: an at sign, seven digits, the beginning of an IBAN or a crypto address.
_MAY_HOLD = re.compile(r"\w@\w|\d(?:[ ().-]{0,2}\d){6,}|\b[A-Z]{2}\d{2} ?\w{4}|\b(?:bc1|[13])[A-Za-z0-9]{25,}")
_SECRET = re.compile(
    r"\b(?:sk|pk|rk)[-_](?:live[-_]|test[-_]|ant[-_]|proj[-_])?[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{35}|\bhf_[A-Za-z0-9]{20,}"
    r"|\brt-[A-Za-z0-9_-]{40,}"  # a key of this gateway (ragtune_serving/keys.py)
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\."
)
# `2147483647` has the length and the area code of a telephone number, and so do many dates.
_NO_PHONE = re.compile(r"^\d+$|\d{4}-\d{2}-\d{2}|^\d+\.\d+$")


def personal_data(text: str) -> str:
    """Return the kind of personal data or secret found in the text, such as `email address`, or "" if there is none."""
    if _SECRET.search(text):
        return "secret"
    if not _MAY_HOLD.search(text):
        return ""
    for recognizer in _recognizers():
        for match in recognizer.analyze(text, recognizer.supported_entities, None):
            is_phone = match.entity_type == "PHONE_NUMBER"
            if match.score >= LEAST_SCORE and not (is_phone and _NO_PHONE.search(text[match.start : match.end])):
                return str(match.entity_type).replace("_", " ").lower()
    return ""


def suspected_personal_data(text: str) -> str:
    """Return what `personal_data` finds; without presidio, which a gateway may lack, what presidio would look at.

    So nothing personal is shown by an installation that cannot recognise it.
    """
    if find_spec("presidio_analyzer") is not None:
        return personal_data(text)
    if _SECRET.search(text):
        return "secret"
    return (
        "an address or a long number, and the extra 'dataset' is not installed to tell"
        if _MAY_HOLD.search(text)
        else ""
    )


@lru_cache(maxsize=1)
def _recognizers() -> "tuple[EntityRecognizer, ...]":
    """Return the recognisers that verify a checksum or a number plan, and the one for mail addresses."""
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

    class OfflineEmailRecognizer(EmailRecognizer):
        """Checks top-level domains against the packaged list; presidio's own downloads the newest list."""

        def validate_result(self, pattern_text: str) -> bool:
            return bool(domains(pattern_text).suffix)

    return (
        OfflineEmailRecognizer(),
        CreditCardRecognizer(),
        IbanRecognizer(),
        PhoneRecognizer(supported_regions=_REGIONS, leniency=2),
        UsSsnRecognizer(),
        CryptoRecognizer(),
    )
