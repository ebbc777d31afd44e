"""Images from the web: what is tried again, what is not, and how much is asked at a time."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from web import one_after_another, send, serving

from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import address, read
from t2i_pipelines.images import fetch as door
from t2i_pipelines.images.fetch import fetch


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr("t2i_pipelines.images.fetch.FIRST_WAIT", 0.001)
    with serving() as server:
        yield server
        door._session().close()  # connections, not the session


def failing(status: int, **headers: str):
    return lambda request: send(request, status, b"no", **headers)


def good(request) -> None:
    send(request, 200, b"bytes")


def test_a_url_is_read_in_one_request_that_says_who_asks(web):
    web.pages["/a.png"] = b"bytes"
    assert read(f"{web.url}/a.png?size=1") == b"bytes"
    assert web.asked == {"/a.png": 1}
    assert web.headers["User-Agent"] == "t2i-pipelines/0.1.0"
    assert web.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(web, status):
    web.pages["/a.png"] = one_after_another(failing(status), good)
    assert read(f"{web.url}/a.png") == b"bytes"
    assert web.asked["/a.png"] == 2


def test_what_does_not_pass_fails_after_three_tries(web):
    web.pages["/a.png"] = failing(503)
    with pytest.raises(
        ImageDecodeError, match=f"^cannot read image {web.url}/a.png: status 503 Service Unavailable$"
    ):
        read(f"{web.url}/a.png")
    assert web.asked["/a.png"] == 3


@pytest.mark.parametrize(("status", "words"), [(404, "Not Found"), (403, "Forbidden"), (304, "Not Modified")])
def test_what_will_not_pass_is_not_tried_again(web, status, words):
    web.pages["/a.png"] = failing(status)
    with pytest.raises(ImageDecodeError, match=f"/a.png: status {status} {words}$"):
        read(f"{web.url}/a.png")
    assert web.asked["/a.png"] == 1


def test_the_server_says_how_long_to_wait(web, monkeypatch):
    slept = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    web.pages["/a.png"] = one_after_another(failing(429, Retry_After="7"), failing(503), good)
    assert read(f"{web.url}/a.png") == b"bytes"
    first, second = [seconds for seconds in slept if seconds]  # the server sleeps for no time
    assert first == 7
    assert 0.001 <= second <= 0.002


def test_a_server_that_asks_for_an_hour_is_not_waited_for(web):
    web.pages["/a.png"] = failing(429, Retry_After="3600")
    with pytest.raises(
        ImageDecodeError, match="status 429 Too Many Requests, and the server asks to wait 3,600 seconds$"
    ):
        read(f"{web.url}/a.png")
    assert web.asked["/a.png"] == 1


def test_a_retry_after_that_means_nothing_is_passed_over(web):
    web.pages["/a.png"] = one_after_another(failing(503, Retry_After="soon"), good)
    assert read(f"{web.url}/a.png") == b"bytes"


def test_nobody_there_is_named(web):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ImageDecodeError, match=f"http://127.0.0.1:{port}/a.png: Connection refused$"):
        read(f"http://127.0.0.1:{port}/a.png")


def broken_off(request) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "100")
    request.end_headers()
    request.wfile.write(b"half")
    request.close_connection = True


def hung_up(request) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)
    request.close_connection = True


@pytest.mark.parametrize("at_first", [broken_off, hung_up])
def test_an_answer_that_breaks_off_is_asked_for_again(web, at_first):
    web.pages["/a.png"] = one_after_another(at_first, good)
    assert read(f"{web.url}/a.png") == b"bytes"


def test_half_an_answer_is_no_picture(web):
    web.pages["/a.png"] = broken_off
    with pytest.raises(ImageDecodeError, match=r"/a\.png: IncompleteRead\(4 bytes read, 96 more expected\)$"):
        read(f"{web.url}/a.png")
    assert web.asked["/a.png"] == 3


def test_a_server_that_does_not_answer_in_time_is_named(web, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.images.fetch.TIMEOUT", 0.1)
    done = threading.Event()
    web.pages["/a.png"] = lambda request: done.wait(10)
    with pytest.raises(ImageDecodeError, match=r"/a\.png: no answer within 0\.1 seconds$"):
        read(f"{web.url}/a.png")
    done.set()
    assert web.asked["/a.png"] == 3


def drip_headers(request, done) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not done.wait(0.02):
        request.wfile.write(b".")


def drip_a_body(request, done) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000000")
    request.end_headers()
    while not done.wait(0.02):
        request.wfile.write(b".")


def drip_chunks(request, done) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"1;")
    while not done.wait(0.02):
        request.wfile.write(b"x")


def drip_interim_answers(request, done) -> None:
    while not done.wait(0.02):
        request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


DRIPS = [
    (drip_headers, "no answer"),
    (drip_interim_answers, "no answer"),
    (drip_a_body, "not complete"),
    (drip_chunks, "not complete"),
]


@pytest.mark.parametrize(("drip", "said"), DRIPS, ids=lambda one: getattr(one, "__name__", ""))
@pytest.mark.parametrize("redirected", [False, True], ids=["at once", "redirected"])
def test_a_server_that_drips_does_not_hold_a_thread(web, drip, said, redirected):
    """Each byte comes in time; the whole would take hours."""
    done = threading.Event()
    web.pages["/a.png"] = failing(302, Location="/b.png") if redirected else lambda one: drip(one, done)
    web.pages["/b.png"] = lambda request: drip(request, done)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(fetch, f"{web.url}/a.png", within=0.3)
        try:
            with pytest.raises(ImageDecodeError, match=rf"/a\.png: {said} within 0\.3 seconds$"):
                fetching.result(20)
        finally:
            done.set()


def test_each_try_of_an_insert_has_a_deadline(web, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.images.fetch.TIMEOUT", 0.3)
    done = threading.Event()
    web.pages["/a.png"] = one_after_another(lambda one: drip_headers(one, done), good)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(fetch, f"{web.url}/a.png")
        try:
            assert fetching.result(20) == b"bytes"
        finally:
            done.set()


def test_a_stream_may_take_longer_than_its_headers(web, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.images.fetch.TIMEOUT", 0.4)

    def slowly(request) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "8")
        request.end_headers()
        for _ in range(8):
            time.sleep(0.1)
            request.wfile.write(b".")

    web.pages["/a.tar"] = slowly
    with door.open_url(f"{web.url}/a.tar") as stream:
        assert stream.read() == b"." * 8


@pytest.mark.parametrize("status", [429, 503])
def test_who_waits_gets_one_try(web, status):
    web.pages["/a.png"] = lambda request: send(request, status, Retry_After="60")
    with pytest.raises(ImageDecodeError, match=rf"/a\.png: status {status} "):
        fetch(f"{web.url}/a.png", within=30.0)
    assert web.asked["/a.png"] == 1


def test_the_time_of_who_waits_is_for_redirects_and_the_hosts_turn_too(web, monkeypatch):
    done = threading.Event()

    def redirect(request):
        done.wait(0.2)
        send(request, 302, Location="/b.png")

    def hang_up(request):
        done.wait(20)
        request.close_connection = True

    web.pages["/a.png"], web.pages["/b.png"] = redirect, hang_up
    with pytest.raises(ImageDecodeError, match=r"/a\.png: no answer within 0\.5 seconds$"):
        fetch(f"{web.url}/a.png", within=0.5)
    monkeypatch.setattr("t2i_pipelines.images.fetch.HOST_LIMIT", 1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fetch, f"{web.url}/b.png", within=20.0)
        while web.asked["/b.png"] < 2:
            done.wait(0.01)
        with pytest.raises(ImageDecodeError, match="1 requests to its host wait for an answer already"):
            fetch(f"{web.url}/c.png", within=0.1)
        done.set()
        assert isinstance(first.exception(60), ImageDecodeError)
    assert web.asked["/c.png"] == 0


def test_a_picture_that_is_announced_as_too_large_is_not_loaded(web, monkeypatch):
    monkeypatch.setattr(address, "MAX_BYTES", 1000)
    web.pages["/a.png"] = broken_off_after(1001)
    with pytest.raises(
        ImageDecodeError,
        match=r"/a\.png: larger than the 1,000 bytes that an image from .*; insert it from a local",
    ):
        read(f"{web.url}/a.png")
    assert web.asked["/a.png"] == 1


def broken_off_after(announced: int):
    def answer(request) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(announced))
        request.end_headers()
        request.close_connection = True

    return answer


def test_a_picture_without_an_end_is_given_up_at_the_limit(web, monkeypatch):
    monkeypatch.setattr(address, "MAX_BYTES", 100_000)
    sent = []

    def endless(request) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        while sum(sent) < 50_000_000:
            request.wfile.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            sent.append(10_000)

    web.pages["/a.png"] = endless
    with pytest.raises(ImageDecodeError, match="larger than the 100,000 bytes"):
        read(f"{web.url}/a.png")
    assert sum(sent) < 50_000_000
    web.pages["/b.png"] = b"x" * 100_000
    assert len(read(f"{web.url}/b.png")) == 100_000


def test_redirects_are_followed_and_counted(web):
    web.pages["/a.png"] = failing(302, Location="b%20c.png")
    web.pages["/b%20c.png"] = failing(301, Location=f"{web.url}/d.png")
    web.pages["/d.png"] = b"bytes"
    assert read(f"{web.url}/a.png") == b"bytes"
    web.pages["/loop.png"] = failing(302, Location="/loop.png")
    with pytest.raises(ImageDecodeError, match=r"/loop\.png: more than 5 redirects$"):
        read(f"{web.url}/loop.png")
    assert web.asked["/loop.png"] == 6


@pytest.mark.parametrize("target", ["http://[x/", "http://127.0.0.1:99999/"])
def test_a_redirect_to_no_valid_url_is_that_images_failure(web, target):
    web.pages["/a.png"] = failing(302, Location=target)
    with pytest.raises(ImageDecodeError, match=r"/a\.png: .*not a valid URL"):
        read(f"{web.url}/a.png")


def test_a_redirect_leads_to_no_file(web, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    web.pages["/a.png"] = failing(302, Location=f"file://{tmp_path}/secret.png")
    with pytest.raises(ImageDecodeError, match=r"redirected to 'file://.*', which is not http\(s\)://"):
        read(f"{web.url}/a.png")


def test_a_host_gets_no_more_requests_at_a_time_than_it_may_bear(web, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.images.fetch.HOST_LIMIT", 3)
    web.pause = 0.02
    web.pages = {f"/{n}.png": b"%d" % n for n in range(20)}
    with ThreadPoolExecutor(20) as callers:
        found = list(callers.map(read, [f"{web.url}/{n}.png" for n in range(20)]))
    assert found == [b"%d" % n for n in range(20)]
    assert web.peak == 3
    assert door._hosts == {}


def test_two_hosts_do_not_wait_for_each_other(web, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.images.fetch.HOST_LIMIT", 1)
    held, asked = threading.Event(), threading.Event()

    def hold(request) -> None:
        asked.set()
        held.wait(10)
        good(request)

    web.pages = {"/held.png": hold, "/free.png": b"bytes"}
    with serving() as other, ThreadPoolExecutor(1) as callers:
        other.pages["/free.png"] = b"bytes"
        waiting = callers.submit(read, f"{web.url}/held.png")
        asked.wait(10)
        assert read(f"{other.url}/free.png") == b"bytes"
        assert not waiting.done()
        held.set()
        assert waiting.result() == b"bytes"


def test_cookies_are_not_kept(web):
    web.pages["/a.png"] = lambda request: send(request, 200, b"bytes", Set_Cookie="a=b")
    read(f"{web.url}/a.png")
    read(f"{web.url}/a.png")
    assert "Cookie" not in web.headers


def test_an_empty_answer_is_no_picture(web):
    web.pages["/a.png"] = b""
    with pytest.raises(ImageDecodeError, match=f"{web.url}/a.png: the file is empty"):
        read(f"{web.url}/a.png")


def test_no_url_is_an_error_of_ours():
    with pytest.raises(ImageDecodeError, match="cannot read image http://: "):
        read("http://")
