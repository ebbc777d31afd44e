"""Images on the web: off unless allowed, and then of public places alone."""

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from serving import insert, names, problem, search, serving, wait_for, wait_until
from web import send
from web import serving as web_server

from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import fetch as fetching
from t2i_pipelines.images.fetch import fetch
from t2i_pipelines.serve.requests import FETCHES


@pytest.fixture
def http(tmp_path, pictures):
    with serving(tmp_path, roots=[pictures]) as client:
        yield client


@pytest.fixture
def public(monkeypatch):
    """What the DNS says: name -> its addresses, one after another; the last stays."""
    looked_up = {}
    real = socket.getaddrinfo

    def told(host, port, *rest, **more):
        if host in looked_up:
            answers = looked_up[host]
            address = answers.pop(0) if len(answers) > 1 else answers[0]
            return real(address, port, *rest, **more)
        return real(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", told)
    monkeypatch.setattr(fetching, "TRIES", 1)
    return looked_up


PRIVATE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.8", "172.16.5.4", "192.168.0.1", "169.254.169.254",
    "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_not_connected_to(address, public, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connected"))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ImageDecodeError, match="its host has no public address"):
        fetch(f"http://{host}/a.png", only_public=True)
    public["named.example"] = [address]
    with pytest.raises(ImageDecodeError, match="its host has no public address"):
        fetch("https://named.example/a.png", only_public=True)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "localhost",
        "LOCALHOST",
        "127.0.0.1.",
        "localhost.",
        "user@127.0.0.1",
        "example.org@127.0.0.1",
    ],
)
def test_other_ways_to_write_an_address_are_seen_through(host, public, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connected"))
    public["localhost."] = public["127.0.0.1."] = ["127.0.0.1"]
    with pytest.raises(ImageDecodeError, match="no public address"):
        fetch(f"http://{host}:8000/a.png", only_public=True)


@pytest.fixture
def one_is_public(monkeypatch):
    """127.0.0.2, where the web server of a test listens too, counts as public."""
    import requests_hardened.ip_filter as ip_filter

    refused = ip_filter.get_ip_address

    def told(hostname, port, allow_loopback):
        found = socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)[0][4]
        if found[0] == "127.0.0.2":
            return ip_filter.ipaddress.ip_address(found[0]), port
        return refused(found[0], port, allow_loopback)

    monkeypatch.setattr(ip_filter, "get_ip_address", told)


@pytest.fixture
def web():
    with web_server(host="0.0.0.0") as server:
        yield server


def at(web, host, path="/a.png"):
    return f"http://{host}:{web.url.rpartition(':')[2]}{path}"


def test_a_public_address_is_fetched_from(public, one_is_public, web):
    public["cdn.example"] = ["127.0.0.2"]
    web.pages["/a.png"] = b"picture"
    assert fetch(at(web, "cdn.example"), only_public=True) == b"picture"
    assert web.headers["Host"].startswith("cdn.example:")


def test_a_redirect_to_a_private_address_is_not_followed(public, one_is_public, web):
    public["cdn.example"] = ["127.0.0.2"]
    web.pages["/a.png"] = lambda request: send(request, 302, Location=at(web, "127.0.0.1", "/metadata"))
    web.pages["/metadata"] = b"secret"
    with pytest.raises(ImageDecodeError, match="no public address"):
        fetch(at(web, "cdn.example"), only_public=True)
    assert (web.asked["/a.png"], web.asked["/metadata"]) == (1, 0)


def test_a_name_that_changes_its_address_is_asked_once(public, one_is_public, web):
    """DNS rebinding: public when it is checked, private when it is connected to."""
    public["rebind.example"] = ["127.0.0.2", "127.0.0.1"]
    web.pages["/a.png"] = lambda request: send(request, 200, request.connection.getsockname()[0].encode())
    assert fetch(at(web, "rebind.example"), only_public=True) == b"127.0.0.2"


