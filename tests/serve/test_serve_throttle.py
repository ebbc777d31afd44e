"""Inserts of the service pause while searches come, and go on."""

import threading
from contextlib import contextmanager

import pytest
from serving import insert, search, serving, wait_for, wait_until

from t2i_pipelines.errors import ConfigError
from t2i_pipelines.serve import ServeOptions, jobs
from t2i_pipelines.serve.throttle import LONGEST, POLL, QUIET, Throttle


class Clock:
    """Time that passes only while someone sleeps.

    :ivar at_sleep: called before each sleep, with the time.
    """

    def __init__(self):
        self.time, self.at_sleep = 1000.0, lambda time: None

    def now(self):
        return self.time

    def sleep(self, seconds):
        assert 0 < seconds <= POLL
        self.at_sleep(self.time)
        self.time += seconds


def made(share):
    clock = Clock()
    return Throttle(share, clock.now, clock.sleep), clock


def waited(throttle, clock, work):
    """Seconds before a step that takes ``work`` seconds."""
    began = clock.time
    with throttle.turn():
        pause = clock.time - began
        clock.time += work
    return pause


def test_an_insert_does_not_wait_without_searches():
    throttle, clock = made(0.1)
    assert [waited(throttle, clock, 1.0) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_an_insert_works_for_its_share_of_the_time_while_searches_run(share):
    throttle, clock = made(share)
    began = clock.time
    with throttle.searching():
        pauses = [waited(throttle, clock, 0.1) for _ in range(20)]
    assert pauses[0] == 0
    assert pauses[1:] == [pytest.approx(0.1 * (1 - share) / share)] * 19
    assert 20 * 0.1 / (clock.time - began) == pytest.approx(share, rel=0.1)


def test_without_a_limit_it_does_not_wait_and_steps_work_at_the_same_time():
    throttle, clock = made(1)
    with throttle.searching(), throttle.turn():
        assert waited(throttle, clock, 1.0) == 0
        assert waited(throttle, clock, 1.0) == 0


def test_an_insert_goes_on_some_time_after_the_last_search():
    throttle, clock = made(0.01)
    with throttle.searching():
        waited(throttle, clock, 0.04)
        ended = clock.time
    assert waited(throttle, clock, 0.04) == pytest.approx(QUIET, abs=POLL)
    assert clock.time > ended + QUIET
    assert waited(throttle, clock, 0.04) == 0


def test_searches_one_after_another_hold_it_and_none_of_several_is_forgotten():
    throttle, clock = made(0.5)
    outer = throttle.searching()
    with outer:
        with throttle.searching():
            waited(throttle, clock, 1.0)
        assert throttle.is_searched
        clock.time += 2 * QUIET
        assert throttle.is_searched  # the outer one still runs
    assert throttle.is_searched  # another is expected
    clock.time += QUIET
    assert not throttle.is_searched


def test_a_pause_is_no_longer_than_the_longest():
    throttle, clock = made(0.01)
    with throttle.searching():
        waited(throttle, clock, 100.0)
        assert waited(throttle, clock, 0.1) == pytest.approx(LONGEST)


def test_the_end_of_searches_ends_a_pause_that_has_begun():
    throttle, clock = made(0.01)
    search = throttle.searching()
    search.__enter__()
    waited(throttle, clock, 1.0)
    began, ends = clock.time, clock.time + 0.5

    def at_sleep(time):
        if time >= ends:
            clock.at_sleep = lambda time: None
            search.__exit__(None, None, None)

    clock.at_sleep = at_sleep
    assert waited(throttle, clock, 0.1) == pytest.approx(ends + QUIET - began, abs=2 * POLL)


def test_a_step_that_fails_is_followed_by_a_pause_and_by_others():
    throttle, clock = made(0.5)
    with throttle.searching():
        failing = throttle.turn()
        failing.__enter__()
        clock.time += 1.0
        assert not failing.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert waited(throttle, clock, 0.1) == pytest.approx(1.0)


def test_steps_work_one_at_a_time_while_searches_run():
    throttle, inside, most = Throttle(0.99), [], []

    def step():
        with throttle.turn():
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.005)
            inside.pop()

    with throttle.searching():
        threads = [threading.Thread(target=step) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert most == [1] * 8


def test_each_step_of_an_insert_of_the_service_takes_turns_and_searches_are_seen(
    tmp_path, pictures, monkeypatch
):
    seen, turns, searches = [], [], []
    turn, searching = Throttle.turn, Throttle.searching

    @contextmanager
    def watched(self):
        turns.append(1)
        with turn(self):
            yield

    @contextmanager
    def searched(self):
        with searching(self):
            seen.append(self.is_searched)
            searches.append(self)
            yield

    monkeypatch.setattr(Throttle, "turn", watched)
    monkeypatch.setattr(Throttle, "searching", searched)
    with serving(tmp_path, roots=[pictures], settings={"batch_size": 1}) as http:
        searches.clear()
        report = insert(http, source=pictures.name)
        assert not searches
        images = report["counts"]["inserted"]
        # looking up, decoding, embedding, normalising and inserting of each
        assert len(turns) >= 5 * images
        search(http, text="red")
        assert len(searches) == 1
    assert all(seen)


def test_an_insert_ends_while_a_search_never_does(tmp_path, pictures):
    with serving(tmp_path, roots=[pictures], insert_share=0.5) as http:
        throttle = http.app.state.service.throttle
        with throttle.searching():
            report = insert(http, source=pictures.name)
        assert report["status"] == "done"
        assert report["counts"]["inserted"] > 0


def test_a_source_that_is_slow_holds_up_no_other_step(tmp_path, pictures, monkeypatch):
    go, read = threading.Event(), jobs.Job.until_stopped

    def until_stopped(self, records):
        return read(self, (record for number, record in enumerate(records) if number < 2 or go.wait(60)))

    monkeypatch.setattr(jobs.Job, "until_stopped", until_stopped)
    with serving(tmp_path, roots=[pictures], settings={"batch_size": 1}) as http:
        with http.app.state.service.throttle.searching():
            job = http.post("/v1/insert", json={"source": pictures.name}).json()["id"]
            wait_until(lambda: http.get(f"/v1/jobs/{job}").json()["counts"], "the first image", 30)
        go.set()
        assert wait_for(http, job)["status"] == "done"


@pytest.mark.parametrize("share", [0, -1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ConfigError, match="insert_share must be a share from 0.01 to 1, got "):
        ServeOptions(insert_share=share)
