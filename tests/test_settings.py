from pathlib import Path

import pytest

from ragtune.backends.minilm import MiniLmEmbedder
from ragtune.consistency import MINILM_TOKENS
from ragtune.errors import SettingsError
from ragtune.settings import child_environment, load_settings


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAGTUNE_CONFIG", raising=False)


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ragtune.yaml").write_text("seed: 3\ntraining: {minutes: 7, rank: 4}\n")
    monkeypatch.setenv("RAGTUNE_TRAINING__MINUTES", "9")
    settings = load_settings()
    assert (settings.seed, settings.training.minutes, settings.training.rank) == (3, 9, 4)
    assert settings.training.batch_size == 4


def test_an_unknown_setting_is_refused_with_the_list_of_the_valid_ones(tmp_path: Path) -> None:
    (tmp_path / "ragtune.yaml").write_text("training: {minuts: 7}\n")
    with pytest.raises(SettingsError, match=r"(?s)no setting 'training.minuts'.*checkpoint_every.*minutes"):
        load_settings()


def test_a_value_out_of_range_is_refused_with_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGTUNE_EVALUATION__ALPHA", "2")
    with pytest.raises(SettingsError, match=r"evaluation.alpha' has '2'"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "dataset: {test_share: 0.5, gate_share: 0.4, validation_share: 0.2}",
            r"^dataset\.test_share 0\.5, dataset\.gate_share 0\.4 and .* add up to 1\.1, .* less than 1",
        ),
        ("dataset: {test_share: 0.5, gate_share: 0.4, validation_share: 0.1}", r"add up to 1, which leaves nothing"),
        (
            "dataset: {min_pairs: 500, max_pairs: 400}",
            r"min_pairs is 500 and dataset\.max_pairs 400, .* raise dataset\.max_pairs",
        ),
        ("{training: {qat: true}, preference: {enabled: true}}", r"without rounding, .* set one of them to false"),
        (
            "chunking: {max_tokens: 64, overlap_tokens: 64}",
            r"overlap_tokens is 64 and chunking\.max_tokens 64, .* lower chunking\.overlap",
        ),
        (
            "chunking: {max_tokens: 1000}",
            r"^chunking\.max_tokens is 1000, but the packaged embedder reads only the first 256 tokens.* at most 256",
        ),
        (
            "{training: {batch_size: 64}, dataset: {max_pairs: 50}}",
            r"training\.batch_size is 64 and dataset\.max_pairs 50, .* lower training\.batch_size",
        ),
        (
            "{answer: {max_tokens: 512}, engine: {max_model_len: 512}}",
            r"answer\.max_tokens is 512 and engine\.max_model_len 512, which leaves no room .* lower answer\.",
        ),
        ("embedder: {question_prefix: 'query: '}", r"^embedder: the packaged embedder was trained without prefixes"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused_with_the_way_out(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "ragtune.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message) as error:
        load_settings()
    assert "ragtune.yaml" in str(error.value)
    assert "judge" not in str(error.value), "only what is wrong is shown, not the whole section"


def test_what_fits_another_back_end_is_accepted() -> None:
    load_settings({"chunking": {"max_tokens": 1000}, "embedder": {"backend": "sentence-transformers", "model": "x"}})
    load_settings({"answer": {"max_tokens": 4000}, "engine": {"backend": "openai", "url": "http://127.0.0.1:9/v1"}})


def test_the_limit_of_the_packaged_embedder_is_the_one_that_it_cuts_at() -> None:
    assert MiniLmEmbedder.max_tokens == MINILM_TOKENS


@pytest.mark.parametrize(
    "text",
    [
        "training:\n",
        "training:\n  # minutes: 30\nsources:\n  # - package:rich\n",
        "evaluation:\n  judge:\n    # model: x\n",
        "engine: {arguments: }\n",
    ],
)
def test_an_empty_section_of_the_file_counts_as_absent(tmp_path: Path, text: str) -> None:
    defaults = load_settings()
    (tmp_path / "ragtune.yaml").write_text(text)
    assert load_settings() == defaults


def test_an_empty_section_leaves_the_others_and_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ragtune.yaml").write_text("training:\nanswer: {passages: 2}\n")
    monkeypatch.setenv("RAGTUNE_TRAINING__MINUTES", "30")
    settings = load_settings()
    assert (settings.training.minutes, settings.answer.passages) == (30, 2)


@pytest.mark.parametrize("text", ["trainig:\n", "device:\n", "answer: {passages: }\n"])
def test_a_name_of_no_setting_and_a_setting_without_a_value_stay_errors(tmp_path: Path, text: str) -> None:
    (tmp_path / "ragtune.yaml").write_text(text)
    with pytest.raises(SettingsError):
        load_settings()


def test_a_configuration_file_that_is_not_there_is_an_error_not_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGTUNE_CONFIG", "missing.yaml")
    with pytest.raises(SettingsError, match=r"missing\.yaml"):
        load_settings()


def test_the_fingerprint_follows_the_named_sections_only(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings()
    monkeypatch.setenv("RAGTUNE_TRAINING__RANK", "8")
    after = load_settings()
    assert before.fingerprint("training") != after.fingerprint("training")
    assert before.fingerprint("dataset", "seed") == after.fingerprint("dataset", "seed")


def test_a_secret_stays_out_of_the_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGTUNE_INDEX__API_KEY", "hunter2")
    settings = load_settings()
    assert "hunter2" not in repr(settings) + settings.model_dump_json()
    assert settings.index.api_key.get_secret_value() == "hunter2"


def test_child_processes_report_no_usage_statistics() -> None:
    environment = child_environment(EXTRA="1")
    assert environment["EXTRA"] == "1"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["OMP_WAIT_POLICY"] in {"PASSIVE", "ACTIVE"}


def test_mlflow_starts_no_processes_for_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.environment_variables import MLFLOW_SERVER_ENABLE_JOB_EXECUTION as JOBS

    monkeypatch.delenv(JOBS.name, raising=False)
    assert JOBS.get(), "MLflow's own default, which costs eight processes"
    monkeypatch.setenv(JOBS.name, child_environment()[JOBS.name])
    assert not JOBS.get()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"gateway:\n\tport: 9000\n", r"ragtune.yaml is no YAML: .* in line 2, column 1"),
        (b"device: cpu\n home: x\n", r"ragtune.yaml is no YAML: .* in line 2"),
        ("home: kühl\n".encode("latin-1"), r"ragtune.yaml is not UTF-8: byte 7 is 0xfc"),
        (b"- folder:documents\n", r"ragtune.yaml holds no settings"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_named_with_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "ragtune.yaml").write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        load_settings()


def test_a_list_in_the_environment_that_is_no_json_is_refused_with_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGTUNE_SOURCES", "folder:documents")
    with pytest.raises(SettingsError, match=r'(?s)"sources".*RAGTUNE_SOURCES=.\["folder:documents"\]'):
        load_settings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RAGTUNE_ANSWER_QUOTATIONS", "RAGTUNE_ANSWER__QUOTATIONS with two underscores after a section"),
        ("RAGTUNE_ANSWR__QUOTATION", "RAGTUNE_ANSWER__QUOTATIONS"),
        ("RAGTUNE_TRAINING__MINUTS", "RAGTUNE_TRAINING__MINUTES"),
        ("RAGTUNE_SOURCE", "RAGTUNE_SOURCES"),
        ("RAGTUNE_SEED__X", "RAGTUNE_SEED"),
        ("ragtune_gateway_port", "RAGTUNE_GATEWAY__PORT"),
        ("RAGTUNE_ZEBRA", "RAGTUNE_SETTING or RAGTUNE_SECTION__SETTING"),
    ],
)
def test_a_variable_that_names_no_setting_is_an_error_that_names_the_nearest_one(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert error.value.found == f"The environment variable {name} names no setting."
    assert error.value.expected.startswith(meant)
    assert name in error.value.fix


def test_variables_that_are_no_settings_or_name_a_part_of_one_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {
        "RAGTUNE_DAGSTER_STORAGE": "/x",
        "RAGTUNE_TEST_POSTGRES_URL": "postgresql://",
        "RAGTUNE_SERVICE_HOST": "10.0.0.1",
        "RAGTUNE_PORT": "tcp://10.0.0.1:80",
        "RAGTUNE_GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
        "RAGTUNE_API_KEY": "k",
        "ragtune_seed": "4",
        "RAGTUNE_ENGINE__ARGUMENTS__block_size": "32",
        "RAGTUNE_EVALUATION__JUDGE__MODEL": "openai/x",
        "RAGTUNE_TRAINING": '{"rank": 8}',
    }
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.seed, settings.training.rank, settings.evaluation.judge.model) == (4, 8, "openai/x")
    assert settings.engine.arguments == {"block_size": "32"}


