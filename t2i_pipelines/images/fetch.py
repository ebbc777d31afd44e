"""Fetch images over HTTP, with retries and a limit of requests to each host.

Each image is one GET. Errors that may pass are retried: no connection, no answer in time, a broken-off
answer, 429, 5xx; ``Retry-After`` is honoured. Each host gets ``HOST_LIMIT`` requests at a time.

URLs that strangers name are fetched from public addresses only. The address of a name is looked up once,
checked, and connected to, so that a DNS answer that changes in between gains nothing; TLS is still checked
against the name. Each redirect is a request of its own. `requests-hardened
<https://github.com/saleor/requests-hardened>`_ refuses private, loopback, link-local (where clouds keep their
metadata), shared and multicast addresses. Reserved ones, such as ``::127.0.0.1``, and ``fec0::/10``, once the
private addresses of IPv6, are refused here.

urllib3 bounds connecting and each read, not their sum: a server that sends its headers byte by byte would
hold a fetch for hours. So each read gets what is left of the deadline, headers included.
"""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from http.client import HTTPResponse
from importlib.metadata import version
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from t2i_pipelines._towhee.locks import Lock, in_forked_child
from t2i_pipelines.errors import ImageDecodeError, MissingExtraError, SourceError, cause
from t2i_pipelines.images.address import check_size, is_http, split_url

if TYPE_CHECKING:
    from socket import socket

    from requests import Response, Session

TIMEOUT = 30.0
"""Seconds that one try may take, from connecting to the last byte."""

CONNECT_TIMEOUT = 5.0
"""Seconds of these that connecting may take."""

TRIES = 3
FIRST_WAIT = 0.5
"""Seconds to wait before the second try, at most; twice that before the next."""

LONGEST_WAIT = 60.0
"""Seconds to wait if the server asks for it; if it asks for more, the image has failed."""

REDIRECTS = 5
HOST_LIMIT = 8
"""Requests at a time to one host. Scrapy's ``CONCURRENT_REQUESTS_PER_DOMAIN`` has the same default."""


def fetch(url: str, *, only_public: bool = False, within: float | None = None) -> bytes:
    """Fetch a URL; at most ``limits.MAX_BYTES``.

    :param only_public: connect to public addresses only, see :mod:`t2i_pipelines.images.fetch`.
    :param within: seconds for one try, its redirects included. Without it there are :data:`TRIES`, which wait
        as the server asks, and each redirect has :data:`TIMEOUT` seconds.
    :raises ImageDecodeError: Names the URL, and the status or what else went wrong.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt

    retrying = Retrying(
        stop=stop_after_attempt(TRIES if within is None else 1),
        wait=_wait,
        retry=retry_if_exception(lambda err: isinstance(err, _FetchError) and err.may_pass),
        reraise=True,
    )
    session = _public_session() if only_public else _session()
    try:
        content: bytes = retrying(_get, url, _body, session, within and _Deadline.of(within))
    except (_FetchError, ImageDecodeError, SourceError) as err:
        raise ImageDecodeError(f"cannot read image {url}: {err}") from err
    return content


def open_url(url: str) -> BinaryIO:
    """Open a URL as a stream, of any length.

    :raises OSError: If it cannot be opened, or breaks off.
    """
    try:
        return cast(BinaryIO, io.BufferedReader(_get(url, _Stream, _session()), 1 << 20))
    except _FetchError as err:
        raise OSError(0, str(err)) from err


class _FetchError(Exception):
    """A try has failed.

    :ivar may_pass: another try may do better.
    :ivar wait: seconds that the server asks for, if it does.
    """

    def __init__(self, reason: str, *, may_pass: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.may_pass, self.wait = may_pass, wait


def _wait(state: Any) -> float:
    asked: float | None = state.outcome.exception().wait
    if asked is not None:
        return asked
    longest: float = FIRST_WAIT * 2 ** (state.attempt_number - 1)
    return random.uniform(longest / 2, longest)


@cache
def _session() -> Session:
    from requests.adapters import HTTPAdapter

    session = _new_session()
    for prefix in ("http://", "https://"):
        session.mount(prefix, HTTPAdapter(pool_connections=100, pool_maxsize=HOST_LIMIT))
    _keep_deadlines(session)
    return session


@cache
def _public_session() -> Session:
    session = _new_session()
    restrict(session)
    _keep_deadlines(session)
    return session


def _new_session() -> Session:
    from http.cookiejar import DefaultCookiePolicy

    import requests

    session = requests.Session()
    session.headers.update(
        # bytes as they are stored: an image gains nothing from gzip, and a bomb is counted as what it is
        {"User-Agent": f"t2i-pipelines/{version('t2i-pipelines')}", "Accept-Encoding": "identity"}
    )
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


class _Deadline(NamedTuple):
    """When something must have ended, and how many seconds it had."""

    at: float
    seconds: float

    @classmethod
    def of(cls, seconds: float) -> _Deadline:
        return cls(time.monotonic() + seconds, seconds)

    @property
    def left(self) -> float:
        return max(0.0, self.at - time.monotonic())

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Bound what this thread reads from sessions."""
        token = _deadline.set(self)
        try:
            yield
        finally:
            _deadline.reset(token)


