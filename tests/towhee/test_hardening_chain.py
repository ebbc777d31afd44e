"""A chain of maps runs in the thread of its caller; anything else in threads of its own."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from t2i_pipelines import harden
from t2i_pipelines._towhee.door import SharedType, ops, pipe, register
from t2i_pipelines.errors import ConfigError, QueryError


def where(value):
    return (*value, threading.current_thread().name)


def test_the_maps_of_a_chain_take_turns_in_the_callers_thread():
    steps = (
        pipe.input("x").map("x", "y", where).map("y", "y", where).map(("x", "y"), "z", lambda x, y: (x, y))
    )
    chain = harden(steps.output("x", "z"))
    here = threading.current_thread().name
    assert chain(("start",)).get() == [("start",), (("start",), ("start", here, here))]
    assert chain(("again",)).to_list(kv_format=True) == [
        {"x": ("again",), "z": (("again",), ("again", here, here))}
    ]


def test_what_makes_several_rows_or_branches_runs_in_threads():
    flat = harden(pipe.input("x").flat_map("x", "y", lambda x: x).map("y", "y", where).output("y"))
    rows = [row[0] for row in flat([("a",), ("b",)]).to_list()]
    assert [row[0] for row in rows] == ["a", "b"]
    assert all(row[1].startswith("t2i-pipeline") for row in rows)
    start = pipe.input("x")
    left, right = start.map("x", "l", where), start.map("x", "r", where)
    branched = harden(left.concat(right).output("l", "r"))
    found = branched(("a",)).get()
    assert all(one[0] == "a" and one[1].startswith("t2i-pipeline") for one in found)


def test_a_generator_in_a_chain_is_read_to_its_end():
    chain = harden(pipe.input("n").map("n", "all", lambda n: (one for one in range(n))).output("all"))
    assert chain(3).get() == [[0, 1, 2]]


def test_an_error_in_a_chain_arrives_as_itself_and_the_next_call_is_not_touched():
    def work(value):
        if value == "bad":
            raise QueryError("no good")
        if value == "odd":
            raise KeyError("what")
        return value

    chain = harden(pipe.input("x").map("x", "x", work).map("x", "x", str.upper).output("x"))
    with pytest.raises(QueryError, match="^no good$"):
        chain("bad")
    with pytest.raises(RuntimeError, match="what") as caught:
        chain("odd")
    assert isinstance(caught.value.__cause__, KeyError)
    assert chain("good").get() == ["GOOD"]


def test_ctrl_c_in_a_chain_ends_it_at_once():
    def interrupted(value):
        raise KeyboardInterrupt

    chain = harden(pipe.input("x").map("x", "x", interrupted).map("x", "x", where).output("x"))
    with pytest.raises(KeyboardInterrupt):
        chain("a")


def test_chains_nest_and_run_in_many_threads():
    inner = harden(pipe.input("x").map("x", "x", lambda x: x + 1).output("x"))
    outer = harden(pipe.input("x").map("x", "x", lambda x: inner(x).get()[0]).map("x", "x", str).output("x"))
    found = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: outer(n).get()[0]})) for n in range(32)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert found == {n: str(n + 1) for n in range(32)}


def test_a_batch_of_calls_still_runs_side_by_side():
    meeting = threading.Barrier(2, timeout=30)
    chain = harden(pipe.input("x").map("x", "x", lambda x: meeting.wait() >= 0 and x).output("x"))
    assert [one.get() for one in chain.batch(["a", "b"])] == [["a"], ["b"]]


def test_an_input_that_is_none_is_refused_where_towhee_gives_nothing():
    steps = pipe.input("a", "b").map("a", "c", lambda a: a).output("c")
    assert steps(1, None).size == 0
    with pytest.raises(ConfigError, match="b must not be None: Towhee takes that for a call without input"):
        harden(steps)(1, None)
    several = harden(pipe.input("a").flat_map("a", "b", lambda a: a).output("b"))
    with pytest.raises(ConfigError, match="a must not be None"):
        several(None)


def pairs(n):
    for one in range(n):
        yield one, -one


CHAINS = {
    "columns side by side": lambda p: (
        p.map("a", "c", lambda a: a + 1).map(("c", "b"), "d", max).output("b", "d")
    ),
    "a column written again": lambda p: p.map("a", "a", lambda a: a * 2).map("a", "a", str).output("a", "b"),
    "two results": lambda p: p.map("a", ("c", "d"), lambda a: (a, -a)).output("d", "c"),
    "a result of which only one is used": lambda p: p.map("a", ("c", "d"), lambda a: (a, None)).output("c"),
    "no result": lambda p: p.map("a", (), lambda a: a).output("a"),
    "no argument": lambda p: p.map((), "c", lambda: 5).output("c", "a"),
    "None, which ends the row": lambda p: p.map("a", "c", lambda a: None).map("c", "d", str).output("c", "d"),
    "None, on which nothing works": lambda p: p.map("a", "c", lambda a: None).map("c", "d", abs).output("d"),
    "nothing is carried on": lambda p: p.map("a", "c", str).map((), "d", lambda: 5).output("d"),
    "None, which nobody asks for": lambda p: p.map("a", "c", lambda a: None).map("a", "d", str).output("d"),
    "one of two is None": lambda p: p.map("a", ("c", "d"), lambda a: (a, None)).output("c", "d"),
    "a generator": lambda p: p.map("a", "c", lambda a: (n for n in range(a))).output("c"),
    "a generator of pairs": lambda p: p.map("a", ("c", "d"), pairs).output("c", "d"),
    "nothing but input": lambda p: p.output("b", "a"),
    "no output": lambda p: p.map("a", "c", lambda a: a).output(),
    "false and empty values": lambda p: p.map("a", "c", lambda a: []).map("c", "d", len).output("c", "d"),
    "an operator": lambda p: (
        p.map(("a", "b"), "v", lambda a, b: np.array([a, b]))
        .map("v", "v", ops.t2i.normalize())
        .map("v", "v", lambda v: v.tolist())
        .output("v")
    ),
    "too few results": lambda p: p.map("a", ("c", "d"), lambda a: (a,)).output("d"),
    "an error": lambda p: p.map("a", "c", lambda a: a / 0).output("c"),
}


@pytest.mark.parametrize("build", CHAINS.values(), ids=CHAINS)
def test_a_chain_gives_what_towhee_gives(build):
    def outcome(pipeline):
        try:
            queue = pipeline(3, 4)
            return queue.schema, queue.type_schema, queue.size, queue.sealed, queue.to_list(kv_format=True)
        except RuntimeError as err:
            return str(err).split("Traceback")[0].split(", ")[0]

    theirs, ours = build(pipe.input("a", "b")), harden(build(pipe.input("a", "b")))
    assert ours._chain is not None
    assert outcome(ours) == outcome(theirs)


def test_an_operator_that_cannot_be_shared_is_lent_to_one_call_at_a_time():
    busy, wrong, made = set(), [], []

    @register(name="test/alone")
    class Alone:
        shared_type = SharedType.NotShareable

        def __init__(self):
            made.append(self)

        def __call__(self, value):
            if id(self) in busy:
                wrong.append(value)
            busy.add(id(self))
            time.sleep(0.005)
            busy.discard(id(self))
            if value == 3:
                raise QueryError("three")
            return value

    chain = harden(pipe.input("x").map("x", "x", ops.test.alone()).output("x"))

    def ask(value):
        try:
            return chain(value).get()[0]
        except QueryError as err:
            return str(err)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(1, 9))) == [1, 2, "three", 4, 5, 6, 7, 8]
        assert len(made) <= 8
        list(threads.map(ask, range(10, 90)))
    assert wrong == []
    assert len(made) <= 8, "each goes back when its call is over, also when that failed"


def test_a_filter_is_no_chain():
    def build():
        return pipe.input("a").filter("a", "b", "a", lambda a: a > 2).map("b", "b", str).output("b")

    for given in (1, 3):
        assert harden(build())(given).to_list() == build()(given).to_list()


def test_debugging_a_chain_still_works():
    chain = harden(pipe.input("x").map("x", "y", lambda x: x + 1).output("y"))
    found = chain.debug(1, tracer=True, profiler=True)
    assert found.result.get() == [2]
    assert [node for node in found.tracer.nodes if node.startswith("lambda")] == ["lambda-0"]
    assert found.profiler is not None