def test_a_proxy_of_the_environment_is_not_used(public, one_is_public, web, monkeypatch):
    """It would look names up by itself, and connect in our place."""
    public["cdn.example"] = ["127.0.0.2"]
    web.pages["/a.png"] = b"picture"
    with web_server() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        assert fetch(at(web, "cdn.example"), only_public=True) == b"picture"
        with pytest.raises(ImageDecodeError, match="no public address"):
            fetch("http://10.0.0.1/a.png", only_public=True)
        assert not proxy.asked


def test_urls_are_off_unless_allowed(http):
    for answer in (
        http.post("/v1/insert", json={"urls": ["https://example.org/a.png"]}),
        http.post("/v1/search", json={"expression": "https://example.org/a.png + red"}),
    ):
        assert problem(answer, 403, "urls_not_allowed") == "images on the web are not allowed here"


def test_allowed_urls_are_of_public_places(tmp_path, pictures, public, one_is_public, web):
    public["cdn.example"] = ["127.0.0.2"]
    web.pages["/a.png"] = (pictures / "red.png").read_bytes()
    good, bad = at(web, "cdn.example"), at(web, "127.0.0.1")
    (pictures / "rows.csv").write_text(f"url\n{good}\n{bad}\n")
    with serving(tmp_path, roots=[pictures], allow_urls=True) as http:
        report = insert(http, urls=[good, bad])
        assert report["counts"] == {"inserted": 1, "failed": 1}
        assert report["failed"][0]["reason"].endswith("its host has no public address")
        assert insert(http, source="pictures/rows.csv")["counts"] == {"unchanged": 1, "failed": 1}
        assert len(search(http, expression=good, limit=1)) == 1
        assert problem(http.post("/v1/search", json={"expression": bad}), 422, "unreadable_image")
        (hit,) = search(http, text="red", limit=1)
        assert http.get(hit["links"]["thumbnail"]).status_code == 200
        for url in ("file:///etc/passwd", "ftp://example.org/a.png", "a.png"):
            assert "must begin with http" in problem(
                http.post("/v1/insert", json={"urls": [url]}), 422, "invalid_source"
            )
    with serving(tmp_path, roots=[pictures]) as http:
        assert problem(http.get(hit["links"]["thumbnail"]), 404, "image_not_shown")


