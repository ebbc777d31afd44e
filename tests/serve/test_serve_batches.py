"""Queries that come together are searched together, and each gets its own answer."""

import asyncio
import threading

import pytest
from conftest import COLOURS
from serving import names, search, serving

from t2i_pipelines import Searcher, build_insert_pipeline
from t2i_pipelines.errors import ConfigError, EncodeError, QueryError, StoreUnavailableError
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.serve.batches import Batches
from t2i_pipelines.serve.metrics import Metrics
from t2i_pipelines.serve.problems import Refusal


class Engine:
    """Answers each query with itself; may be made to wait.

    :ivar calls: what was searched for at once, with which options.
    """

    def __init__(self, fail=None):
        self.calls, self.fail = [], fail or (lambda queries: None)
        self.go, self.inside = threading.Event(), threading.Semaphore(0)
        self.go.set()

    def __call__(self, queries, options):
        self.inside.release()
        self.go.wait(60)
        self.calls.append((queries, options))
        self.fail(queries)
        return [Hits(query=query) for query in queries]


def run(engine, scenario, *, size=32, wait=0.0, limit=100):
    """Run ``scenario(batches)``, drain, and give what it returned."""

    async def whole():
        batches = Batches(engine, Metrics(), size=size, wait=wait, limit=limit)
        batches.start()
        try:
            return await asyncio.wait_for(scenario(batches), 60)
        finally:
            engine.go.set()
            await asyncio.wait_for(batches.drain(), 60)

    return asyncio.run(whole())


def while_busy(engine, *asked, **options):
    """Ask for each while the engine is busy with something else, and then let it go on."""

    async def scenario(batches):
        engine.go.clear()
        first = asyncio.create_task(batches.find(["first"], {}))
        await asyncio.to_thread(engine.inside.acquire)
        others = [asyncio.create_task(batches.find(queries, given)) for queries, given in asked]
        await asyncio.sleep(0)
        engine.go.set()
        await first
        return await asyncio.gather(*others, return_exceptions=True)

    found = run(engine, scenario, **options)
    assert engine.calls.pop(0) == (["first"], {})
    return found


def test_what_waits_is_searched_at_once_and_each_gets_its_own():
    engine = Engine()
    found = while_busy(
        engine, *[([f"query {n}"], {"limit": 3}) for n in range(5)], (["a", "b"], {"limit": 3})
    )
    assert engine.calls == [(["query 0", "query 1", "query 2", "query 3", "query 4", "a", "b"], {"limit": 3})]
    assert [[hits.query for hits in one] for one in found] == [
        *[[f"query {n}"] for n in range(5)],
        ["a", "b"],
    ]


def test_other_options_are_another_search_in_the_order_of_asking():
    engine = Engine()
    while_busy(
        engine, (["a"], {"limit": 3}), (["b"], {"limit": 4}), (["c"], {"limit": 3}), (["d"], {"limit": 4})
    )
    assert engine.calls == [(["a", "c"], {"limit": 3}), (["b", "d"], {"limit": 4})]


@pytest.mark.parametrize("costly", [{"diversity": 0.5}, {"collapse": 0.9}, {"collapse": 0}], ids=str)
def test_queries_whose_hits_are_compared_are_searched_one_by_one_and_others_come_between(costly):
    engine = Engine()
    found = while_busy(engine, (["a", "b", "c"], costly), (["d", "e"], {}), (["f"], {"limit": 3}))
    assert engine.calls == [
        (["a"], costly),
        (["d", "e"], {}),
        (["b"], costly),
        (["f"], {"limit": 3}),
        (["c"], costly),
    ]
    assert [[hits.query for hits in one] for one in found] == [["a", "b", "c"], ["d", "e"], ["f"]]


def test_options_that_compare_no_hits_keep_queries_together():
    engine, plain = Engine(), {"diversity": 0, "collapse": None}
    while_busy(engine, (["a", "b", "c"], plain))
    assert engine.calls == [(["a", "b", "c"], plain)]


