"""What /metrics shows: OpenTelemetry's names, the overhead, memory, checks, and the metrics of engines."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from prometheus_client.parser import text_string_to_metric_families

from ragtune_serving.gpu import GpuMemory, gpu_memory
from ragtune_serving.routing import Piece
from ragtune_serving.scrape import engine_text, merged_families
from ragtune_serving.times import Times, timed
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.served_gateway import ServedGateway, index_documents

OF_ENGINE = """\
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 41.0
# HELP process_resident_memory_bytes Resident memory size in bytes.
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1.0
# HELP ragtune_ready Of somebody else.
# TYPE ragtune_ready gauge
ragtune_ready 77.0
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    index_documents(home)
    upstream = ScriptedUpstream()
    upstream.metrics = OF_ENGINE
    served = ServedGateway(home, upstream, gateway={"engine_metrics": True})
    yield served
    served.close()
    upstream.close()


def families(gateway) -> dict:
    answer = gateway.request("GET", "/metrics")
    assert answer.status_code == 200, answer.text
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def test_the_engines_metrics_have_its_role_and_version_and_ours_stay_as_they_are(gateway):
    scraped = families(gateway)
    (waiting,) = scraped["vllm:num_requests_waiting"].samples
    assert waiting.labels == {"engine": "0", "model_name": "m", "role": "live", "model_version": "provider"}
    assert waiting.value == 3
    assert scraped["vllm:prompt_tokens"].type == "counter"
    assert [sample.value for sample in scraped["ragtune_ready"].samples] == [1]
    assert "process_resident_memory_bytes" not in scraped
    assert [sample.value for sample in scraped["ragtune_engine_scraped"].samples] == [1]


@pytest.mark.parametrize("broken", ["", "this is { no metric"])
def test_an_engine_without_readable_metrics_costs_the_scrape_nothing_else(gateway, broken):
    gateway.upstream.metrics = broken
    try:
        scraped = families(gateway)
    finally:
        gateway.upstream.metrics = OF_ENGINE
    assert "vllm:num_requests_waiting" not in scraped
    assert [sample.value for sample in scraped["ragtune_engine_scraped"].samples] == [0]
    assert [sample.value for sample in scraped["ragtune_engine_up"].samples] == [1]


def test_a_family_of_two_engines_is_one_family():
    texts = {("live", "3"): OF_ENGINE, ("comparison", "base"): OF_ENGINE}
    waiting = next(family for family in merged_families(texts) if family.name == "vllm:num_requests_waiting")
    assert [sample.labels["model_version"] for sample in waiting.samples] == ["3", "base"]
    assert engine_text(texts).decode().count("# TYPE vllm:num_requests_waiting gauge") == 1


def test_the_names_and_labels_are_those_of_opentelemetry(gateway):
    gateway.events()
    scraped = families(gateway)
    for name, unit in (
        (gen_ai_metrics.GEN_AI_SERVER_REQUEST_DURATION, "_seconds"),
        (gen_ai_metrics.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN, "_seconds"),
        (gen_ai_metrics.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN, "_seconds"),
        (gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE, ""),  # a unit in braces is not part of a name in Prometheus
    ):
        family = scraped[name.replace(".", "_") + unit]
        assert family.type == "histogram"
        labels = family.samples[0].labels
        assert labels["gen_ai_operation_name"] == gen_ai_attributes.GenAiOperationNameValues.CHAT.value
        assert (labels["gen_ai_request_model"], labels["gen_ai_response_model"]) == ("ragtune", "provider")
    known = {value.replace(".", "_") for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI")}
    usage = scraped["gen_ai_client_token_usage"]
    assert set(usage.samples[0].labels) - {"le"} <= known
    kinds = {sample.labels["gen_ai_token_type"] for sample in usage.samples}
    assert kinds == {value.value for value in gen_ai_attributes.GenAiTokenTypeValues if value.value != "completion"}


def test_the_overhead_leaves_out_the_time_of_the_engine(gateway):
    label = '{model="ragtune"}'
    names = [f"ragtune_overhead_seconds_sum{label}", f"ragtune_request_seconds_sum{label}"]
    before = [gateway.metric(name) for name in names]
    gateway.upstream.behaviours = ["slow"]
    gateway.ask()
    overhead, whole = (gateway.metric(name) - value for name, value in zip(names, before, strict=True))
    assert whole > 1.5, "the engine begins after 1.5 seconds"
    assert 0 < overhead < whole - 1.4


def test_the_time_of_a_client_that_reads_slowly_is_not_the_engines():
    async def read() -> Times:
        async def pieces():
            for text in ("a", "b"):
                await asyncio.sleep(0.05)
                yield Piece(text=text)

        times = Times()
        async for _ in timed(pieces(), times):
            time.sleep(0.2)
        return times

    times = asyncio.run(read())
    assert 0.1 <= times.engine < 0.3, "twice 0.05 seconds, and nothing of the 0.4 seconds of the reader"
    assert times.writing >= 0.05


def test_a_failed_answer_is_a_duration_with_its_error_type(gateway):
    gateway.upstream.behaviours = ["broken"] * 5
    assert gateway.ask().status_code == 503
    gateway.upstream.behaviours = []
    durations = families(gateway)["gen_ai_server_request_duration_seconds"].samples
    assert "failed" in {sample.labels["error_type"] for sample in durations}


def test_checks_and_deliveries_are_counted_by_reason(gateway):
    names = ['ragtune_failed_checks_total{reason="numbers"}', 'ragtune_deliveries_total{kind="answer"}']
    before = [gateway.metric(name) for name in names]
    gateway.upstream.next_words = [["It", "opens", "a", "session", "for", "95", "minutes.", "[1]"]]
    reply = gateway.ask("What does `shop.users.login` open, and for how long?").json()["ragtune"]
    assert ([failure["reason"] for failure in reply["failures"]], reply["delivered"]) == (["numbers"], "answer")
    assert [gateway.metric(name) for name in names] == [before[0] + 1, before[1] + 1]


def test_memory_and_queues_are_shown(gateway):
    assert gateway.metric('ragtune_memory_bytes{process="gateway"}') > 50 << 20
    assert 'ragtune_queue_length{queue="search"} 0.0' in gateway.request("GET", "/metrics").text


def test_requests_under_way_are_counted_for_their_engine(gateway):
    name = 'ragtune_engine_requests{model_version="provider",role="live"}'
    gateway.upstream.behaviours = ["slow"]
    seen = []
    gateway.leave_after(lambda: seen.append(gateway.metric(name)) or seen[-1] == 1.0)
    end = time.monotonic() + 20
    while gateway.metric(name):
        assert time.monotonic() < end
        time.sleep(0.05)


class Nvml:
    """Two GPUs; the second one shares the memory of the machine and reports none."""

    class NVMLError(Exception):
        pass

    def __init__(self, driver: bool = True) -> None:
        self.driver, self.open = driver, 0

    def nvmlInit(self):  # noqa: N802
        if not self.driver:
            raise self.NVMLError("driver not loaded")
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, number):  # noqa: N802
        return number

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        if handle == 1:
            raise self.NVMLError("not supported")
        return SimpleNamespace(used=2 << 30, total=80 << 30)


def test_the_memory_of_gpus_is_read_and_a_machine_without_a_driver_has_none():
    nvml = Nvml()
    assert gpu_memory(nvml) == [GpuMemory("0", 2 << 30, 80 << 30)]
    assert nvml.open == 0
    assert gpu_memory(Nvml(driver=False)) == []
