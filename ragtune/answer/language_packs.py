"""Language packs: what the answering path says, and what it expects people and models to say, in one language.

A pack is a YAML file. Those of English, German and French come with the package; docs/howto/languages.md says how to
write another one. The question's language chooses the pack (question_language.py).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from string import Formatter
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ragtune.answer.citations import without_citations
from ragtune.errors import SettingsError
from ragtune.text.normal_form import normalize_for_search
from ragtune.text.segments import split_words


def _with_places(*names: str) -> AfterValidator:
    """Return a validator of a sentence that has exactly these places, such as `{text}` and `{number}`."""

    def check(sentence: str) -> str:
        places = {name for _, name, _, _ in Formatter().parse(sentence) if name is not None}
        if places != set(names):
            found, expected = (", ".join(f"{{{name}}}" for name in sorted(group)) for group in (places, names))
            raise ValueError(f"the places in it are {found or 'none'}, and must be {expected}")
        return sentence

    return AfterValidator(check)


def _pattern(text: str) -> str:
    """Return the text; raise ValueError if it is no regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"it is no regular expression: {error}") from error
    return text


Patterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], Field(min_length=1)]
"""Regular expressions of which any may match, without regard to case."""


def _any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


ENGLISH_EXAMPLE_WORDS = ("for example", "for instance", "e.g.", "such as", "example:", "examples:")
"""Models write English whatever the language of the question."""
Text = Annotated[str, Field(min_length=1)]
TextWithNumber = Annotated[str, _with_places("number")]


class Part(BaseModel):
    """A part of a pack. An unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptTexts(Part):
    """What the model reads: the sentences of the system text, and the heads of the parts of the user's message."""

    numbered: Text
    cite: Text
    strict: Annotated[str, _with_places("refusal")]
    free: Text
    without_passages: Text
    nothing_found: Text
    question: Text
    closest: Text
    brief: Text
    detailed: Text
    newcomer: Text
    expert: Text
    example: Text
    steps: Text


class WarningTexts(Part):
    """What the checks of an answer say."""

    empty: Text
    cut_off: Text
    corrected: Annotated[str, _with_places("cited", "corrected")]
    nonexistent: TextWithNumber
    uncited: Text
    unsupported: Annotated[str, _with_places("percent")]
    unrelated: TextWithNumber


class FollowUpWords(Part):
    """Words of a short question that needs the question before it: those that begin it, and those inside it."""

    begins: tuple[Text, ...] = Field(min_length=1)
    refers_back: tuple[Text, ...] = Field(min_length=1)


class AmountWords(Part):
    """What asks for a number or a time, and what names one without digits.

    They are searched in a question, and in an answer.
    """

    asked_by: Patterns
    named_by: Patterns

    @cached_property
    def asked(self) -> re.Pattern[str]:
        """Matches a question for an amount."""
        return _any_of(self.asked_by)

    @cached_property
    def named(self) -> re.Pattern[str]:
        """Matches an amount in digits or words."""
        return _any_of((r"\d", *self.named_by))


class SignatureWords(Part):
    """Questions that the signature of a function or class answers.

    `asked_by` finds those for parameters and defaults, `result_asked_by` those for what it returns, and `kind_asked_by`
    those for what kind of object it is.
    """

    asked_by: Patterns
    result_asked_by: Patterns
    kind_asked_by: Patterns

    @cached_property
    def asked(self) -> re.Pattern[str]:
        """Matches a question about parameters, a default, or how to call something."""
        return _any_of(self.asked_by)

    @cached_property
    def result_asked(self) -> re.Pattern[str]:
        """Matches a question about what something returns."""
        return _any_of(self.result_asked_by)

    @cached_property
    def kind_asked(self) -> re.Pattern[str]:
        """Matches a question about what kind of object something is."""
        return _any_of(self.kind_asked_by)


class SmallTalk(Part):
    """What people say besides questions, and the reply."""

    phrases: tuple[Text, ...] = Field(min_length=1)
    reply: Text