def test_what_is_only_embedded_waits_with_searches_and_does_not_join_them():
    engine = Engine()
    found = while_busy(engine, (["a"], None), (["b"], {}), (["c"], None))
    assert engine.calls == [(["a", "c"], None), (["b"], {})]
    assert [[hits.query for hits in one] for one in found] == [["a"], ["b"], ["c"]]


def test_a_batch_is_no_larger_than_it_may_be():
    engine = Engine()
    while_busy(engine, *[([n], {}) for n in range(5)], size=2)
    assert [queries for queries, _ in engine.calls] == [[0, 1], [2, 3], [4]]
    engine = Engine()
    while_busy(engine, *[([n], {}) for n in range(3)], size=1)
    assert [queries for queries, _ in engine.calls] == [[0], [1], [2]]


async def one_after_another(batches, names, pause=0.01):
    """Ask for each some time after the one before, whether that is answered or not."""

    async def later(n, name):
        await asyncio.sleep(pause * n)
        return await batches.find([name], {})

    return await asyncio.gather(*(later(n, name) for n, name in enumerate(names)))


def test_as_many_as_were_answered_are_waited_for():
    engine = Engine()

    async def scenario(batches):
        await batches.find(["a", "b", "c"], {})
        began = asyncio.get_running_loop().time()
        await one_after_another(batches, ["d", "e", "f"])
        return asyncio.get_running_loop().time() - began

    assert run(engine, scenario, wait=30.0) < 20  # it did not wait for a fourth
    assert [queries for queries, _ in engine.calls] == [["a", "b", "c"], ["d", "e", "f"]]


