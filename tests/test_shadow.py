"""Every sampled request is mirrored or dropped, and counted once, whatever happens."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragtune.errors import SettingsError
from ragtune.experiments.shadow import Mirror, MirrorLimits, MirrorQueue

GENEROUS = MirrorLimits(share=1.0, requests=1000, tokens=10**6, queue=1000)


def mirror(number: int, key: str = "ann", tokens: int = 10) -> Mirror:
    return Mirror(f"r{number}", key, tokens, {"question": number})


def test_requests_are_taken_in_the_order_in_which_they_came():
    queue = MirrorQueue(GENEROUS, "s")
    assert queue.offer(mirror(1))
    assert queue.offer(mirror(2))
    assert [queue.take(), queue.take(), queue.take()] == [mirror(1), mirror(2), None]


def test_a_share_of_the_requests_is_sampled_and_a_key_may_have_its_own():
    queue = MirrorQueue(MirrorLimits(0.2, 10**6, 10**9, 10**6, {"bob": 1.0, "eve": 0.0}), "s")
    counts = {}
    for key in ("ann", "bob", "eve"):
        before = queue.counts().sampled
        for number in range(2000):
            queue.offer(mirror(number, key))
        counts[key] = queue.counts().sampled - before
    assert (counts["bob"], counts["eve"]) == (2000, 0)
    # Four standard errors of a share of 2,000 are 0.036.
    assert counts["ann"] / 2000 == pytest.approx(0.2, abs=0.036)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (MirrorLimits(1.0, 3, 1000, 10), "requests are used up"),
        (MirrorLimits(1.0, 10, 30, 10), "tokens are used up"),
        (MirrorLimits(1.0, 10, 1000, 3), "queue is full"),
    ],
)
def test_what_is_over_a_limit_is_dropped_with_its_reason(limits, reason):
    queue = MirrorQueue(limits, "s")
    assert [queue.offer(mirror(number)) for number in range(5)] == [True, True, True, False, False]
    assert queue.counts().dropped == {reason: 2}


def test_a_stopped_queue_drops_what_waits_and_what_comes():
    queue = MirrorQueue(GENEROUS, "s")
    queue.offer(mirror(1))
    queue.stop()
    assert not queue.offer(mirror(2))
    assert queue.take() is None
    assert queue.counts().dropped == {"stopped": 2}


def test_a_request_is_finished_once():
    queue = MirrorQueue(GENEROUS, "s")
    queue.offer(mirror(1))
    taken = queue.take()
    queue.finish(taken, succeeded=True)
    with pytest.raises(KeyError):
        queue.finish(taken, succeeded=True)


def test_a_share_above_one_is_refused():
    with pytest.raises(SettingsError, match="is 20"):
        MirrorLimits(20, 1, 1, 1)


@given(
    st.lists(st.sampled_from(["offer", "take", "finish", "fail", "stop"]), max_size=60),
    st.builds(MirrorLimits, st.sampled_from([0.5, 1.0]), st.integers(0, 9), st.integers(0, 90), st.integers(0, 4)),
)
def test_mirrored_and_dropped_are_all_that_was_sampled(steps, limits):
    queue, taken = MirrorQueue(limits, "s"), []
    for number, step in enumerate(steps):
        if step == "offer":
            queue.offer(mirror(number))
        elif step == "take" and (one := queue.take()):
            taken.append(one)
        elif step in ("finish", "fail") and taken:
            queue.finish(taken.pop(), step == "finish")
        elif step == "stop":
            queue.stop()
        counts = queue.counts()
        assert counts.sampled == counts.waiting + counts.running + counts.mirrored + sum(counts.dropped.values())
        assert counts.waiting <= limits.queue
    queue.stop()
    for one in taken:
        queue.finish(one, succeeded=True)
    counts = queue.counts()
    assert (counts.waiting, counts.running) == (0, 0)
    assert counts.sampled == counts.mirrored + sum(counts.dropped.values())


def test_the_account_holds_with_many_threads():
    queue = MirrorQueue(MirrorLimits(1.0, 10**6, 10**9, 20), "s")

    def offer(first: int) -> None:
        for number in range(first, first + 300):
            queue.offer(mirror(number))

    def work() -> None:
        for _ in range(400):
            if one := queue.take():
                queue.finish(one, succeeded=True)

    threads = [threading.Thread(target=offer, args=(1000 * i,)) for i in range(4)]
    threads += [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.stop()
    counts = queue.counts()
    assert counts.sampled == 1200
    assert counts.mirrored + sum(counts.dropped.values()) == 1200
