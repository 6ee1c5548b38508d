"""Worker processes as they are seen from outside: started, asked, and gone for certain."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
_FOREIGN = ("PYTHON", "TRITON_INTERPRET", "CUDA_LAUNCH_BLOCKING")
"""Settings of the shell's that would change what is imported or how it runs."""
_END_SECONDS = 10.0


class WorkerError(RuntimeError):
    """A worker crashed, hung, or could not do what it was asked."""


class AnsweredError(WorkerError):
    """It is well, and says why it could not."""


class Process:
    """A fresh process of one environment. It is being started; `ask` waits for it."""

    def __init__(self, python: str, place: str, folder: Path, *, forks: bool = False) -> None:
        """Start it.

        Args:
            python: interpreter of the environment that has ropekern.
            place: torch device.
            folder: a folder outside any checkout, with the ruler as `benchmarks` in it; linked there if it is not.
            forks: it will be asked to fork, so it must not touch the GPU before that.

        Raises:
            WorkerError: there is no such interpreter.
        """
        link = folder / "benchmarks"
        if not link.exists():
            link.symlink_to(BENCHMARKS, target_is_directory=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        self._log = tempfile.TemporaryFile(mode="w+b")  # noqa: SIM115 (it lives as long as the process)
        try:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.compare.worker", str(os.getpid())],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,  # a Ctrl-C is the parent's to handle, and the group can be killed as one
            )
        except OSError as error:
            self._log.close()
            raise WorkerError(f"{python} cannot be started: {error}") from error
        self._closed = False
        self._buffer = b""
        self._send({"do": "hello", "place": place, "forks": forks})
        self.about: dict[str, Any] = {}

    def wait_until_ready(self, timeout: float) -> dict[str, Any]:
        """What it says of itself, once it has imported all it needs."""
        if not self.about:
            self.about = self._receive("hello", timeout)
        return self.about

    def ask(self, do: str, timeout: float, **request: Any) -> dict[str, Any]:
        """An answer.

        Raises:
            WorkerError: there is none in time, the process is gone, or it says that it failed.
        """
        self._send({"do": do, **request})
        return self._receive(do, timeout)

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(f"the process is gone: {self._last_words()}") from error

    def _receive(self, do: str, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise WorkerError(f"{do} took longer than {timeout:g} s")
                part = os.read(self._process.stdout.fileno(), 1 << 16)
                if not part:
                    raise WorkerError(f"the process ended{self._exit_code()} in {do}: {self._last_words()}")
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:  # what printed this was imported before the worker could redirect it
            raise WorkerError(f"{do} was answered with {line[:80]!r}, which is no answer") from error
        if "error" in answer:
            raise AnsweredError(answer["error"])
        return answer

    def _exit_code(self) -> str:
        try:
            return f" with {self._process.wait(_END_SECONDS)}"
        except subprocess.TimeoutExpired:
            return ", or rather closed its output"

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) if lines else "it said nothing"

    def close(self) -> None:
        """End it and whatever it started. Safe to call twice."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the driver: it ends when that lets go
                self._process.wait(_END_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
