"""Where an environment's torch comes from: a Python that has it, else pip's CUDA build, else pip's CPU build."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.machine import gpu_names

TORCH = "2.13.0"
TRITON = "3.7.1"  # pairs with TORCH; the CPU build does not pull it, but its interpreter and compiler are wanted
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PATH_FILE = "ropekern_shared_torch.pth"
SHARED = ("torch", "triton", "numpy", "flashinfer")
# The first pip whose `--dry-run` does not download the wheels; bounded because fast-deps is an experimental flag.
PIP = "pip>=25.3,<27"

PROBE = f"""
import importlib.metadata, importlib.util, json, os, sys, sysconfig
specs = {{name: importlib.util.find_spec(name) for name in {SHARED!r}}}
found = {{name: spec for name, spec in specs.items() if spec and spec.origin}}
json.dump({{
    "python": sys.version.split()[0],
    "site": sysconfig.get_path("purelib"),
    "folders": {{name: os.path.dirname(os.path.dirname(spec.origin)) for name, spec in found.items()}},
    "torch": importlib.metadata.version("torch") if "torch" in found else "",
}}, sys.stdout)
"""


class SetupError(Exception):
    """An expected failure: its text is the one line that the user sees."""


@dataclass(frozen=True)
class Found:
    """What one Python has: its version, its site-packages, the folders of SHARED's packages, torch's version or ""."""

    python: str
    site: str
    folders: Mapping[str, str]
    torch: str

    def shareable_with(self, other: Found) -> bool:
        """Whether other, of the same Python version, can import this one's torch."""
        return bool(self.torch) and self.python.split(".")[:2] == other.python.split(".")[:2]


@dataclass(frozen=True)
class Resolution:
    """What pip would install: name -> version; empty, with pip's last line in `error`, where pip finds nothing."""

    packages: Mapping[str, str]
    error: str = ""

    @property
    def cuda(self) -> list[str]:
        """The packages that only a CUDA build pulls (triton too: the CPU build does without)."""
        return sorted(n for n in self.packages if n.startswith(("nvidia-", "cuda-")) or n == "triton")


@dataclass(frozen=True)
class Choice:
    """What to hand to `pip install`, and what to say before."""

    arguments: tuple[str, ...]
    notice: str


Resolve = Callable[..., Resolution]


def find(python: str | os.PathLike[str]) -> Found | None:
    """What this Python has, without importing it; None for a Python that does not answer."""
    try:
        done = subprocess.run([python, "-P", "-c", PROBE], capture_output=True, text=True, timeout=60, check=False)
        return Found(**json.loads(done.stdout)) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def share(found: Found, target: Found) -> list[str]:
    """Write a .pth file in target's site-packages that names the folders of found's packages of SHARED.

    A .pth file inside a folder added this way is not read: an editable install in found's environment does not leak.
    """
    missing = [name for name in found.folders if name not in target.folders]
    folders = list(dict.fromkeys(found.folders[name] for name in missing))
    Path(target.site, PATH_FILE).write_text("".join(f"{folder}\n" for folder in folders), encoding="utf-8")
    return folders


def choose(gpu: bool, resolve: Resolve) -> Choice:
    """Which torch to install where no Python has one."""
    plain = resolve(f"torch=={TORCH}")
    if gpu:
        if not plain.packages:
            raise SetupError(f"wanted torch {TORCH} for the GPU here; pip offers none ({plain.error}). {ways_out()}")
        cuda = f"CUDA build, {len(plain.packages)} packages, about 3 GB to download"
        size = cuda if plain.cuda else "a CPU build although there is a GPU: pip offers no other here"
        return Choice((f"torch=={plain.packages['torch']}",), f"torch {plain.packages['torch']}: {size}")
    if plain.packages and not plain.cuda:
        return Choice((f"torch=={plain.packages['torch']}",), f"torch {plain.packages['torch']}: CPU build")
    index = ("--extra-index-url", CPU_INDEX)
    cpu = resolve(f"torch=={TORCH}+cpu", *index)
    if cpu.packages and not cpu.cuda:
        return Choice((f"torch=={TORCH}+cpu", *index), f"torch {TORCH}+cpu: CPU build from {CPU_INDEX}")
    came = f"the CUDA build, {len(plain.cuda)} CUDA packages and about 3 GB" if plain.cuda else f"none ({plain.error})"
    raise SetupError(
        f"wanted a CPU build of torch {TORCH} (no GPU here); pip offers {came}; "
        f"{CPU_INDEX} offers none ({cpu.error}). {ways_out()}"
    )


def ways_out() -> str:
    """What a user can do where pip has no fitting torch."""
    return (
        "Ways out: install torch into a Python and name it (make PYTHON=/path/to/python), "
        "or point PIP_FIND_LINKS at a folder with a torch wheel"
    )


def pip(python: str | os.PathLike[str], *arguments: str) -> list[str]:
    """A pip command line of this Python that never waits for an answer."""
    return [os.fspath(python), "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]


def resolver(python: str | os.PathLike[str]) -> Resolve:
    """A function that asks this Python's pip what it would install, without downloading wheels."""
    upgrade = pip(python, "install", "--quiet", "--retries", "1", "--timeout", "15", PIP)
    # A pip before 25.3 would download 3 GB to answer: where it cannot be upgraded, it may look at local files only.
    local = () if subprocess.run(upgrade, capture_output=True, check=False).returncode == 0 else ("--no-index",)
    features = () if local else ("--use-feature=fast-deps",)
    flags = ("--dry-run", "--quiet", "--report", "-", "--retries", "1", "--timeout", "15", *features, *local)

    def resolve(*arguments: str) -> Resolution:
        command = pip(python, "install", *flags, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return Resolution(read_report(done.stdout))
        if "connection broken" in done.stderr:
            return Resolution({}, "no answer from the package index")
        lines = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
        return Resolution({}, lines[-1].removeprefix("ERROR: "))

    return resolve


def read_report(text: str) -> dict[str, str]:
    """Normalized name -> version, from the JSON of `pip install --report`."""
    metadata = [item["metadata"] for item in json.loads(text)["install"]]
    return {re.sub(r"[-_.]+", "-", m["name"]).lower(): m["version"] for m in metadata}


def provide(python: str | os.PathLike[str], hosts: list[str], say: Callable[[str], None]) -> Found:
    """Give `python` a torch, with numpy and Triton: its own, that of the first host which has one, or a new one."""
    target = find(python)
    if target is None:
        raise SetupError(f"{python} does not run")
    if not target.torch:
        found = next((f for f in map(find, hosts) if f and f.shareable_with(target)), None)
        if found:
            say(f"torch {found.torch} is shared from {', '.join(share(found, target))}")
        else:
            say("no torch yet: asking pip which build it offers")
            choice = choose(bool(gpu_names()), resolver(python))
            say(choice.notice)
            install(python, *choice.arguments, "numpy")
        target = find(python) or target
    companions = {"numpy": "numpy"}
    if sys.platform == "linux":  # Triton has wheels for no other system of ours
        companions["triton"] = f"triton=={TRITON}" if target.torch.split("+")[0] == TORCH else "triton"
    if missing := [requirement for name, requirement in companions.items() if name not in target.folders]:
        install(python, *missing)
    return find(python) or target


def install(python: str | os.PathLike[str], *arguments: str) -> None:
    """pip install, its lines and progress bars shown; PIP_USER off, which a virtual environment refuses."""
    done = subprocess.run(pip(python, "install", *arguments), env={**os.environ, "PIP_USER": "0"}, check=False)
    if done.returncode:
        raise SetupError(f"pip could not install {' '.join(arguments)}: its own lines are above")
