"""Each way in which Towhee 1.1.3 hangs is reproduced bare, and gone once the pipeline is hardened."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from t2i_pipelines import harden
from t2i_pipelines._towhee import hardening
from t2i_pipelines._towhee.door import Pipeline, RuntimePipeline, ops, pipe, register
from t2i_pipelines.errors import ConfigError, QueryError, UnknownOperatorError

HUNG = 42

# Run in a process of its own, since a hung pipeline can never be ended from within.
TRAPS = """
import os, sys, threading, time
os.cpu_count = lambda: 1                      # Towhee's default pool is cpu_count() + 4: five threads
from t2i_pipelines import harden
from t2i_pipelines._towhee.door import pipe

def maps(p, start, n):
    for i in range(n):
        p = p.map(start if i == 0 else f"m{i}", f"m{i + 1}", lambda x: x)
    return p.output(f"m{n}")

def boom(x):
    if x == 1500:
        time.sleep(1)                         # by now the producer waits for room
        raise KeyError("boom")
    return x

def deep():
    p = maps(pipe.input("n").flat_map("n", "i", lambda n: range(n)), "i", 8)
    return p, lambda p: p(20_000).size == 20_000

def nested():
    inner = pipe.input("x").map("x", "y", lambda x: x + 1).output("y")
    p = maps(pipe.input("a").map("a", "b", inner), "b", 8)
    return p, lambda p: p(1).get() == [2]