class LanguagePack(Part):
    """Everything in one language.

    `code` is its ISO 639-1 code, `name` its English name, and `own_name` what its speakers call it. `refusal_forms`
    are regular expressions. They are searched, without regard to case, in the first sentence of what a model wrote,
    with straight quotes. `quotation_from` marks a quotation with the title and heading of its place; without it no
    place is named. `further` and `example` mark sentences that are quoted after the first one; without them all are
    marked alike. `example_words` introduce an example. `says_yes` and `says_no` are the words with which such answers
    begin. `amounts` tells questions for a number or a time, `signatures` those for parameters. `off_topic` are
    questions about no document, which the model learns to refuse.
    """

    code: str = Field(pattern="^[a-z]{2,3}$")
    name: Text
    own_name: str = ""
    prompt: PromptTexts
    refusal: Text
    refusal_forms: Patterns
    quotation: Annotated[str, _with_places("text", "number")]
    quotation_from: Annotated[str, _with_places("place", "text", "number")] | None = None
    further: Annotated[str, _with_places("text", "number")] | None = None
    example: Annotated[str, _with_places("text", "number")] | None = None
    example_words: tuple[Text, ...] = ()
    says_yes: Text | None = None
    says_no: Text | None = None
    amounts: AmountWords | None = None
    signatures: SignatureWords | None = None
    warnings: WarningTexts
    follow_up: FollowUpWords
    small_talk: tuple[SmallTalk, ...] = Field(min_length=1)
    off_topic: tuple[Text, ...] = ()

    @cached_property
    def replies(self) -> frozenset[str]:
        """The replies to small talk."""
        return frozenset(group.reply for group in self.small_talk)

    @cached_property
    def introduces_example(self) -> re.Pattern[str]:
        """Matches words that introduce an example; those of English count in every language."""
        words = "|".join(re.escape(word) for word in (*ENGLISH_EXAMPLE_WORDS, *self.example_words))
        return re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)

    def contradicts(self, answer: str, other: str) -> bool:
        """Return whether one of two answers begins with yes and the other one with no."""
        if self.says_yes is None or self.says_no is None:
            return False
        first = [re.match(r"\W*(\w*)", text.casefold()) for text in (answer, other)]
        return {match[1] for match in first if match} == {self.says_yes.casefold(), self.says_no.casefold()}

    def lacks_amount(self, question: str, answer: str) -> bool:
        """Return whether a question asks for a number or a time, and the answer names none."""
        if self.amounts is None or not self.amounts.asked.search(question):
            return False
        return not self.amounts.named.search(without_citations(answer))

    @cached_property
    def refers_back(self) -> re.Pattern[str]:
        """Matches a question that begins like a follow-up, or has a word that refers back."""
        begins, inside = (
            "|".join(map(re.escape, words)) for words in (self.follow_up.begins, self.follow_up.refers_back)
        )
        return re.compile(rf"^(?:{begins})\b|\b(?:{inside})\b", re.IGNORECASE)

    @cached_property
    def _refusals(self) -> re.Pattern[str]:
        return _any_of(self.refusal_forms)

    @cached_property
    def _reply_by_phrase(self) -> Mapping[str, str]:
        return {_spoken(phrase): group.reply for group in self.small_talk for phrase in group.phrases}

    def reply_to(self, question: str) -> str:
        """Return the reply to a phrase of small talk, whatever its punctuation and case; "" for anything else."""
        return self._reply_by_phrase.get(_spoken(question), "")

    def is_refusal(self, text: str, first_sentence: str) -> bool:
        """Return whether the text has the refusal of this language, or its first sentence has one of its forms."""
        refusal = normalize_for_search(self.refusal).rstrip(".").lower()
        return refusal in normalize_for_search(text).lower() or bool(
            self._refusals.search(normalize_for_search(first_sentence))
        )


@cache
def read_pack(path: Path) -> LanguagePack:
    """Return the pack in a file, which is read once; raise SettingsError that names the file and the wrong fields."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(
            f"The language pack {path} cannot be read: {error}.", "a YAML file in UTF-8", f"begin with a copy of {_EN}"
        ) from error
    try:
        return LanguagePack.model_validate(content)
    except ValidationError as error:
        problems = [f"field '{'.'.join(map(str, item['loc']))}': {item['msg']}" for item in error.errors()]
        raise SettingsError(
            f"The language pack {path} is wrong. " + "; ".join(problems) + ".",
            f"the fields of {_EN}",
            "docs/howto/languages.md describes each field",
        ) from error


def packs(paths: Iterable[str] = ()) -> dict[str, LanguagePack]:
    """Return the packs by their codes: those of the package, then those in the files, which may replace them."""
    files = sorted((Path(__file__).parent / "languages").glob("*.yaml"))
    files += [Path(path).expanduser() for path in paths]
    return {pack.code: pack for pack in map(read_pack, files)}


def _spoken(text: str) -> str:
    """Return the words of a phrase, in lower case and without punctuation."""
    return " ".join(split_words(normalize_for_search(text).casefold()))


_EN = Path(__file__).parent / "languages/en.yaml"
ENGLISH = read_pack(_EN)
"""The pack of the prompt that the shipped reading adapter was trained on."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The language of a question (ISO 639-1), and the pack whose sentences stand around the answer.

    The pack is English if there is none for the language.
    """

    language: str
    pack: LanguagePack

    @property
    def lacks_pack(self) -> bool:
        """Whether there is no pack for the language."""
        return self.language != self.pack.code


ENGLISH_FRAME = Frame(ENGLISH.code, ENGLISH)
