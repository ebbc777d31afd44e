"""URLs that strangers name are fetched from public addresses only.

The address of a name is looked up once, checked, and connected to, so that an answer of the
DNS that changes in between gains nothing; TLS is still checked against the name. Each redirect is a request
of its own. `requests-hardened <https://github.com/saleor/requests-hardened>`_ does it: private, loopback,
link-local (where clouds keep their metadata), shared, reserved and multicast addresses are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from t2i_pipelines.errors import MissingExtraError

if TYPE_CHECKING:
    from requests import Session

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
        raise MissingExtraError(
            "requests-hardened is not installed; run: pip install 't2i-pipelines[serve]'"
        ) from err

    class PublicAdapter(IPFilterAdapter):  # type: ignore[misc, unused-ignore]
        def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
            try:
                host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
            except InvalidIPAddress as err:
                raise requests.exceptions.InvalidURL("its host has no public address") from err
            if host["host"] == PLATFORM:
                raise requests.exceptions.InvalidURL("its host has no public address")
            return host, pool

    session.trust_env = False
    session.mount("http://", PublicAdapter(is_https_proto=False))
    session.mount("https://", PublicAdapter(is_https_proto=True))
