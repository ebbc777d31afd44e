"""Where Milvus is, in the hub's words."""

from __future__ import annotations

from t2i_pipelines.errors import ConfigError


def place_of(
    host: str,
    port: int | str,
    uri: str | None = None,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
) -> dict[str, str]:
    """``uri`` and ``token``, as :func:`~t2i_pipelines.collection.open_collection` takes them.

    :param host: of a server; or a uri, or a file that ends in ``.db``, where a notebook can say only a host.
    :param uri: takes the place of host and port.
    :param user: with ``password`` for a server that knows its users. With host and port, the connection is
        then over TLS, as the hub's was; a ``uri`` says itself.
    :raises ConfigError: If a user comes without a password, or beside a token.
    """
    if bool(user) != bool(password):
        raise ConfigError(f"user and password go together; of user={user!r} and password, one is missing")
    if user and token:
        raise ConfigError("give token, or user and password, not both")
    if uri is None and ("://" in str(host) or str(host).endswith(".db")):
        uri = host
    if uri is None:
        uri = f"{'https' if user else 'http'}://{host}:{port}"
    return {"uri": uri, "token": token or (f"{user}:{password}" if user else "")}