def test_a_fault_between_two_searches_is_logged_and_ends_those_that_wait_alone(monkeypatch, caplog):
    engine = Engine()

    async def scenario(batches):
        with monkeypatch.context() as broken:
            broken.setattr(batches, "_take", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await batches.find(["a"], {})
        return await batches.find(["b"], {})

    (found,) = run(engine, scenario)
    assert found.query == "b"
    assert "searches were given up" in caplog.text


def test_clients_that_take_turns_come_together():
    """What waited while others were searched for waits for these to ask again."""
    engine = Engine()

    async def scenario(batches):
        engine.go.clear()
        some = asyncio.create_task(batches.find(["a", "b"], {}))
        await asyncio.to_thread(engine.inside.acquire)
        others = asyncio.create_task(batches.find(["c", "d"], {}))
        await asyncio.sleep(0.6)  # longer than they would wait while nothing is searched for
        engine.go.set()
        await some
        await asyncio.gather(others, batches.find(["e", "f"], {}))

    run(engine, scenario, wait=0.5)
    assert [queries for queries, _ in engine.calls] == [["a", "b"], ["c", "d", "e", "f"]]


def test_those_that_do_not_come_are_waited_for_once_and_not_for_long():
    engine = Engine()

    async def scenario(batches):
        await batches.find(["a", "b", "c"], {})
        await batches.find(["d"], {})
        await one_after_another(batches, ["e", "f"], pause=0.3)

    run(engine, scenario, wait=0.05)
    assert [queries for queries, _ in engine.calls] == [["a", "b", "c"], ["d"], ["e"], ["f"]]


@pytest.mark.parametrize("error", [QueryError, EncodeError])
@pytest.mark.parametrize("bad", [{3}, {0, 6}, set(range(7))], ids=str)
def test_a_bad_query_does_not_spoil_the_others(error, bad):
    def fail(queries):
        if bad & set(queries):
            raise error(f"bad: {sorted(bad & set(queries))}")

    found = while_busy(Engine(fail), *[([n], {}) for n in range(7)])
    for n, one in enumerate(found):
        if n in bad:
            assert isinstance(one, error)
            assert str(one) == f"bad: [{n}]"
        else:
            assert one[0].query == n


@pytest.mark.parametrize("error", [StoreUnavailableError, ConfigError, RuntimeError])
def test_what_is_nobodys_fault_is_told_to_all_and_not_tried_again(error):
    def fail(queries):
        if "first" not in queries:
            raise error("down")

    engine = Engine(fail)
    found = while_busy(engine, *[([n], {}) for n in range(4)])
    assert [type(one) for one in found] == [error] * 4
    assert len(engine.calls) == 1


def test_it_goes_on_after_an_error():
    def fail(queries):
        if queries == ["bad"]:
            raise StoreUnavailableError("down")

    async def scenario(batches):
        with pytest.raises(StoreUnavailableError):
            await batches.find(["bad"], {})
        return await batches.find(["good"], {})

    assert run(Engine(fail), scenario)[0].query == "good"


def test_too_many_are_told_when_to_try_again_and_those_before_are_answered():
    engine = Engine()
    found = while_busy(engine, (["a", "b"], {}), (["c", "d"], {}), (["e"], {}), limit=3)
    assert [hits.query for hits in found[0]] == ["a", "b"]
    refused = found[1]
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (429, "too_busy")
    assert refused.detail.startswith("2 queries are waiting already, of at most 3; try again in ")
    assert int(refused.headers["Retry-After"]) >= 1
    assert found[2][0].query == "e"  # there was still room for one


def test_the_end_answers_what_waits_and_lets_in_no_more():
    engine = Engine()

    async def scenario(batches):
        engine.go.clear()
        waiting = [asyncio.create_task(batches.find([n], {"limit": n + 1})) for n in range(3)]
        await asyncio.to_thread(engine.inside.acquire)
        ending = asyncio.create_task(batches.drain())
        await asyncio.sleep(0)
        with pytest.raises(Refusal):
            await batches.find(["late"], {})
        engine.go.set()
        await ending
        return [one.result()[0].query for one in waiting]

    assert run(engine, scenario) == [0, 1, 2]


def test_whose_client_has_gone_is_not_searched_for():
    engine = Engine()

    async def scenario(batches):
        engine.go.clear()
        first = asyncio.create_task(batches.find(["first"], {}))
        await asyncio.to_thread(engine.inside.acquire)
        gone, stays = (asyncio.create_task(batches.find([name], {})) for name in ("gone", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        engine.go.set()
        await asyncio.gather(first, stays)

    run(engine, scenario)
    assert [queries for queries, _ in engine.calls] == [["first"], ["stays"]]


def test_whose_client_has_gone_makes_room():
    engine = Engine()

    async def scenario(batches):
        engine.go.clear()
        first = asyncio.create_task(batches.find(["first"], {}))
        await asyncio.to_thread(engine.inside.acquire)
        gone = asyncio.create_task(batches.find(["a", "b"], {}))
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="2 queries are waiting already"):
            batches.check_room(1)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        batches.check_room(2)
        engine.go.set()
        await first

    run(engine, scenario, limit=2)


def test_many_clients_at_once_get_what_a_searcher_finds(tmp_path, pictures, settings):
    build_insert_pipeline(**settings)(str(pictures))
    wanted = {name: [hit.id for hit in Searcher(**settings)(f"{name} and many others")] for name in COLOURS}
    found, wrong = {}, []
    with serving(tmp_path, roots=[pictures], batch_wait=0.2) as http:
        before = counts(http)

        def ask(name):
            try:
                for _ in range(3):
                    found[name] = [hit["id"] for hit in search(http, text=f"{name} and many others")]
            except AssertionError as err:
                wrong.append(err)

        threads = [threading.Thread(target=ask, args=(name,)) for name in COLOURS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        after = counts(http)
        assert names(search(http, text="red", limit=1)) == ["red"]
    assert (found, wrong) == (wanted, [])
    queries, batches = (now - then for now, then in zip(after, before, strict=True))
    assert queries == 3 * len(COLOURS)
    assert batches < queries


def counts(http):
    """Queries and batches so far."""
    size = http.app.state.service.metrics.batch_size
    return size._sum.get(), sum(bucket.get() for bucket in size._buckets)