_deadline: ContextVar[_Deadline | None] = ContextVar("_deadline", default=None)


class _Reads(io.RawIOBase):
    """What a socket receives: each read has the seconds that are left, :data:`TIMEOUT` without a deadline."""

    def __init__(self, sock: socket, received: io.RawIOBase) -> None:
        self._sock, self._received = sock, received

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        deadline = _deadline.get()
        seconds = TIMEOUT if deadline is None else deadline.left
        if not seconds:
            raise TimeoutError
        self._sock.settimeout(seconds)
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


class _Answer(HTTPResponse):
    def __init__(self, sock: socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Reads(sock, self.fp.detach()))


def _keep_deadlines(session: Session) -> None:
    """Let the connections of a session read within the deadline, if there is one."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        response_class = _Answer

    class Secure(HTTPSConnection):
        response_class = _Answer

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    adapters: Iterable[Any] = session.adapters.values()
    for adapter in adapters:
        adapter.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def _get(url: str, take: Any, session: Session, whole: _Deadline | None = None) -> Any:
    """Ask for a URL, follow redirects, and give what ``take`` makes of the response.

    :param whole: of all of it; else each redirect has :data:`TIMEOUT`.
    """
    for _ in range(REDIRECTS + 1):
        with _turn(split_url(url).netloc, whole):
            deadline = whole or _Deadline.of(TIMEOUT)
            response = _asked(url, session, deadline)
            try:
                target = _redirected(response, session)
                if target is None:
                    _check_status(response)
                    with deadline.kept(), _named_errors(f"not complete within {deadline.seconds:g} seconds"):
                        return take(response)
            except BaseException:
                response.close()
                raise
            response.close()
        url = target
        if not is_http(url):
            raise _FetchError(f"redirected to {url!r}, which is not http(s)://")
    raise _FetchError(f"more than {REDIRECTS} redirects")


def _asked(url: str, session: Session, deadline: _Deadline) -> Response:
    left = max(0.001, deadline.left)  # 0 would be for ever
    limits = (min(CONNECT_TIMEOUT, left), left)
    try:
        with deadline.kept(), _named_errors(f"no answer within {deadline.seconds:g} seconds"):
            return session.get(url, stream=True, allow_redirects=False, timeout=limits)
    except ValueError as err:  # requests looks at where a redirect leads, even where it does not follow
        raise _FetchError(f"redirected to what is not a valid URL: {cause(err)}") from err


def _redirected(response: Response, session: Session) -> str | None:
    from urllib.parse import urljoin

    target = session.get_redirect_target(response)
    return None if target is None else urljoin(response.url, target)


def _check_status(response: Response) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    reason = f"status {status} {response.reason or ''}".rstrip()
    wait = _retry_after(response.headers.get("Retry-After"))
    may_pass = status == 429 or status >= 500
    if may_pass and wait is not None and wait > LONGEST_WAIT:
        raise _FetchError(f"{reason}, and the server asks to wait {wait:,.0f} seconds")
    raise _FetchError(reason, may_pass=may_pass, wait=wait)


def _retry_after(header: str | None) -> float | None:
    """Seconds, from seconds or a date; None without a sound one."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util.retry import Retry

    try:
        return None if header is None else max(0.0, Retry().parse_retry_after(header))
    except InvalidHeader:
        return None


