"""Finds what is wrong with an answer, sentence by sentence, against the passages that it was written from.

No model is asked: the evidence ranking of the answering path says how likely each unit of the passages answers the
question, and words, numbers, names and negations are compared with the unit that supports a sentence.
benchmarks/questions/checks.py measures how many planted errors are found, and how many good answers are called bad.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragtune.answer.citations import cited_numbers, without_citations
from ragtune.answer.decision import SUPPORTED_SHARE
from ragtune.answer.evidence import Evidence, supports_of
from ragtune.answer.language_packs import ENGLISH, LanguagePack
from ragtune.records import Failure, Hit
from ragtune.text.language import guess_language
from ragtune.text.normal_form import normalize_for_search
from ragtune.text.sentences import sentence_spans
from ragtune.text.words import content_words

CLAIM_REASONS = ("support", "numbers", "names", "negation", "citation", "relevance", "amount")
"""What may be wrong with a claim: words that no unit supports; a number, a name or a "not" that the supporting unit
does not have; the mark of another passage; nothing about the question; no number or time though it asks for one."""
FORM_REASONS = ("repetition", "language", "length", "format")
"""What may be wrong with the whole text: said again and again, in another language, cut off, no valid JSON."""
REPLACED = frozenset({*CLAIM_REASONS, "repetition", "language"})
"""Failures for which an answer is replaced. A text that was cut off is right as far as it goes, and a broken JSON text
cannot be replaced by a quotation."""
_RELEVANT = 0.5
"""Part of the best unit's probability that the supporting unit needs for an answer to be about the question. The most
that calls no further good answer off topic, on development questions (benchmarks/questions/checks.json)."""
_REPEATED_WORDS, _REPEATS = 5, 3
"""As many words in a row, that often, are a loop. Chosen by hand."""
_LANGUAGE_WORDS = 8
"""A shorter text has too few words to tell its language. Chosen by hand."""
_NEGATED_WORDS = 4
"""Words behind a negation that it negates. Chosen by hand: "is not allowed in the hall"."""
_MARK = r"\s*\[\d[\d\s,]*\]"
_MARKS_BEHIND_A_STOP = re.compile(rf"([.!?؟。！？]+[\"'”’]?)((?:{_MARK})+)")
_YES_OR_NO = re.compile(r"^\s*(?:yes|no|ja|nein|oui|non)\b[,.]?", re.IGNORECASE)
_WORD = re.compile(r"[\w'’]+(?:[.:/-]\w+)*")
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:[.:]\d+)*")
_NUMBER_WORDS = {
    **{"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"},
    **{"seven": "7", "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12"},
}
_NEGATIONS = frozenset(
    {
        *("not", "no", "never", "none", "nothing", "nobody", "neither", "nor", "without", "cannot"),
        *("nicht", "kein", "keine", "keinen", "keinem", "keiner", "nie", "niemals", "ohne"),
        *("pas", "jamais", "sans", "aucun", "aucune"),
    }
)
"""English, German and French. A word that ends with n't negates, too."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of an answer without its citation marks, and the passages that it cites."""

    text: str
    cited: tuple[int, ...]


def claims_of(text: str) -> list[Claim]:
    """Return the sentences of an answer; marks behind a full stop belong to the sentence before it."""
    claims: list[Claim] = []
    text = _MARKS_BEHIND_A_STOP.sub(r"\2\1", text)
    for start, end in sentence_spans(text):
        sentence = text[start:end]
        words = without_citations(sentence)
        if re.search(r"\w", words):
            claims.append(Claim(words, tuple(cited_numbers(sentence))))
    return claims


def find_failures(
    text: str,
    question: str,
    passages: Sequence[Hit],
    evidence: Sequence[Evidence],
    pack: LanguagePack = ENGLISH,
) -> tuple[float, tuple[Failure, ...]]:
    """Return how far an answer is supported, and what is wrong with it.

    Args:
        text: what the model wrote, with corrected citation marks.
        question: what was asked.
        passages: those in the prompt.
        evidence: their units, ranked.
        pack: that of the question's language.

    Returns:
        The support of the least supported sentence, which is the largest share of its content words that one unit
        holds; and one failure for each reason.
    """
    claims, names = claims_of(text), _names_of(passages)
    supports = _supports(claims, question, evidence)
    details: dict[str, str] = {}
    for claim, units in zip(claims, supports, strict=True):
        for failure in _claim_failures(claim, units, question, passages, names):
            details.setdefault(failure.reason, failure.detail)
    if claims and evidence and _relevance(supports, evidence) < _RELEVANT:
        details["relevance"] = "It is about something else than the question."
    if claims and evidence and _misses_amount(text, question, evidence[0], pack):
        details["amount"] = "The question asks for a number or a time, and it names none."
    if repeated := _repetition(claims):
        details["repetition"] = f"It says again and again: {repeated}"
    if language := _foreign_language(" ".join(claim.text for claim in claims), question, passages):
        details["language"] = f"It is written in another language ({language})."
    least = min((units[0][0] if units else 0.0 for units in supports), default=1.0)
    return least, tuple(Failure(reason, detail) for reason, detail in details.items())


