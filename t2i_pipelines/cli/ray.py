"""``t2i insert --ray``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from t2i_pipelines.cli.insert_by import insert_by
from t2i_pipelines.jobs.ray import insert_distributed

Ray = Annotated[bool, typer.Option("--ray", help="Insert on Ray: of RAY_ADDRESS, else of this machine.")]
Address = Annotated[
    str, typer.Option("--ray-address", help="Insert on the Ray cluster there, such as 10.0.0.1:6379.")
]


def insert_at(address: str) -> Callable[..., int]:
    """Insert on the Ray cluster at ``address``, as ``t2i insert`` does here; gives the number of failures."""
    return insert_by(partial(insert_distributed, address=address or None))