LOOPBACK = [
    "127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "127.1.2.3", "127.255.255.254", "0", "0.0.0.0",
    "2130706433",
    "017700000001", "0177.0.0.1", "0177.0.0.01", "00177.1", "0x7f000001", "0x7F000001", "0x7f.0.0.1",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1", "0x0000007f.1", "127.0x0.0.1", "127.000.000.001", "localhost", "LOCALHOST",
    "localhost.",
    "LocalHost", "localtest.example", "127.0.0.1.nip.example", "a.localhost.example",
    "[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::]", "[::0]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:1]", "[::FFFF:127.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[::1%25lo]", "[::1%lo]",
    "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "127\uff0e0\uff0e0\uff0e1",
    "\u2460\u2461\u2466.0.0.1",
    "\u2113ocalhost", "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54", "\u0661\u0662\u0667.0.0.1",
    "127.0.0.1\u00ad",
    "%31%32%37.0.0.1", "127%2e0%2e0%2e1", "%6cocalhost",
]  # fmt: skip
INSIDE = [
    "10.0.0.8", "10.8", "167772168", "0x0a000008", "012.0.0.8", "172.16.5.4", "172.31.255.254", "192.168.0.1",
    "192.168.1", "3232235521", "0xc0a80001", "169.254.169.254", "169.254.43518", "2852039166", "0xa9fea9fe",
    "0251.0376.0251.0376", "0xA9.0xFE.0xA9.0xFE", "169.254.170.2", "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[fd00:ec2::254]", "metadata.example", "100.100.100.200", "100.64.0.1", "168.63.129.16", "2822734096",
    "192.0.0.192", "192.88.99.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "4294967295", "[fe80::1]", "[fc00::1]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]",
    "[5f00::1]",
    "kubernetes.default.svc.example",
]  # fmt: skip
AROUND = [
    "http://user@127.0.0.1:{port}/", "http://user:word@127.0.0.1:{port}/",
    "http://example.org@127.0.0.1:{port}/",
    "http://example.org:80@127.0.0.1:{port}/", "http://example.org%40127.0.0.1:{port}/",
    "http://a@b@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@example.org/", "http://127.0.0.1:{port}?@example.org/",
    "http://127.0.0.1:{port}\\@example.org/",
    "http://example.org\\@127.0.0.1:{port}/", "http://example.org#@127.0.0.1:{port}/",
    "http://127.0.0.1\t:{port}/",
    "http://127.0.0.1\n:{port}/", "http://\t127.0.0.1:{port}/", "http://127.0.0.1:{port}\0.example.org/",
    "http://example.org\0@127.0.0.1:{port}/", "http:\\\\127.0.0.1:{port}/", "http:///127.0.0.1:{port}/",
    "http:////127.0.0.1:{port}/", "http:/127.0.0.1:{port}/", "http:127.0.0.1:{port}/", "//127.0.0.1:{port}/",
    "HTTP://127.0.0.1:{port}/", "hTTps://127.0.0.1:{port}/", " http://127.0.0.1:{port}/",
    "http://[127.0.0.1]:{port}/",
    "http://127.0.0.1:0{port}/", "http://127.0.0.1:{port}/..;/a.png", "http://127.0.0.1:00000{port}/",
    "http://127.0.0.1:\uff18\uff10/", "http://127.0.0.1: {port}/", "http://127.0.0.1:+{port}/",
    "http://127.0.0.1:22/",
    "http://127.0.0.1:6379/%0d%0aFLUSHALL", "http://localhost:{port}/%0d%0aHost:%20x", "http://./",
    "http://../", "http://",
    "file:///etc/passwd", "file://127.0.0.1/etc/passwd", "ftp://127.0.0.1:{port}/a.png",
    "gopher://127.0.0.1:{port}/_x",
    "dict://127.0.0.1:{port}/x", "ldap://127.0.0.1:{port}/", "sftp://127.0.0.1:{port}/a.png",
    "tftp://127.0.0.1/a.png",
    "jar:http://127.0.0.1:{port}!/a.png", "data:image/png;base64,AAAA", "s3://127.0.0.1:{port}/a.png",
    "smb://127.0.0.1/a/b",
    "webdav+http://127.0.0.1:{port}/a.png", "tar://a.png::http://127.0.0.1:{port}/a.tar",
    "zip://a::http://127.0.0.1:{port}/",
    "simplecache::http://127.0.0.1:{port}/a.png", "hdfs://127.0.0.1:{port}/a.png", "ws://127.0.0.1:{port}/",
    "javascript:1",
]  # fmt: skip
NAMES = {
    "localhost": "127.0.0.1", "localhost.": "127.0.0.1", "127.0.0.1.": "127.0.0.1",
    "localtest.example": "127.0.0.1", "127.0.0.1.nip.example": "127.0.0.1", "a.localhost.example": "::1",
    "metadata.example": "169.254.169.254", "kubernetes.default.svc.example": "10.96.0.1",
}  # fmt: skip


@pytest.fixture(scope="module")
def fetching_service(tmp_path_factory):
    """A service that fetches what it is asked for."""
    folder = tmp_path_factory.mktemp("fetching")
    with serving(folder, roots=[folder], allow_urls=True) as client:
        yield client


@pytest.fixture
def connected(monkeypatch):
    """What is connected to. Names are looked up in ``NAMES`` alone; numbers are read as the system does."""
    look_up, found = socket.getaddrinfo, []

    def asked(host, port, family=0, type=0, proto=0, flags=0):
        name = host.decode() if isinstance(host, bytes) else host
        return look_up(NAMES.get(name.lower(), name), port, family, type, proto, socket.AI_NUMERICHOST)

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: found.append(address))
    monkeypatch.setattr(socket.socket, "connect_ex", lambda _, address: found.append(address))
    monkeypatch.setattr(fetching, "TRIES", 1)
    return found


