"""The benchmark of the service: its table and verdicts from made-up loads, and what a soak lets pass."""

import os
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.serve import kept_table, kept_verdicts, placed
from benchmarks.serve_client import Load
from benchmarks.soak import Answer, Database, Soak

ROOT = Path(__file__).parents[2]


def load(milliseconds, count=100, refused=0):
    return Load([milliseconds / 1e3] * count, Counter({200: count, 429: refused}), [], lasted=2.0)


def loads(alone=5.0, eight=200, refused=0):
    return {
        1: {"before": load(50.0, 40), "after": load(alone, 400)},
        8: {"before": load(60.0), "after": load(20.0, eight, refused)},
    }


def test_the_table_has_a_line_for_each_number_of_clients():
    assert kept_table(loads(refused=3)).splitlines() == [
        "| clients | searches/s | p50, ms | p95, ms | p99, ms | errors | times the rate |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| 1 | 20 → 200 | 50.0 → 5.0 | 50.0 → 5.0 | 50.0 → 5.0 | 0 → 0 | 10.0 |",
        "| 8 | 50 → 100 | 60.0 → 20.0 | 60.0 → 20.0 | 60.0 → 20.0 | 0 → 3 | 2.0 |",
    ]


def test_without_another_checkout_there_is_nothing_to_compare():
    one = {clients: {"after": sides["after"]} for clients, sides in loads().items()}
    assert kept_table(one).splitlines()[2] == "| 1 | 200 | 5.0 | 5.0 | 5.0 | 0 |  |"
    assert kept_verdicts(one)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [({}, []), ({"alone": 10.1}, ["p50"]), ({"eight": 199}, ["rate"]), ({"refused": 1}, ["errors"])],
)
def test_each_target_can_be_missed(changed, missed, capsys):
    assert kept_verdicts(loads(**changed)) is (not missed)
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0].rstrip(":") for line in told if line.endswith("missed")] == missed


def test_the_table_goes_to_its_place_in_the_document():
    document = (ROOT / "docs/benchmarks/serve.md").read_text()
    once = placed(document, r"| a \1 |")
    assert "<!-- measured -->\n| a \\1 |\n<!-- end -->" in once
    assert placed(once, "| b |").count("| a") == 0
    with pytest.raises(AssertionError, match="no place"):
        placed("# A page", "| a |")


@pytest.fixture
def soak(tmp_path):
    return Soak(0, os.getpid(), 1.0, tmp_path, Database("memory://"))


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (Answer("words", 503, 11.0, 12.0), True),
        (Answer("words", 503, 9.0, 10.5), True),
        (Answer("job", "failed", 9.0, 40.0), True),
        (Answer("words", 503, 1.0, 2.0), False),
        (Answer("words", 503, 21.0, 22.0), False),
        (Answer("words", 500, 11.0, 12.0), False),
        (Answer("words", 0, 11.0, 12.0), False),
        (Answer("job", "hangs", 9.0, 40.0), False),
    ],
)
def test_a_soak_lets_503_pass_while_milvus_is_away_and_nothing_else(soak, answer, passes):
    soak.away = (10.0, 20.0)
    soak.wrong = [answer]
    assert soak.unexpected == ([] if passes else [answer])
    soak.away = None
    assert soak.unexpected == [answer]


def test_memory_is_the_median_of_a_share_of_the_time(soak):
    soak.held = {0.0: 900.0, 9.0: 100.0, 9.5: 120.0, 10.0: 110.0, 55.0: 200.0}
    assert soak.memory(4 / 30, 5 / 30) == 110.0
    assert soak.memory(0.9, 1.0) == 200.0


@pytest.mark.parametrize(
    ("kind", "status"), [("wrong", 422), ("insert", 202), ("job", "done"), ("file", 200)]
)
def test_each_kind_of_request_has_its_right_answer(kind, status):
    assert Answer(kind, status, 0.0, 1.0).is_right
    assert not Answer(kind, 500, 0.0, 1.0).is_right
