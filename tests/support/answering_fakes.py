"""Small stand-ins at the seams: a retriever over a list, a chat model that follows a script, evidence by words."""

import threading
from collections.abc import Callable, Sequence

from ragtune.ports import ChatModel, EvidenceModel
from ragtune.records import Chunk, Completion, Hit, Message
from ragtune.text.words import content_words


def chunk(name: str, text: str, title: str = "", headings: tuple[str, ...] = (), document: str = "") -> Chunk:
    return Chunk(
        id=name,
        document_id=document or f"doc-{name}",
        source="folder:docs",
        title=title or name,
        heading_path=headings,
        text=text,
        position=0,
    )


def hits(*chunks: Chunk) -> list[Hit]:
    return [Hit(c, 1.0 / place) for place, c in enumerate(chunks, 1)]


class ListRetriever:
    """Returns the chunks that share a word with the text, in their order."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks, self.asked = chunks, []

    def search(self, text: str, limit: int) -> list[Hit]:
        self.asked.append(text)
        words = set(text.lower().strip("?").split())
        return hits(*[c for c in self.chunks if words & set(c.embedded_text.lower().split())][:limit])


class ScriptedChat(ChatModel):
    """Answers by a function of the messages and remembers how it was called."""

    def __init__(self, reply: Callable[[Sequence[Message]], str], finish_reason: str = "stop") -> None:
        self.name, self.reply, self.finish_reason = "scripted", reply, finish_reason
        self.calls: list[dict[str, object]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def complete(self, messages: Sequence[Message], *, max_tokens: int, temperature: float, seed: int) -> Completion:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.calls.append(
                {"messages": tuple(messages), "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
            )
        try:
            text = self.reply(messages)
            return Completion(
                text=text,
                prompt_tokens=100,
                completion_tokens=len(text.split()),
                first_token_seconds=0.01,
                total_seconds=0.05,
                finish_reason=self.finish_reason,
            )
        finally:
            with self._lock:
                self.at_once -= 1


class WordEvidence(EvidenceModel):
    """The probability is the share of the question's content words that are in the text."""

    name = "words"

    def __init__(self, least: float = 0.5) -> None:
        self.least = least

    def probabilities(self, question: str, texts: Sequence[str]) -> list[float]:
        words = content_words(question)
        return [len(words & content_words(text)) / max(1, len(words)) for text in texts]

    def threshold(self, refused_share: float) -> float:
        return self.least
