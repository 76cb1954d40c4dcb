"""The error tree. Every message says what was found, what was expected and how to fix it.

RagTuneError
├── SettingsError        a setting or a request field has an impossible value
├── SourceError          a document source is missing, empty or unreadable
├── SearchIndexError     the search index refuses, is unreachable or has another shape
├── DatasetError         too few pairs, a failed expectation, a leak between splits
├── ModelError           a model folder is missing, damaged or of an unknown kind
├── EngineError          the generation engine did not start, died or answered nonsense
├── RegistryError        an alias, version or manifest is missing or does not verify
├── ResourceError        too little memory or disk, a busy port, a busy home
└── FeedbackError        a feedback event that cannot be stored or matched
"""


class RagTuneError(Exception):
    """What went wrong, what was expected, and how to fix it."""

    def __init__(self, found: str, expected: str = "", fix: str = "") -> None:
        parts = [found]
        if expected:
            parts.append(f"Expected: {expected}")
        if fix:
            parts.append(f"How to fix: {fix}")
        super().__init__("\n".join(parts))
        self.found, self.expected, self.fix = found, expected, fix


class SettingsError(RagTuneError):
    """A setting or a request field has an impossible value."""


class SourceError(RagTuneError):
    """A document source is missing, empty or unreadable."""


class SearchIndexError(RagTuneError):
    """The search index refuses, is unreachable or has another shape."""


class DatasetError(RagTuneError):
    """Too few pairs, a failed expectation, or a leak between splits."""


class ModelError(RagTuneError):
    """A model folder is missing, damaged or of an unknown kind."""


class EngineError(RagTuneError):
    """The generation engine did not start, died or answered nonsense."""


class RegistryError(RagTuneError):
    """An alias, version or manifest is missing or does not verify."""


class ResourceError(RagTuneError):
    """Too little memory or disk, a busy port, or a busy home."""


class FeedbackError(RagTuneError):
    """A feedback event that cannot be stored or matched."""
