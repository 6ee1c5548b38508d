"""A process of one commit: it measures the `ropekern` of its own environment with the ruler that started it.

`python -m benchmarks.compare.worker`, one JSON request a line on stdin, one JSON answer a line on stdout. It must not
be started in a checkout, whose `ropekern` would then be imported for every commit: it asserts that it was not. It ends
when stdin does, and is killed with the process that started it.

Asked to "fork", it forks, as asv's forkserver does: the child answers from then on, until it is asked to "end". So each
cell can have a fresh process that did not have to import torch. CUDA does not survive a fork.
"""

import contextlib
import ctypes
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve requests until stdin ends. The one argument is the process that started this one."""
    die_with_parent(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    worker = Worker()
    requests: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "hello": worker.hello,
        "device": worker.device,
        "prepare": worker.prepare,
        "sample": worker.sample,
        "release": worker.release,
    }
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "end":
            os._exit(0)  # the child of a fork; who forked answers
        if request["do"] == "fork":
            parent = os.getpid()
            if child := os.fork():
                _outlive(child)
            else:
                die_with_parent(parent)
            print("{}", file=answers)
            continue
        try:
            answer = requests[request["do"]](request)
        except Exception as error:  # the cell's row says why; the process that asked decides what follows
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(answer), file=answers)
    return 0


def die_with_parent(parent: int | None = None) -> None:
    """Let the kernel kill this process when the one that started it ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:  # it was gone before that
        raise SystemExit(1)


def _outlive(child: int) -> None:
    """Wait until a fork ends; end with it if it did not end well, as whoever asks it must learn."""
    _, status = os.waitpid(child, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(code if code > 0 else 128 - code)


def touches_gpu(descriptors: Path = Path("/proc/self/fd")) -> bool:
    """Whether a process has opened a GPU. Forks of one that has cannot use CUDA."""
    targets = []
    for link in descriptors.iterdir() if descriptors.is_dir() else ():
        with contextlib.suppress(OSError):  # the descriptor that lists the others is gone by now
            targets.append(os.readlink(link))
    return any(target.startswith(("/dev/nvidia", "/dev/dxg")) for target in targets)


class Worker:
    """One cell at a time."""

    def __init__(self) -> None:
        self._place = "cpu"
        self._sampler: Callable[[], float] | None = None
        self._device: Any = None

    def hello(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import everything that costs time, without a word to the GPU; say what is installed here."""
        import torch

        from benchmarks import environment, subject

        modules = ["benchmarks.check", "benchmarks.providers", "benchmarks.preload"]
        self._place = request["place"]
        if self._place == "cpu":
            torch.set_num_threads(1)
        elif not request.get("forks"):
            modules.append("flashinfer")  # nobody promises that its import leaves the GPU alone
        for name in modules:
            with contextlib.suppress(ImportError):  # what is absent fails in its own cells, which say so
                importlib.import_module(name)
        subject.assert_installed()
        package = Path(sys.modules["ropekern"].__file__ or "").parent
        return {
            "commit": installed_commit(),
            "ropekern": str(package),
            "sources": sources_digest(package),
            "sees_throttling": self._place == "cpu" or importlib.util.find_spec("pynvml") is not None,
            "versions": environment.versions(),
            "can_fork": hasattr(os, "fork") and not touches_gpu(),
        }

    def device(self, _: dict[str, Any]) -> dict[str, str]:
        """What measures: for a GPU its name, the UUID, the driver and how it is now; for a CPU nothing."""
        if self._place == "cpu":
            return {}
        import torch

        from benchmarks import environment

        return {"id": f"GPU-{torch.cuda.get_device_properties(self._place).uuid}", **environment.device()}

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Check a cell's provider, and make it ready to be sampled."""
        import torch

        from benchmarks import check, roofline, timing
        from benchmarks.compare.cells import CONTROL
        from benchmarks.presets import shard
        from benchmarks.providers import PROVIDERS
        from benchmarks.workload import Workload, make_inputs

        cell, on_gpu = request["cell"], self._place != "cpu"
        workload = Workload.of(shard(cell["model_name"], cell["tp_size"]), cell["num_tokens"])
        if on_gpu and self._device is None:
            torch.cuda.set_device(self._place)
            self._device = timing.CudaDevice(self._place)
        if cell["provider"] == CONTROL and on_gpu:
            self._sampler = roofline.floor_sampler(workload, self._device, self._place)
        elif cell["provider"] == CONTROL:
            (inputs,) = make_inputs(workload, 1, self._place)
            self._sampler = timing.prepare_cpu(inputs.query.neg_)
        else:
            provider = PROVIDERS[cell["provider"]]
            make_calls = check.checked_calls(cell["provider"], provider, workload, self._place)
            if on_gpu:
                self._sampler = timing.prepare_device(make_calls, workload.buffer_bytes, self._device)
            else:
                (call,) = make_calls(1)
                self._sampler = timing.prepare_cpu(call)
        return {}

    def sample(self, _: dict[str, Any]) -> dict[str, Any]:
        """Seconds of a call, once."""
        if self._sampler is None:
            raise ValueError("sample was asked for before prepare")
        return {"seconds": self._sampler()}

    def release(self, _: dict[str, Any]) -> dict[str, Any]:
        """Give back the cell's memory: another process is next."""
        self._sampler = None
        gc.collect()
        if self._place != "cpu":
            import torch

            torch.cuda.empty_cache()
        return {}


def sources_digest(package: Path) -> str:
    """A hash over the names and contents of a package's modules, as git names contents."""
    lines = []
    for path in package.rglob("*.py"):
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        lines.append(f"{blob} {path.relative_to(package.parent).as_posix()}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def installed_commit() -> str:
    """The commit that asv installed into this environment; empty where it was not asv."""
    try:
        status = json.loads(Path(sys.prefix, "asv-install-status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(status.get("commit_hash") or "")


if __name__ == "__main__":
    raise SystemExit(main())
