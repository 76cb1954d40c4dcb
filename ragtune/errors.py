"""The errors of RagTune. Every message says what was found, what was expected and how to fix it.

RagTuneError
├── SettingsError        a setting or a field of a request has an invalid value
├── SourceError          a document source is missing, empty or unreadable
├── SearchIndexError     the search index is unreachable, refuses a request or was built differently
├── DatasetError         too few pairs, a failed expectation or a leak between splits
├── ModelError           a model folder is missing, damaged or of an unknown kind
├── EngineError          the generation engine did not start, died or sent an invalid reply
├── RegistryError        an alias, version or manifest is missing or fails verification
├── ResourceError        too little memory or disk, a busy port or home, a missing package
│   └── EngineMemoryError    no room for a further engine
├── FeedbackError        a feedback event cannot be stored or matched to a response
└── ExperimentError      an experiment cannot be started, changed or found
"""


class RagTuneError(Exception):
    """The base of all errors that RagTune explains: what was found, what was expected, and how to fix it."""

    def __init__(self, found: str, expected: str = "", fix: str = "") -> None:
        parts = [found]
        if expected:
            parts.append(f"Expected: {expected}")
        if fix:
            parts.append(f"How to fix: {fix}")
        super().__init__("\n".join(parts))
        self.found, self.expected, self.fix = found, expected, fix


class SettingsError(RagTuneError):
    """A setting or a field of a request has an invalid value."""


class SourceError(RagTuneError):
    """A document source is missing, empty or unreadable."""


class SearchIndexError(RagTuneError):
    """The search index is unreachable, refuses a request or was built with other settings."""


class DatasetError(RagTuneError):
    """There are too few pairs, an expectation failed, or splits leak into each other."""


class ModelError(RagTuneError):
    """A model folder is missing, damaged or of an unknown kind."""


class EngineError(RagTuneError):
    """The generation engine did not start, died or sent an invalid reply."""


class RegistryError(RagTuneError):
    """An alias, version or manifest is missing or fails verification."""


class ResourceError(RagTuneError):
    """There is too little memory or disk, a port or home is in use, or a package is missing."""


class EngineMemoryError(ResourceError):
    """There is no room for a further engine, in the memory of the machine or of its GPU."""


class FeedbackError(RagTuneError):
    """A feedback event cannot be stored or matched to a response."""


class ExperimentError(RagTuneError):
    """An experiment cannot be started, changed or found."""


def no_permission(error: OSError) -> ResourceError:
    """Return the error for a file that this user cannot use, such as one in the home of another user."""
    return ResourceError(
        f"{error.filename or 'A file'} cannot be used: {error.strerror}.",
        expected="a home that belongs to the user who runs RagTune",
        fix="set RAGTUNE_HOME to a folder of your own, or run it as the owner of that file",
    )