ATTEMPTS = [f"http://{host}:8000/a.png" for host in LOOPBACK + INSIDE] + [
    attempt.format(port=8000) for attempt in AROUND
]


def test_a_public_address_would_be_connected_to(fetching_service, connected):
    answer = fetching_service.post("/v1/search", json={"expression": "http://8.8.8.8:8000/a.png"})
    assert answer.status_code == 422
    assert connected == [("8.8.8.8", 8000)]


@pytest.mark.parametrize("url", ATTEMPTS)
def test_no_search_connects_to_a_private_address(fetching_service, connected, url):
    alone, added = (
        fetching_service.post("/v1/search", json={"expression": line}) for line in (url, f"red + {url}")
    )
    assert connected == []
    expected = (422,) if url.startswith(("http://", "https://")) else (200, 422)  # others may be words
    assert alone.status_code in expected, alone.text
    assert added.status_code in (200, 422), added.text


@pytest.mark.parametrize("url", ATTEMPTS)
def test_no_insert_connects_to_a_private_address(fetching_service, connected, url):
    answer = fetching_service.post("/v1/insert", json={"urls": [url]})
    assert answer.status_code in (202, 422), answer.text
    if answer.status_code == 202:
        report = wait_for(fetching_service, answer.json()["id"])
        assert report["counts"] == {"failed": 1}
    assert connected == []


@pytest.mark.parametrize("host", LOOPBACK)
def test_no_redirect_leads_a_search_to_a_private_address(fetching_service, public, one_is_public, web, host):
    """The server that redirects is public; where it leads to, answers at the same port of this machine."""
    public.update({name: [address] for name, address in NAMES.items()})
    public["cdn.example"] = ["127.0.0.2"]
    target = at(web, host, "/metadata")
    web.pages["/metadata"] = b"secret"
    web.pages["/a.png"] = lambda request: send(
        request, 302, Location=quote(target, safe=":/?#[]@!$&'()*+,;=%")
    )
    answer = fetching_service.post("/v1/search", json={"expression": at(web, "cdn.example")})
    assert problem(answer, 422, "unreadable_image")
    assert (web.asked["/a.png"], web.asked["/metadata"]) == (1, 0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1/_", "//127.0.0.1/"]
)
def test_no_redirect_leads_a_search_to_another_scheme(
    fetching_service, public, one_is_public, web, status, target
):
    public["cdn.example"] = ["127.0.0.2"]
    web.pages["/a.png"] = lambda request: send(request, status, Location=target)
    answer = fetching_service.post("/v1/search", json={"expression": at(web, "cdn.example")})
    said = problem(answer, 422, "unreadable_image")
    assert "not http" in said or "no public address" in said


def test_a_name_that_changes_its_address_is_searched_at_the_one_that_was_checked(
    fetching_service, public, one_is_public, web
):
    asked = []
    public["rebind.example"] = ["127.0.0.2", "127.0.0.1"]
    web.pages["/a.png"] = lambda request: (
        asked.append(request.connection.getsockname()[0]),
        send(request, 404),
    )
    line = {"expression": at(web, "rebind.example")}
    assert "status 404" in problem(fetching_service.post("/v1/search", json=line), 422, "unreadable_image")
    assert asked == ["127.0.0.2"]
    said = problem(fetching_service.post("/v1/search", json=line), 422, "unreadable_image")
    assert "no public address" in said
    assert asked == ["127.0.0.2"]