def relevance_of(text: str, question: str, evidence: Sequence[Evidence]) -> float:
    """Return the probability of the likeliest unit that supports a sentence of the text, divided by the best unit's.

    It is 1 if the best unit supports a sentence, and 0 without evidence.
    """
    return _relevance(_supports(claims_of(text), question, evidence), evidence)


def format_failures(text: str, finish_reason: str, schema: Mapping[str, Any] | None) -> tuple[Failure, ...]:
    """Return what is wrong with the form of a text: cut off, or not JSON of the schema; None asks for no JSON."""
    failures = []
    if finish_reason == "length":
        failures.append(Failure("length", "It was cut off at its length limit."))
    if schema is not None and (detail := _schema_error(text, schema)):
        failures.append(Failure("format", detail))
    return tuple(failures)


def _schema_error(text: str, schema: Mapping[str, Any]) -> str:
    """Return why a text is no JSON of a schema, or ""."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        value = json.loads(text)
        # With a registry of its own it looks up no reference on the network.
        error = best_match(Draft202012Validator(schema, registry=Registry()).iter_errors(value))
    except Unresolvable as unresolvable:
        return f"The schema refers to {unresolvable.ref}, which is not in it."
    except (ValueError, RecursionError) as broken:
        return f"It is not valid JSON: {broken}"
    return f"It does not fit the schema at {error.json_path}: {error.message}" if error else ""


def _supports(
    claims: Sequence[Claim], question: str, evidence: Sequence[Evidence]
) -> list[list[tuple[float, Evidence]]]:
    """Return the units that support each sentence."""
    words = [content_words(item.unit.scored_text) for item in evidence]
    return [supports_of(_said(claim.text, question), evidence, words) for claim in claims]


def _relevance(supports: Sequence[Sequence[tuple[float, Evidence]]], evidence: Sequence[Evidence]) -> float:
    best = evidence[0].probability if evidence else 0.0
    return max((units[0][1].probability for units in supports if units), default=0.0) / best if best else 0.0


def _said(claim: str, question: str) -> frozenset[str]:
    """Return the content words that a sentence adds to the question, without a "yes" or "no" at its beginning."""
    return content_words(_YES_OR_NO.sub("", claim)) - content_words(question)


def _claim_failures(
    claim: Claim,
    units: Sequence[tuple[float, Evidence]],
    question: str,
    passages: Sequence[Hit],
    names: frozenset[str] | None,
) -> Iterator[Failure]:
    """Yield what is wrong with one sentence; `names` are those of the passages, or None if they are not compared."""
    best = units[0][0] if units else 0.0
    if best < SUPPORTED_SHARE:
        yield Failure("support", f"No sentence of the passages says: {claim.text}")
        return
    differences = [_difference(claim.text, item.unit.scored_text, question, names) for _, item in units]
    if all(differences):
        difference = differences[0]
        assert difference is not None, "all units differ"
        yield difference
    if (wrong := _wrong_citation(claim, question, passages)) is not None:
        yield Failure("citation", f"Passage {wrong}, which it cites, does not say: {claim.text}")


def _difference(claim: str, unit: str, question: str, names: frozenset[str] | None) -> Failure | None:
    """Return in what a sentence differs from the unit that supports it, or None."""
    numbers = _numbers(claim) - _numbers(f"{unit} {question}")
    if numbers:
        return Failure("numbers", f"The passage does not say {', '.join(sorted(numbers))}: {claim}")
    others = set() if names is None else _names_in(claim, names) - _lower_words(f"{unit} {question}")
    if others:
        return Failure("names", f"The passage does not name {', '.join(sorted(others))}: {claim}")
    if word := _reversed_word(claim, unit):
        return Failure("negation", f"The passage says the opposite about {word}: {claim}")
    return None


def _misses_amount(text: str, question: str, best: Evidence, pack: LanguagePack) -> bool:
    """Return whether an answer names no amount, though the question asks for one and the best unit names one.

    A model may write English whatever the language of the question.
    """
    if not pack.lacks_amount(question, text) or pack.lacks_amount(question, best.unit.text):
        return False
    return ENGLISH.amounts is None or not ENGLISH.amounts.named.search(without_citations(text))


def _wrong_citation(claim: Claim, question: str, passages: Sequence[Hit]) -> int | None:
    """Return the number of a cited passage that does not exist or does not hold the claim, or None."""
    words = _said(claim.text, question)
    for number in claim.cited:
        if not 1 <= number <= len(passages):
            return number
        if words and _share(words, passages[number - 1]) < SUPPORTED_SHARE:
            return number
    return None


def _share(words: frozenset[str], passage: Hit) -> float:
    return len(words & content_words(passage.chunk.embedded_text)) / len(words)


def _numbers(text: str) -> set[str]:
    """Return the numbers of a text, also written as words, in one form: `1,000` is 1000 and `4.50` is 4.5."""
    text = without_citations(normalize_for_search(text))
    numbers = {_plain_number(number) for number in _NUMBER.findall(text)}
    return numbers | {_NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _NUMBER_WORDS}


def _plain_number(number: str) -> str:
    number = number.replace(",", "").lstrip("+")
    return number.rstrip("0").rstrip(".") if re.fullmatch(r"-?\d+\.\d+", number) else number


def _names_of(passages: Sequence[Hit]) -> frozenset[str] | None:
    """Return the capitalised words inside the sentences of the passages, in lower case.

    None if a passage is in German, which capitalises every noun.
    """
    if any(hit.chunk.language == "de" for hit in passages):
        return None
    texts = [hit.chunk.text for hit in passages]
    words_inside = [
        word for text in texts for start, end in sentence_spans(text) for word in _WORD.findall(text[start:end])[1:]
    ]
    return frozenset(word.lower() for word in words_inside if word[0].isupper())


def _names_in(claim: str, known_names: frozenset[str]) -> set[str]:
    """Return the capitalised words of a sentence, in lower case; the first one only if it is a known name."""
    words = enumerate(_WORD.findall(claim))
    capitalised = [(place, word) for place, word in words if word[0].isupper() and len(word) > 1]
    return {_bare(word) for place, word in capitalised if place or word.lower() in known_names}


def _lower_words(text: str) -> set[str]:
    words = {_bare(word) for word in _WORD.findall(text)}
    return words | {part for word in words for part in re.split(r"[.:/-]", word)}


def _bare(word: str) -> str:
    """Return a word in lower case without a possessive ending."""
    return re.sub(r"['’]s?$", "", word.lower())


def _reversed_word(claim: str, unit: str) -> str:
    """Return a word that one of the two negates and the other affirms; "" if there is none."""
    affirmed, negated = _polarity(claim)
    unit_affirmed, unit_negated = _polarity(unit)
    both = {
        *((negated - affirmed) & (unit_affirmed - unit_negated)),
        *((affirmed - negated) & (unit_negated - unit_affirmed)),
    }
    agreed = negated & unit_negated
    return "" if agreed else min(both, default="")


def _polarity(text: str) -> tuple[set[str], set[str]]:
    """Return the content words that a text affirms, and those that it negates."""
    words = re.findall(r"[\w'’]+|,", _YES_OR_NO.sub("", text))
    affirmed: set[str] = set()
    negated: set[str] = set()
    left = 0
    for word in words:
        lower = word.lower().replace("’", "'")
        if lower in _NEGATIONS or lower.endswith("n't"):
            left = _NEGATED_WORDS
            continue
        target = negated if left and word != "," else affirmed
        left = 0 if word == "," else max(0, left - 1)
        target |= content_words(word) - _NEGATIONS
    return affirmed, negated


def _repetition(claims: Sequence[Claim]) -> str:
    """Return what a text repeats, or "": a whole sentence, or some words in a row several times."""
    sentences = Counter(" ".join(normalize_for_search(claim.text).lower().split()) for claim in claims)
    for sentence, count in sentences.items():
        if count > 1:
            return sentence
    words = normalize_for_search(" ".join(claim.text for claim in claims)).lower().split()
    runs = Counter(tuple(words[place : place + _REPEATED_WORDS]) for place in range(len(words) - _REPEATED_WORDS + 1))
    return next((" ".join(run) for run, count in runs.items() if count >= _REPEATS), "")


def _foreign_language(text: str, question: str, passages: Sequence[Hit]) -> str:
    """Return the language of a text if neither the question nor a passage is written in it, else ""."""
    if len(text.split()) < _LANGUAGE_WORDS:
        return ""
    language = guess_language(text, "")
    expected = {guess_language(question, ""), *(hit.chunk.language for hit in passages)} - {""}
    return language if language and expected and language not in expected else ""
