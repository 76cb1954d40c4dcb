"""Optional models that improve a search: a cross-encoder that reranks hits, a language model that rewords questions."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from ragtune.errors import ModelError
from ragtune.language_model import LanguageModel
from ragtune.records import Message
from ragtune.settings import RewriterSettings

_ASK = "Ask the question in {count} other ways that a person might use to look for the same answer. Reply in JSON."


class CrossEncoderReranker:
    """A cross-encoder in sentence-transformers format: a local folder, or a hub name that is already in the cache."""

    def __init__(self, model: str, allow_download: bool = False) -> None:
        from sentence_transformers import CrossEncoder

        try:
            self._model = CrossEncoder(model, local_files_only=not allow_download, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The reranker '{model}' could not be loaded: {error}",
                expected="a folder of a cross-encoder, or a hub name",
                fix="correct index.reranker; for a hub name also set base_model.allow_download: true",
            ) from error

    def __call__(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return a score per text; a higher score means a better answer."""
        scores = self._model.predict([(question, text) for text in texts], show_progress_bar=False)
        return [float(score) for score in scores]


# The docstring and the description are part of the request, and of the hash under which its reply is cached.
class Rewordings(BaseModel):
    """What the language model replies."""

    questions: list[str] = Field(description="the question in other words")


class LanguageModelRewriter:
    """Any LiteLLM model. Its rewordings of a question are cached in the home."""

    def __init__(self, settings: RewriterSettings, cache: Path, seed: int) -> None:
        self.count = settings.rewordings
        self._model = LanguageModel(settings, Rewordings, cache, seed)

    def __call__(self, questions: Sequence[str]) -> list[list[str]]:
        """Return a list of rewordings per question, with at most `self.count` of them; [] if the model gave none."""
        instruction = Message("system", _ASK.format(count=self.count))
        replies = self._model.ask_all([(instruction, Message("user", question)) for question in questions], "rewording")
        return [
            [text.strip() for text in reply.questions if text.strip()][: self.count] if reply else []
            for reply in replies
        ]
