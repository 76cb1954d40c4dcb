"""Which extra of the package brings which library, so that a missing one is named instead of a traceback.

`pip install ragtune` installs what indexing and searching need. Training, quantisation, serving and so on are
extras: `pip install 'ragtune[train]'`.
"""

from importlib.util import find_spec

from ragtune.errors import ResourceError

LIBRARIES: dict[str, tuple[str, ...]] = {
    "llm": ("litellm", "openai"),
    "elasticsearch": ("elasticsearch",),
    "postgresql": ("psycopg",),
    "redis": ("redis",),
    "dataset": ("great_expectations", "pandas", "presidio_analyzer", "tldextract"),
    "train": ("accelerate", "datasets", "gguf", "peft", "transformers", "trl"),
    "quantize": ("llmcompressor",),
    "evaluate": ("jinja2", "krippendorff", "rouge_score", "sacrebleu"),
    "graph": ("dagster", "dagster_mlflow", "dagster_webserver", "duckdb", "matplotlib"),
    "serve": (
        "cachetools",
        "fastapi",
        "httptools",
        "itsdangerous",
        "jinja2",
        "mlflow",
        "prometheus_client",
        "python_multipart",
        "uvicorn",
        "uvloop",
    ),
    "benchmark": ("duckdb", "optuna"),
    "gpu": ("pynvml",),
    "tracing": ("opentelemetry",),
}
"""{extra: the modules that it brings}. A module that several extras bring is listed under the one to recommend."""

INCLUDED: dict[str, tuple[str, ...]] = {
    "graph": ("dataset", "evaluate", "llm", "quantize", "train"),
    "serve": ("evaluate", "llm"),
    "benchmark": ("serve", "evaluate", "llm"),
}
"""{extra: other extras that it brings}."""


def require(extra: str) -> None:
    """Raise ResourceError that names the extra if one of its libraries is not installed."""
    modules = [module for name in (extra, *INCLUDED.get(extra, ())) for module in LIBRARIES[name]]
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise missing_library(missing[0], extra)


def missing_library(module: str, extra: str = "") -> ResourceError:
    """Return the error to raise when a module cannot be imported.

    Args:
        module: its full name, such as `trl.trainer`.
        extra: the extra to recommend; by default the first one that brings the module.
    """
    library = module.partition(".")[0]
    extra = extra or next((name for name, modules in LIBRARIES.items() if library in modules), "")
    return ResourceError(
        f"The Python package {library} is not installed.",
        expected=f"RagTune with the extra '{extra}'" if extra else "a complete installation of RagTune",
        fix=f"{install_command(extra)}; in a checkout run `make install`",
    )


def install_command(extra: str = "") -> str:
    """Return the shell command that installs RagTune with this extra from a built wheel."""
    return f"pip install 'ragtune[{extra}]'" if extra else "pip install --force-reinstall ragtune"
