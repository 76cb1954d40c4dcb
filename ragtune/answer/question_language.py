"""Decides in which language a question is answered, and which language the prompt has.

A question is short, so its own words seldom say enough. Unless a clear majority of its words is of another language,
it has the language of the turns before it; in the same way the first turn has the language of the passages.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ragtune.answer.language_packs import ENGLISH, Frame, LanguagePack, packs, read_pack
from ragtune.errors import SettingsError
from ragtune.records import Hit, Message
from ragtune.settings import AnswerSettings
from ragtune.text.language import likely_language

NO_PACK = (
    "The question seems to be in the language '{language}', for which there is no language pack, so the sentences "
    "around the answer are English."
)


class Languages:
    """The languages that the settings allow.

    Raises SettingsError for a language without a pack, and for a pack that is wrong.
    """

    def __init__(self, settings: AnswerSettings) -> None:
        self._packs = packs(settings.language_packs)
        self._fixed = self._pack("language", settings.language)
        # With "en" the prompt is the one that models are trained on, whatever packs the settings name.
        is_trained = settings.prompt_language == ENGLISH.code
        self._prompt = ENGLISH if is_trained else self._pack("prompt_language", settings.prompt_language)

    def frame(
        self, question: str, history: Sequence[Message] = (), passages: Sequence[Hit] = (), wanted: str = ""
    ) -> Frame:
        """Return the language of a question; `history` holds the turns before it, `passages` what was found for it.

        `wanted` is the code of a pack that the request asks for, or "".
        """
        if wanted in self._packs:
            return Frame(wanted, self._packs[wanted])
        if self._fixed:
            return Frame(self._fixed.code, self._fixed)
        languages = Counter(hit.chunk.language for hit in passages)
        language = languages.most_common(1)[0][0] if languages else ENGLISH.code
        for text in [*(turn.content for turn in history if turn.role == "user"), question]:
            language = likely_language(text, language)
        return Frame(language, self._packs.get(language, self._packs[ENGLISH.code]))

    def small_talk(self, question: str, frame: Frame) -> tuple[Frame, str]:
        """Return the frame and the reply if the question is a phrase of small talk; otherwise `frame` and "".

        A phrase says nothing about the documents, so it may be in another language than they are.
        """
        others = () if self._fixed else self._packs.values()
        for pack in (frame.pack, *others):
            if reply := pack.reply_to(question):
                return Frame(pack.code, pack), reply
        return frame, ""

    def prompt_pack(self, frame: Frame) -> LanguagePack:
        """Return the pack whose prompt the model reads for a question in this language."""
        return self._prompt or frame.pack

    def _pack(self, setting: str, name: str) -> LanguagePack | None:
        """Return the pack with this code, or in this file; None for `auto`."""
        if name == "auto":
            return None
        if Path(name).suffix:
            return read_pack(Path(name).expanduser())
        if name not in self._packs:
            raise SettingsError(
                f"`answer.{setting}` has {name!r}, for which there is no language pack.",
                f"auto, the path of a pack, or one of {', '.join(sorted(self._packs))}",
                "docs/howto/languages.md says how to write a pack",
            )
        return self._packs[name]
