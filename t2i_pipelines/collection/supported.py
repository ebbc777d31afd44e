"""Whether the Milvus at hand can store a collection as it was chosen."""

from __future__ import annotations

from t2i_pipelines.collection import schema
from t2i_pipelines.collection.connection import Connection
from t2i_pipelines.config.storage import Storage, check_supported
from t2i_pipelines.errors import ConfigError

GROUP = "__default_resource_group"
"""The query nodes that a server uses unless told otherwise."""


def check(connection: Connection, storage: Storage, timeout: float) -> None:
    """Pass if it can.

    :raises ConfigError: Names the setting, and what this Milvus has and would need.
    """
    where = str(connection.address)
    is_lite = connection.is_lite(timeout)
    schema.check_index_type(storage.index_type, local=is_lite)
    check_supported(storage, None if is_lite else connection.version(timeout), where)
    if storage.replica_number > 1:
        group = connection.call(
            "describe_resource_group", GROUP, doing="counting query nodes", timeout=timeout
        )
        if group.num_available_node < storage.replica_number:
            raise ConfigError(
                f"replica_number={storage.replica_number} needs as many query nodes, and {where} has "
                f"{group.num_available_node}"
            )
