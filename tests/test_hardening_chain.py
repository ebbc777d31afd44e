"""A chain of maps runs in the thread of its caller; anything else in threads of its own."""

import threading

import pytest

from t2i_pipelines import harden
from t2i_pipelines._towhee import pipe
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


def test_no_input_at_all_is_refused():
    chain = harden(pipe.input("a", "b").map(("a", "b"), "c", lambda a, b: a or b).output("c"))
    with pytest.raises(ConfigError, match="a, b must not be None: Towhee takes that for no input at all"):
        chain(None, None)
