"""What a shard measures on: one kind of device in a run, and one process at a time on each."""

import contextlib
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import locks

_FILE = "device.json"


def claim(folder: Path, device: dict[str, Any]) -> None:
    """The first shard of a run decides what kind of device the run is of.

    Args:
        folder: the run's.
        device: with its `name`.

    Raises:
        ValueError: this one is of another kind. Their numbers would share a series and mean different things.
    """
    path = folder / _FILE
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", encoding="utf-8") as file:
        json.dump({"name": device["name"]}, file)
        file.flush()
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)  # whole or not at all, and for one shard only
    if (kind := claimed(folder)) != device["name"]:
        raise ValueError(
            f"{node()} has {device['name']}, this run is of {kind}: ask for one kind (--gres gpu:KIND:1, --constraint),"
            " and give each kind a --folder of its own"
        )


def claimed(folder: Path) -> str:
    """The kind of device of a run; empty while no shard has begun."""
    try:
        return str(json.loads((folder / _FILE).read_text(encoding="utf-8"))["name"])
    except FileNotFoundError:
        return ""


def node() -> str:
    """This machine's name: Slurm's where Slurm gave it one."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def turn(device: str) -> contextlib.AbstractContextManager[None]:
    """Wait until no other shard measures on a device, whoever's it is, and keep others waiting meanwhile.

    Args:
        device: a name that all processes of this machine know it by.
    """
    return locks.held(Path(tempfile.gettempdir(), f"ropekern-{device}.lock"))
