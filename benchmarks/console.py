"""What long-running commands say while they work."""

import sys
import time


def say(start: float, text: str) -> None:
    """A line on stderr, with the seconds since `start`, a time.monotonic()."""
    print(f"[{time.monotonic() - start:6.1f} s] {text}", file=sys.stderr, flush=True)
