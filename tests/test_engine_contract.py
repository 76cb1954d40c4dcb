"""A local vLLM and a server that somebody else runs behave the same: one suite of tests, one real engine."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from ragtune.backends.chat import OpenAIChat, list_models
from ragtune.backends.engines import OpenAIEngine, VllmEngine, VllmProcess
from ragtune.backends.guard import descendants
from ragtune.errors import EngineError
from ragtune.ports import RunningEngine
from ragtune.records import Message
from ragtune.settings import EngineSettings
from tests.support.tiny_llama import write_weights

ENGINE_PYTHON = Path(__file__).parent.parent / ".venv-vllm/bin/python"
LONGEST = 512
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not ENGINE_PYTHON.exists(), reason="there is no .venv-vllm; run `make install`"),
]


def write_tiny_model(folder: Path) -> None:
    """Write a random Llama with a tokenizer that makes one token of each number."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "<|user|>", "<|system|>", "<|assistant|>", "hello", "world", *map(str, range(504))]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    turns = "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} {% endfor %}<|assistant|>"
    tokenizer.chat_template = turns
    tokenizer.save_pretrained(folder)
    write_weights(folder, len(words), head_dim=32)  # the least that vLLM's attention takes on a CPU


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    """The one vLLM of this file."""
    home = tmp_path_factory.mktemp("engine")
    write_tiny_model(home / "tiny")
    settings = EngineSettings(python=str(ENGINE_PYTHON), max_model_len=LONGEST)
    with VllmEngine(settings, home, "cpu").running(home / "tiny", "tiny") as engine:
        assert isinstance(engine, VllmProcess)
        yield engine


# vLLM comes last, because its last test ends it.
@pytest.fixture(scope="module", params=["openai", "vllm"])
def running(
    request: pytest.FixtureRequest, started: VllmProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningEngine]:
    if request.param == "vllm":
        yield started
        return
    with elsewhere(started, tmp_path_factory.mktemp("elsewhere"), "tiny").running(Path("ignored"), "ignored") as remote:
        yield remote


def elsewhere(engine: RunningEngine, home: Path, model: str = "") -> OpenAIEngine:
    """Return an engine for which the running one is a server of somebody else."""
    settings = EngineSettings(backend="openai", url=engine.url, api_key=engine.api_key, model=model)
    return OpenAIEngine(settings, home)


def counted(*numbers: int) -> list[Message]:
    return [Message("user", " ".join(str(number) for number in numbers))]


def test_a_healthy_engine_says_that_it_lives_and_what_it_serves(running: RunningEngine) -> None:
    assert running.alive()
    assert running.model_name == "tiny"
    assert list_models(running.url, running.api_key) == ["tiny"]


def test_the_same_prompt_has_the_same_greedy_answer(running: RunningEngine) -> None:
    with closing(running.chat()) as chat:
        assert chat.name == "tiny"
        first, second = (chat.complete(counted(*range(60)), max_tokens=8, temperature=0, seed=1) for _ in range(2))
    assert first.text == second.text != ""
    assert first.prompt_tokens == second.prompt_tokens >= 60
    assert 1 <= first.completion_tokens <= 8
    assert first.finish_reason in ("stop", "length")
    assert 0 < first.first_token_seconds <= first.total_seconds


def test_one_chat_answers_several_at_once(running: RunningEngine) -> None:
    with closing(running.chat()) as chat, ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(chat.complete, counted(*range(n)), max_tokens=4, temperature=0, seed=1) for n in range(1, 9)
        ]
        read = [each.result().prompt_tokens for each in asked]
    assert [each - read[0] for each in read] == list(range(8))


def test_greedy_answers_stay_the_same_beside_sampled_ones(running: RunningEngine) -> None:
    """A batch with one sampled request must not disturb the others: vLLM's own code for a CPU does, see the plugin."""
    with closing(running.chat()) as chat, ThreadPoolExecutor(6) as pool:
        prompts = [counted(*range(n), *range(n)) for n in range(20, 32)]

        def complete(place: int, temperature: float) -> str:
            return chat.complete(prompts[place], max_tokens=24, temperature=temperature, seed=1).text

        alone = [complete(place, 0) for place in range(len(prompts))]
        sampled = [pool.submit(complete, place, 0.8) for place in (0, 3, 6)]
        beside = [pool.submit(complete, place, 0) for place in range(len(prompts))]
        assert [each.result() for each in beside] == alone
        assert all(each.result() not in alone for each in sampled)


def test_a_prompt_that_is_too_long_is_refused_in_the_engines_words(running: RunningEngine) -> None:
    with closing(running.chat()) as chat, pytest.raises(EngineError, match=rf"(?s){LONGEST}.*max_model_len"):
        chat.complete(counted(*range(LONGEST)), max_tokens=8, temperature=0, seed=1)


def test_an_unknown_model_and_a_wrong_key_are_refused(running: RunningEngine) -> None:
    with OpenAIChat(running.url, running.api_key, "huge") as chat, pytest.raises(EngineError, match="huge"):
        chat.complete(counted(1), max_tokens=8, temperature=0, seed=1)
    with OpenAIChat(running.url, "wrong", "tiny") as chat, pytest.raises(EngineError, match="401"):
        chat.complete(counted(1), max_tokens=8, temperature=0, seed=1)


def test_a_server_is_refused_for_a_model_that_it_does_not_serve(running: RunningEngine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no model 'huge'[\s\S]*one of tiny"):
        elsewhere(running, tmp_path).launch(Path("ignored"), "huge")


def test_the_key_is_neither_on_a_command_line_nor_in_the_log(running: RunningEngine, started: VllmProcess) -> None:
    commands = [" ".join(psutil.Process(pid).cmdline()) for pid in tree_of(started)]
    assert any("--served-model-name tiny" in command for command in commands)
    assert not any(running.api_key in command for command in commands)
    assert running.api_key not in started.log_path.read_text()


def test_scheduler_and_model_share_a_process_on_a_cpu(running: RunningEngine, started: VllmProcess) -> None:
    assert running.alive()
    titles = [" ".join(psutil.Process(pid).cmdline()) for pid in tree_of(started)]
    assert sum("VLLM::EngineCore" in title for title in titles) == 1
    assert not [title for title in titles if "VLLM::Worker" in title]


def test_the_memory_of_our_engine_is_measured_and_that_of_others_is_not(
    running: RunningEngine, started: VllmProcess
) -> None:
    measured = running.memory_bytes()
    assert measured > 100 << 20 if running is started else measured == 0


def test_stopping_twice_ends_our_engine_whole_and_leaves_that_of_others_alone(
    running: RunningEngine, started: VllmProcess
) -> None:
    processes = [psutil.Process(pid) for pid in tree_of(started)]
    assert len(processes) > 2
    for _ in range(2):
        running.stop()
    ours = running is started
    assert running.alive() is not ours
    assert {process.is_running() for process in processes} == {not ours}
    if ours:
        with closing(running.chat()) as chat, pytest.raises(EngineError, match="did not answer"):
            chat.complete(counted(1), max_tokens=8, temperature=0, seed=1)


def tree_of(engine: VllmProcess) -> list[int]:
    return [engine.pid, *descendants(engine.pid)]