def _body(response: Response) -> bytes:
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal():
        check_size(int(announced))
    parts, size = [], 0
    with response:
        while part := response.raw.read1(1 << 16, decode_content=True):
            parts.append(part)
            size += len(part)
            check_size(size)
    return b"".join(parts)


class _Stream(io.RawIOBase):
    """The body of a response, with its errors as ``OSError``."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            with _named_errors(f"no more within {TIMEOUT:g} seconds"):
                part = self._response.raw.read1(len(buffer), decode_content=True)
        except _FetchError as err:
            raise OSError(0, str(err)) from err
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._response.close()
        super().close()


@contextmanager
def _named_errors(late: str) -> Iterator[None]:
    """Turn what requests and urllib3 raise into a failed try.

    :param late: what to say if the time is up.
    """
    import requests
    import urllib3.exceptions

    try:
        yield
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as err:
        raise _FetchError(cause(err)) from err
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as err:
        raise _FetchError(late, may_pass=True) from err
    except (requests.ConnectionError, urllib3.exceptions.ProtocolError) as err:
        raise _FetchError(_first_cause(err), may_pass=True) from err
    except (requests.RequestException, urllib3.exceptions.HTTPError) as err:
        raise _FetchError(cause(err)) from err


def _first_cause(err: BaseException) -> str:
    """Return the error that the others were made from: they repeat it, wrapped up."""
    link = err
    while (before := link.__cause__ or link.__context__) is not None:
        link = before
    return cause(link)


class _Host:
    """One that is being asked."""

    def __init__(self) -> None:
        self.free = threading.Semaphore(HOST_LIMIT)
        self.callers = 0


_hosts: dict[str, _Host] = {}
_hosts_lock = Lock()


def _renew() -> None:
    _hosts.clear()
    _session.cache_clear()
    _public_session.cache_clear()


in_forked_child(_renew)


@contextmanager
def _turn(name: str, deadline: _Deadline | None) -> Iterator[None]:
    """Wait until the host may be asked. Idle hosts are forgotten: there may be millions."""
    with _hosts_lock:
        host = _hosts.setdefault(name, _Host())
        host.callers += 1
    try:
        if not host.free.acquire(timeout=deadline and deadline.left):
            raise _FetchError(f"{HOST_LIMIT} requests to its host wait for an answer already")
        try:
            yield
        finally:
            host.free.release()
    finally:
        with _hosts_lock:
            host.callers -= 1
            if not host.callers:
                del _hosts[name]


PLATFORM = "168.63.129.16"
"""Azure's own services, at an address that counts as public."""


def restrict(session: Session) -> None:
    """Let a session connect to public addresses only.

    Proxies and passwords of this machine's environment are not used: a proxy would connect in our place.

    :raises MissingExtraError: If requests-hardened is not installed.
    """
    import requests

    try:
        from requests_hardened.ip_filter import InvalidIPAddress
        from requests_hardened.ip_filter_adapter import IPFilterAdapter
    except ModuleNotFoundError as err:
        raise MissingExtraError.of("requests-hardened", "serve") from err

    class PublicAdapter(IPFilterAdapter):  # type: ignore[misc, unused-ignore]
        def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
            try:
                host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
            except InvalidIPAddress as err:
                raise requests.exceptions.InvalidURL("its host has no public address") from err
            address = ip_address(host["host"].strip("[]"))
            if str(address) == PLATFORM or address.is_reserved or getattr(address, "is_site_local", False):
                raise requests.exceptions.InvalidURL("its host has no public address")
            return host, pool

    session.trust_env = False
    session.mount("http://", PublicAdapter(is_https_proto=False))
    session.mount("https://", PublicAdapter(is_https_proto=True))
