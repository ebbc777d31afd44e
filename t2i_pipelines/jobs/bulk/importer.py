"""How a server is told to import a file, and asked how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from t2i_pipelines.collection import Collection
from t2i_pipelines.collection.connection import channel_options, parse_uri
from t2i_pipelines.collection.failures import quiet, translate
from t2i_pipelines.errors import ConfigError, MissingExtraError

REST = (2, 4)
"""The first Milvus that imports by its REST interface; from 2.5 on, it is the only way."""


class State(NamedTuple):
    """Of one import.

    :ivar reason: why it failed; empty if it did not.
    """

    done: bool
    reason: str = ""


class Importer(Protocol):
    """Tells a server what to do. Every method raises :class:`~t2i_pipelines.errors.StoreError`."""

    def schema(self) -> Any:
        """The collection's ``CollectionSchema``."""

    def start(self, path: str) -> str:
        """Begin to import a file, as the server names it; gives a name for the import."""

    def state(self, job: str) -> State:
        """How far it is."""

    def running(self) -> list[str]:
        """Imports into the collection that have not ended."""

    def show(self) -> None:
        """Let the rows of imports that are done be found."""


def importer_of(collection: Collection, place: Mapping[str, Any]) -> Importer:
    """The importer of the server that a collection is on.

    :raises ConfigError: If it is Milvus Lite, which has none.
    :raises MissingExtraError: If Milvus's bulk writer is not installed.
    """
    if parse_uri(place["uri"]).path is not None or collection.is_lite:
        raise ConfigError(
            f"Milvus Lite at {parse_uri(place['uri'])} has no importer; leave --bulk out, or give the uri of "
            f"a Milvus server"
        )
    try:
        import pymilvus.bulk_writer  # noqa: F401 - what it needs is not part of pymilvus
    except ImportError as err:
        raise MissingExtraError(
            f"{err.name} is not installed, which Milvus's bulk writer needs; run: pip install "
            f"'t2i-pipelines[bulk]'"
        ) from err
    return (RestImporter if collection.version >= REST else RpcImporter)(place)


class _Server:
    """What both ways share."""

    def __init__(self, place: Mapping[str, Any]) -> None:
        from pymilvus import MilvusClient

        self._address, self._timeout = parse_uri(place["uri"]), place["timeout"]
        self._token, self._name = place["token"], place["collection_name"]
        with self._asking("connecting"):
            self._client = MilvusClient(
                uri=self._address.uri,
                token=self._token,
                timeout=self._timeout,
                dedicated=True,
                grpc_options=channel_options(self._address),
            )

    def schema(self) -> Any:
        """The collection's ``CollectionSchema``."""
        from pymilvus import CollectionSchema

        with self._asking("looking at the collection"):
            told = self._client.describe_collection(self._name, timeout=self._timeout)
            return CollectionSchema.construct_from_dict(told)

    def show(self) -> None:
        """Let the rows of imports that are done be found."""
        with self._asking("loading what was imported"):
            self._client.refresh_load(self._name, timeout=max(self._timeout, 300.0))

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        with quiet():
            try:
                yield
            except Exception as err:
                what = f"{doing} for collection {self._name!r}"
                raise translate(err, doing=what, where=str(self._address), timeout=self._timeout) from err


class RpcImporter(_Server):
    """Milvus before 2.4. ``MilvusClient`` has no method for it, its connection has."""

    def start(self, path: str) -> str:
        """Begin to import a file."""
        return str(self._ask("beginning an import", "do_bulk_insert", self._name, "", [path]))

    def state(self, job: str) -> State:
        """How far it is."""
        return _state(self._ask("asking for an import", "get_bulk_insert_state", int(job)))

    def running(self) -> list[str]:
        """Imports into the collection that have not ended."""
        tasks = self._ask("asking for imports", "list_bulk_insert_tasks", 100, self._name)
        return [str(one.task_id) for one in tasks if not _state(one).done]

    def _ask(self, doing: str, method: str, *arguments: Any) -> Any:
        with self._asking(doing):
            return getattr(self._client._get_connection(), method)(*arguments, timeout=self._timeout)


def _state(told: Any) -> State:
    failed = told.state_name.startswith("Failed")
    reason = told.failed_reason or "it does not say why"
    return State(failed or told.state_name == "Completed", reason if failed else "")


class RestImporter(_Server):
    """Milvus 2.4 and later."""

    def start(self, path: str) -> str:
        """Begin to import a file."""
        from pymilvus.bulk_writer import bulk_import

        told = self._ask("beginning an import", bulk_import, collection_name=self._name, files=[[path]])
        return str(told["jobId"])

    def state(self, job: str) -> State:
        """How far it is."""
        from pymilvus.bulk_writer import get_import_progress

        told = self._ask("asking for an import", get_import_progress, job_id=job)
        failed = told["state"] == "Failed"
        return State(
            failed or told["state"] == "Completed",
            (told.get("reason") or "it does not say why") if failed else "",
        )

    def running(self) -> list[str]:
        """Imports into the collection that have not ended."""
        from pymilvus.bulk_writer import list_import_jobs

        told = self._ask("asking for imports", list_import_jobs, collection_name=self._name, page_size=100)
        ended = ("Completed", "Failed")
        return [str(one["jobId"]) for one in told.get("records", []) if one["state"] not in ended]

    def _ask(self, doing: str, ask: Callable[..., Any], **arguments: Any) -> Any:
        parts = urlsplit(self._address.uri)
        where: dict[str, Any] = {
            "url": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
            "api_key": self._token,
            "db_name": parts.path.strip("/"),
        }
        if self._address.is_here:  # `requests` would ask the proxy of http_proxy and its like
            where["proxies"] = dict.fromkeys(("http", "https", "all"))
        with self._asking(doing):
            return ask(**where, **arguments, timeout=self._timeout).json()["data"]
