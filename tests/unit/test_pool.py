"""Jobs in processes of their own: answers, errors, order, and ends of every kind."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from roost.errors import DefinitionError, Error, StepError
from roost.events import Event, RunOutput, Warned, ignore
from roost.pool import Job, Pool
from roost.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable


def job(key: str, function: Callable[[], Any], *after: str) -> Job:
    """A job that is a plain function."""
    return Job(key=key, work=lambda _monitor, _stop: function(), after=after)


def raise_(error: BaseException) -> None:
    raise error


def test_answers_come_back_whatever_their_size() -> None:
    wanted = {"a": [1, None, "ü"], "b": {"k": "x" * 3_000_000}, "c": None, "d": False}
    jobs = [Job(key=key, work=lambda _m, _s, key=key: wanted[key]) for key in wanted]  # type: ignore[misc]
    done = Pool(2, ignore).run(jobs)
    assert {key: item.value for key, item in done.items()} == wanted


def test_events_arrive_in_order() -> None:
    seen: list[Event] = []

    def work(monitor: Any, _stop: int) -> int:
        for number in range(500):
            monitor(RunOutput(machine="m", stream=1, data=b"%d" % number * 100))
        monitor(Warned(message="end"))
        return 1

    assert Pool(1, seen.append).run([Job(key="m", work=work)])["m"].value == 1
    assert [event.data for event in seen if isinstance(event, RunOutput)] == [b"%d" % n * 100 for n in range(500)]
    assert seen[-1] == Warned(message="end")


def test_an_error_keeps_its_class_and_its_parts() -> None:
    step = StepError("s failed", step="s", log="/l", details="d", hint="h")
    done = Pool(2, ignore).run(
        [job("a", lambda: raise_(DefinitionError("b", details="d", hint="h"))), job("b", lambda: raise_(step))]
    )
    error = done["a"].error
    assert isinstance(error, DefinitionError)
    assert (error.brief, error.details, error.hint) == ("b", "d", "h")
    other = done["b"].error
    assert isinstance(other, StepError)
    assert (other.step, other.log) == ("s", "/l")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_a_job_that_is_killed_is_an_error_of_its_own(number: signal.Signals) -> None:
    done = Pool(2, ignore).run([job("bad", lambda: os.kill(os.getpid(), number)), job("good", lambda: 1)])
    assert isinstance(done["bad"].error, Error)
    assert number.name in done["bad"].error.brief
    assert done["good"].value == 1


def test_a_job_with_a_mistake_is_an_error_too(capfd: pytest.CaptureFixture[str]) -> None:
    done = Pool(1, ignore).run([job("bad", lambda: 1 // 0)])
    assert done["bad"].error is not None


def test_what_waits_for_a_failure_is_skipped() -> None:
    jobs = [job("a", lambda: raise_(Error("x"))), job("b", lambda: 1, "a"), job("c", lambda: 2, "b")]
    done = Pool(2, ignore).run([*jobs, job("d", lambda: 3), job("e", lambda: 4, "d")])
    assert [done[key].skipped for key in "abcde"] == [False, True, True, False, False]
    assert done["e"].value == 4


def test_so_many_at_a_time() -> None:
    jobs = [job(str(n), lambda: time.sleep(0.2)) for n in range(4)]
    began = time.monotonic()
    Pool(4, ignore).run(jobs)
    middle = time.monotonic()
    Pool(2, ignore).run(jobs)
    assert middle - began < 0.39
    assert time.monotonic() - middle > 0.39


def test_nothing_starts_after_a_no() -> None:
    done = Pool(1, ignore).run([job(str(n), lambda: 1) for n in range(3)], on_done=lambda item: item.key != "1")
    assert [done[str(n)].skipped for n in range(3)] == [False, False, True]


def test_a_stop_is_told_to_the_running_and_skips_the_rest() -> None:
    stop = Stop()
    stop.request()

    def work(_monitor: Any, stop_fd: int) -> int:
        return os.read(stop_fd, 1)[0]

    done = Pool(1, ignore, stop=stop).run([Job(key="a", work=work), Job(key="b", work=work)])
    assert (done["a"].value, done["b"].skipped) == (1, True)
    stop.close()


def test_no_job_outlives_the_pool() -> None:
    reader, writer = os.pipe()

    def hang() -> None:
        os.write(writer, b"x")
        time.sleep(100)

    def tick() -> None:
        if os.read(reader, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pool(1, ignore, tick=tick, interval=0.05).run([job("a", hang)])
    os.close(reader)
    os.close(writer)