def callers():
    p, _ = nested()
    def all_at_once(p):
        results = []
        call = lambda: results.append(p(1).get())
        threads = [threading.Thread(target=call, daemon=True) for _ in range(32)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        return results == [[2]] * 32
    return p, all_at_once

def failing_consumer():
    p = maps(pipe.input("n").flat_map("n", "i", lambda n: range(n)).map("i", "j", boom), "j", 1)
    def fails(p):
        try:
            p(20_000)
        except RuntimeError as err:
            return "boom" in str(err)
    return p, fails

name, hardened = sys.argv[1], sys.argv[2] == "hardened"
pipeline, run = globals()[name]()
if hardened:
    pipeline = harden(pipeline)
ended = []
worker = threading.Thread(target=lambda: ended.append(run(pipeline)), daemon=True)
worker.start()
worker.join(60 if hardened else 5)
os._exit(42 if worker.is_alive() else 0 if ended == [True] else 1)
"""


def run_trap(name: str, how: str) -> int:
    return subprocess.run([sys.executable, "-c", TRAPS, name, how], check=False, timeout=90).returncode


@pytest.mark.slow
@pytest.mark.parametrize("trap", ["deep", "nested", "callers", "failing_consumer"])
def test_a_pipeline_that_hangs_in_towhee_ends_once_it_is_hardened(trap):
    assert run_trap(trap, "bare") == HUNG, "the trap is no longer there: the cure may be dropped"
    assert run_trap(trap, "hardened") == 0


def one_step(fn) -> RuntimePipeline:
    return harden(pipe.input("x").map("x", "y", fn).output("y"))


def test_a_hardened_pipeline_is_towhees_own_and_can_be_nested_in_another():
    inner = one_step(lambda x: x + 1)
    assert isinstance(inner, RuntimePipeline)
    outer = harden(pipe.input("a").map("a", "b", inner).map("b", "c", lambda b: b * 2).output("c"))
    assert outer(3).get() == [8]


def test_hardening_twice_changes_nothing():
    once = one_step(lambda x: x)
    assert harden(once) is once


@pytest.mark.slow
def test_more_callers_than_threads_are_all_answered():
    pipeline = harden(pipe.input("n").flat_map("n", "i", range).map("i", "j", lambda i: i + 1).output("j"))
    with ThreadPoolExecutor(100) as callers:
        sizes = list(callers.map(lambda n: pipeline(n).size, [2000] * 100))
    assert sizes == [2000] * 100


class _SlowPool(ThreadPoolExecutor):
    """Notes who hands in work, and takes its time, so that two who hand in at once would interleave."""

    def __init__(self) -> None:
        super().__init__(16)
        self.handed_in_by: list[int] = []

    def submit(self, *work):
        self.handed_in_by.append(threading.get_ident())
        time.sleep(0.005)
        return super().submit(*work)


def test_a_call_hands_in_all_its_nodes_before_another_does():
    pipeline = harden(pipe.input("x").flat_map("x", "y", lambda x: [x]).output("y"))
    pipeline._pools[os.getpid()] = pool = _SlowPool()
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(pipeline, range(4)))
    runs = [len(list(group)) for _, group in itertools.groupby(pool.handed_in_by)]
    assert len(pool.handed_in_by) == 12
    assert all(length % 3 == 0 for length in runs), "three nodes a call, never mixed"


def test_an_error_of_ours_arrives_as_itself():
    def refuse(x):
        raise QueryError(f"not this: {x}")

    with pytest.raises(QueryError, match="not this: 7"):
        one_step(refuse)(7)


def test_an_error_of_a_users_function_is_the_cause_of_towhees():
    with pytest.raises(RuntimeError, match="runs failed") as caught:
        one_step(lambda x: {}[x])("missing")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_generator_that_fails_on_the_way_is_reported_too():
    def rows(n):
        yield n
        raise QueryError("the second row is bad")

    with pytest.raises(QueryError, match="the second row is bad"):
        harden(pipe.input("n").flat_map("n", "i", rows).output("i"))(1)


def test_a_pipeline_works_again_after_an_error():
    pipeline = one_step(lambda x: 1 / x)
    with pytest.raises(RuntimeError):
        pipeline(0)
    assert pipeline(2).get() == [0.5]


def test_a_batch_of_inputs_keeps_its_order():
    assert [queue.get() for queue in one_step(lambda x: x * x).batch([1, 2, 3])] == [[1], [4], [9]]


def test_debugging_with_a_profiler_still_works():
    assert one_step(lambda x: x).debug(5, profiler=True).result.get() == [5]


@pytest.mark.parametrize("steps", [1, 2], ids=["flat", "mapped"])
@pytest.mark.parametrize("many", [False, True], ids=["call", "batch"])
def test_a_generator_is_read_as_far_as_it_is_used(many, steps):
    read = []

    def numbers():
        for number in range(100):
            read.append(number)
            yield number

    def first(numbers):
        return list(itertools.islice(numbers, 3))

    chain = pipe.input("numbers").map("numbers", "found", first)
    p = harden(
        (chain if steps == 1 else chain.flat_map("found", "found", lambda found: found)).output("found")
    )
    result = p.batch([numbers()])[0] if many else p(numbers())
    assert [result.get() for _ in range(result.size)] == ([[[0, 1, 2]]] if steps == 1 else [[0], [1], [2]])
    assert read == [0, 1, 2]


def test_the_wrong_number_of_inputs_is_named():
    with pytest.raises(ConfigError, match=r"takes 1 input\(s\), x; got 2"):
        one_step(lambda x: x)(1, 2)


def test_only_a_closed_pipeline_can_be_hardened():
    assert isinstance(pipe.input("x"), Pipeline)
    with pytest.raises(ConfigError, match=r"the result of \.output\(\.\.\.\); got Pipeline"):
        harden(pipe.input("x"))


class _Counted:
    """Counts how many of its kind are alive."""

    alive = 0
    peak = 0
    lock = threading.Lock()

    def __init__(self) -> None:
        with _Counted.lock:
            _Counted.alive += 1
            _Counted.peak = max(_Counted.peak, _Counted.alive)

    def __del__(self) -> None:
        with _Counted.lock:
            _Counted.alive -= 1


@register(name="t2i-test/make")
class _Make:
    in_flight = 1

    def __call__(self, number):
        return _Counted()


@register(name="t2i-test/slow")
class _Slow:
    def __call__(self, item):
        time.sleep(0.005)
        return 0


def test_a_fast_operator_waits_for_a_slow_one():
    steps = pipe.input("n").flat_map("n", "i", lambda n: range(n)).map("i", "item", ops.t2i_test.make())
    pipeline = harden(steps.map("item", "done", ops.t2i_test.slow()).output("done"))
    _Counted.peak = 0
    assert pipeline(100).size == 100
    # one being made, one waiting, one being worked on, and one that the queue lets through at a time
    assert _Counted.peak <= 4


def test_an_unknown_operator_is_refused_without_asking_a_hub(monkeypatch):
    import requests

    def no_network(*_: object, **__: object):
        raise AssertionError("a hub was asked")

    monkeypatch.setattr(requests, "get", no_network)
    with pytest.raises(RuntimeError, match="no operator 'nobody/knows' is registered here"):
        pipe.input("x").map("x", "y", ops.nobody.knows()).output("y")


def test_hardening_checks_every_name(monkeypatch):
    from t2i_pipelines._towhee.door import OperatorRegistry

    pipeline = pipe.input("x").map("x", "y", ops.t2i_test.slow()).output("y")
    monkeypatch.delitem(OperatorRegistry.REGISTRY, "t2i-test/slow")
    with pytest.raises(UnknownOperatorError, match="no operator 't2i-test/slow' is registered here"):
        harden(pipeline)


@pytest.mark.parametrize("many", [False, True], ids=["call", "batch"])
@pytest.mark.parametrize("moment", ["async_call", "result"])
def test_ctrl_c_leaves_no_node_at_work_whenever_it_comes(monkeypatch, many, moment):
    worked = []

    def interrupted(call, *inputs):
        if moment == "async_call":
            handed_in(call, *inputs)
        raise KeyboardInterrupt

    handed_in = hardening._Call.async_call
    monkeypatch.setattr(hardening._Call, moment, interrupted)
    steps = pipe.input("n").flat_map("n", "i", range)
    p = harden(steps.map("i", "j", lambda i: (time.sleep(0.001), worked.append(i))).output("j"))
    with pytest.raises(KeyboardInterrupt):
        p.batch([20_000, 20_000]) if many else p(20_000)
    done = len(worked)
    p._thread_pool.shutdown(wait=True)
    assert len(worked) == done < 20_000


@pytest.mark.slow
def test_ctrl_c_stops_the_nodes():
    script = (
        "import signal, time, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # tests in the background ignore it
        "from t2i_pipelines import harden\n"
        "from t2i_pipelines._towhee.door import pipe\n"
        "steps = pipe.input('n').flat_map('n', 'i', range)\n"
        "p = harden(steps.map('i', 'j', lambda i: time.sleep(0.01)).output('j'))\n"
        "print('go', flush=True)\n"
        "try:\n"
        "    p(100_000)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"go\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    process.stdout.close()
