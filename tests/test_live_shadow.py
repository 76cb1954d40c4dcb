"""Mirroring in a real gateway: after the user has the answer, never in its way, and every sampled request counted."""

import threading
import time

import pytest

from ragtune.experiments.shadow_report import report
from ragtune.store.shadows import ShadowDesign
from tests.support.live_gateway import ListRegistry, LiveGateway, ThreadEngine, until

# LiteLLM makes a coroutine that it never awaits if a mirror gives way at that moment.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine '.*acompletion' was never awaited:RuntimeWarning")


@pytest.fixture
def gateway(tmp_path):
    gateway = LiveGateway(tmp_path, ListRegistry(tmp_path, 3), ThreadEngine())
    yield gateway
    gateway.close()


def start(gateway, *versions: str, **changes):
    """Start to mirror and wait until the engines answer."""
    shadowing = gateway.services.chat.shadowing
    shadow = shadowing.store.start("next", ShadowDesign(**{"versions": versions, "share": 1.0, **changes}))
    until(lambda: shadowing.shadow)
    gateway.wait_for("1", *versions)
    return shadow


def settled(gateway, version: str) -> dict[str, int]:
    """Return the counts of a version once nothing waits or runs."""
    counts = gateway.services.chat.shadowing.counts
    return until(lambda: (now := counts()[version]) and not now["waiting"] + now["running"] and now)


def dropped(counts: dict[str, int]) -> dict[str, int]:
    return {name.removeprefix("dropped: "): count for name, count in counts.items() if name.startswith("dropped: ")}


def test_both_answers_are_stored_as_pairs_for_several_versions_at_once(gateway):
    shadow = start(gateway, "2", "3")
    texts = [gateway.ask(f"Question {number}?", user=f"user {number}", stream=number % 2 == 1) for number in range(4)]
    assert all("-v1-" in text.text for text in texts)
    store = gateway.services.chat.shadowing.store
    for version in ("2", "3"):
        counts = settled(gateway, version)
        assert (counts["sampled"], counts["mirrored"]) == (4, 4)
        pairs = store.pairs(shadow, version)
        assert sorted(pair.question for pair in pairs) == [f"Question {number}?" for number in range(4)]
        for pair in pairs:
            response = gateway.services.log.response(pair.response_id)
            assert (pair.live.version, pair.live.answer) == ("1", response.answer)
            assert f"-v{version}-" in pair.mirrored.answer
            assert (pair.mirrored.version, pair.mirrored.prompt_tokens) == (version, 7)
            assert pair.mirrored.generation_ms > 0
    store.stop("next")
    until(lambda: gateway.services.chat.shadowing.shadow is None)
    (second, _) = report(shadow, store)
    assert second.counts["sampled"] == second.counts["mirrored"] == second.paired.pairs == second.paired.users == 4
    assert 0 < second.paired.agreement < 1, "both answers differ in the name of the model alone"
    assert second.paired.same_refusals == 1.0


def test_a_full_queue_drops_and_mirrored_and_dropped_are_all_that_was_sampled(gateway):
    shadow = start(gateway, "2", queue=2)
    deployment = gateway.services.deployment
    deployment.live.hold()  # a request of a user that takes long
    for number in range(6):
        gateway.ask(f"Question {number}?")
    counts = until(lambda: (now := gateway.services.chat.shadowing.counts()["2"])["sampled"] == 6 and now)
    assert (counts["waiting"], dropped(counts)) == (2, {"queue is full": 4})
    time.sleep(0.5)
    assert gateway.services.chat.shadowing.counts()["2"]["mirrored"] == 0, "it did not wait until the engines are idle"
    deployment.live.release()
    counts = settled(gateway, "2")
    assert counts["sampled"] == counts["mirrored"] + sum(dropped(counts).values()) == 6
    assert (
        f'ragtune_shadow_requests{{state="mirrored",version="2"}} {counts["mirrored"]}.0'
        in gateway.request("GET", "/metrics").text
    )
    gateway.services.chat.shadowing.store.stop("next")
    until(lambda: gateway.services.chat.shadowing.shadow is None)
    assert gateway.services.chat.shadowing.store.counts(shadow, "2") == counts


def test_a_mirror_gives_way_to_a_user_and_is_asked_again(gateway):
    start(gateway, "2")
    upstream = gateway.engine.of("2").upstream
    upstream.behaviour = "slow"
    gateway.ask("First?")
    until(lambda: upstream.running)
    deployment = gateway.services.deployment
    deployment.live.hold()
    until(lambda: not upstream.running)
    assert gateway.services.chat.shadowing.counts()["2"]["waiting"] == 1
    upstream.behaviour = "answer"
    deployment.live.release()
    counts = settled(gateway, "2")
    assert (counts["sampled"], counts["mirrored"]) == (1, 1)


def test_a_mirror_that_fails_is_counted_and_no_user_notices(gateway):
    start(gateway, "2")
    gateway.engine.of("2").upstream.behaviour = "broken"
    assert gateway.ask().status_code == 200
    counts = settled(gateway, "2")
    assert (counts["sampled"], counts["mirrored"], dropped(counts)) == (1, 0, {"failed": 1})


def test_a_key_has_its_own_share_and_the_caps_hold_after_a_restart(gateway):
    shadow = start(gateway, "2", share=0.0, shares_of_keys={"app": 1.0}, requests=2)
    key = gateway.keys.create("app")
    gateway.ask("Of another key?")
    gateway.ask("One?", key=key)
    assert settled(gateway, "2")["mirrored"] == 1
    gateway.close()
    again = LiveGateway(gateway.settings.home, gateway.registry, ThreadEngine())
    try:
        again.wait_for("2")
        for number in range(3):
            again.ask(f"Question {number}?", key=key)
        counts = settled(again, "2")
        assert (counts["mirrored"], dropped(counts)) == (1, {"requests are used up": 2})
        store = again.services.chat.shadowing.store
        assert len(store.pairs(shadow, "2")) == 2
    finally:
        again.close()


def test_users_who_ask_at_once_get_their_answers_while_mirrors_wait(gateway):
    start(gateway, "2", queue=3)
    statuses = []

    def ask(number: int) -> None:
        statuses.append(gateway.ask(f"Question {number}?").status_code)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 12
    counts = settled(gateway, "2")
    assert counts["sampled"] == counts["mirrored"] + sum(dropped(counts).values()) == 12
