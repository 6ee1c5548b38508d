"""Files that one process at a time holds. The kernel lets go of them with the process, however that ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock file, which is made where it is absent; wait for whoever holds it.

    Args:
        path: of the file. It may be another user's, so it is opened for reading alone.
        busy: do not wait, but say this.

    Raises:
        ValueError: somebody holds it, and `busy` is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise ValueError(busy) from error
        yield
    finally:
        os.close(descriptor)
