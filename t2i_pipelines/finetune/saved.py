"""The checkpoint of a run that is under way: whole or not there, and only for the run that wrote it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from t2i_pipelines.errors import ConfigError

NAME, NEW = "training.pt", "training.pt.new"


def save(folder: Path, run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the checkpoint in place of the one before.

    :param run: what makes the run this run: its options, its model, its pairs.
    """
    new = folder / NEW
    with new.open("wb") as file:
        torch.save({"run": dict(run), "state": dict(state)}, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(folder / NAME)


def load(folder: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state that a run was killed in; None if there is none.

    :raises ConfigError: If it is another run's; names the first difference.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    found = torch.load(path, map_location="cpu", weights_only=True)
    for name, value in run.items():
        if found["run"].get(name) != value:
            raise ConfigError(
                f"{path} is the checkpoint of a run with {name}={found['run'].get(name)!r}, this one has "
                f"{value!r}; give the same to go on, resume=False to start over, or another output_dir"
            )
    state: dict[str, Any] = found["state"]
    return state