def test_a_misspelt_setting_of_the_file_gets_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "ragtune.yaml").write_text("training: {minuts: 7}\n")
    with pytest.raises(SettingsError, match=r"'training\.minuts'\. Did you mean 'minutes'\?"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("training:\n  minutes: 7\nseed: 3\ntraining:\n  rank: 4\n", "training"),
        ("training:\n  minutes: 7\n  rank: 4\n  minutes: 8\n", "training.minutes"),
        ("gateway:\n  fallbacks:\n  - model: a\n    model: b\n", "gateway.fallbacks.model"),
    ],
)
def test_a_key_that_the_file_has_twice_is_an_error_with_both_lines(tmp_path: Path, text: str, key: str) -> None:
    (tmp_path / "ragtune.yaml").write_text(text)
    last = key.rpartition(".")[2]
    first, second = (number for number, line in enumerate(text.splitlines(), 1) if f"{last}:" in line)
    with pytest.raises(SettingsError, match=rf"sets {key} twice, in line {first} and in line {second}\."):
        load_settings()


def test_an_alias_in_the_file_is_no_repetition(tmp_path: Path) -> None:
    (tmp_path / "ragtune.yaml").write_text(
        "dataset:\n  writer: &model {model: openai/x}\n  judge: *model\nevaluation:\n  judge: *model\n"
    )
    assert load_settings().evaluation.judge.model == "openai/x"