def test_a_server_that_drips_its_headers_is_given_up(
    fetching_service, public, one_is_public, web, monkeypatch
):
    public["slow.example"] = ["127.0.0.2"]
    monkeypatch.setattr("t2i_pipelines.serve.service.FETCH_SECONDS", 0.3)
    done = threading.Event()

    def drip(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not done.wait(0.02):
            request.wfile.write(b".")

    web.pages["/a.png"] = drip
    with ThreadPoolExecutor(1) as pool:
        line = {"expression": at(web, "slow.example")}
        searching = pool.submit(fetching_service.post, "/v1/search", json=line)
        try:
            assert "no answer within" in problem(searching.result(30), 422, "unreadable_image")
        finally:
            done.set()


def test_slow_web_servers_hold_up_no_others(tmp_path, pictures, public, one_is_public, web, monkeypatch):
    monkeypatch.setattr("t2i_pipelines.images.fetch.HOST_LIMIT", 100)
    public["slow.example"] = ["127.0.0.2"]
    go = threading.Event()
    web.pages["/a.png"] = lambda request: (
        go.wait(60),
        send(request, 200, (pictures / "red.png").read_bytes()),
    )
    slow = {"expression": at(web, "slow.example")}
    with serving(tmp_path, roots=[pictures], allow_urls=True) as http, ThreadPoolExecutor(20) as pool:
        insert(http, source="pictures")
        waiting = [pool.submit(http.post, "/v1/search", json=slow) for _ in range(FETCHES)]
        wait_until(lambda: web.asked["/a.png"] == FETCHES, "the fetches", 60)
        answer = http.post("/v1/search", json=slow)
        assert "8 images are being fetched, of at most 8" in problem(answer, 429, "too_busy")
        assert answer.headers["retry-after"] == "1"
        for line in ("./pictures/red.png", "./pictures/blue.png"):
            found = [pool.submit(search, http, expression=line, limit=1) for _ in range(os.cpu_count() + 1)]
            assert {name for one in found for name in names(one.result(60))} == {line[11:-4]}
        go.set()
        assert {one.result(60).status_code for one in waiting} == {200}
        assert http.post("/v1/search", json=slow).status_code == 200


def test_the_images_of_a_request_have_one_time_to_come(tmp_path, public, one_is_public, web, monkeypatch):
    public["slow.example"] = ["127.0.0.2"]
    monkeypatch.setattr("t2i_pipelines.serve.service.FETCH_SECONDS", 0.3)
    done = threading.Event()
    web.pages["/a.png"] = lambda request: done.wait(20)
    with serving(tmp_path, allow_urls=True) as http:
        line = " + ".join([at(web, "slow.example")] * 2)
        answer = http.post("/v1/search", json={"queries": [{"expression": line}] * 2})
        assert "seconds" in problem(answer, 422, "unreadable_image")
        done.set()
    assert web.asked["/a.png"] == 1


def test_a_stored_url_that_is_slow_is_given_up(tmp_path, pictures, public, one_is_public, web, monkeypatch):
    public["slow.example"] = ["127.0.0.2"]
    web.pages["/a.png"] = (pictures / "red.png").read_bytes()
    monkeypatch.setattr("t2i_pipelines.serve.images.FETCH_SECONDS", 0.2)
    done = threading.Event()
    with serving(tmp_path, allow_urls=True) as http:
        insert(http, urls=[at(web, "slow.example")])
        web.pages["/a.png"] = lambda request: done.wait(20)
        (hit,) = search(http, text="red")
        assert problem(http.get(hit["links"]["file"]), 404, "image_not_shown")
        done.set()


def test_a_url_that_is_none_fails_alone(tmp_path, pictures):
    (pictures / "rows.csv").write_text("path\nred.png\nhttp://u:secret@[bad/a.jpg\nblue.png\n")
    with serving(tmp_path, roots=[pictures], allow_urls=True) as http:
        report = insert(http, source="pictures/rows.csv")
        assert (report["status"], report["counts"]) == ("done", {"inserted": 2, "failed": 1})
        assert report["failed"][0]["path"] == "http://..."
        assert "secret" not in str(report)
        assert insert(http, urls=["http://[", "http://[::1"])["counts"] == {"failed": 2}
        told = problem(http.post("/v1/search", json={"expression": "http://["}), 422, "unreadable_image")
        assert "not a valid URL" in told
