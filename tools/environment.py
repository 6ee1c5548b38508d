"""The virtual environment `.venv` in the repository root: made once, kept until pyproject.toml or Python changes."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

from tools.machine import gpu_names
from tools.torch_source import TORCH, TRITON, Found, SetupError, find, install, provide

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "ropekern-stamp"
# The release that still carried the site's scripts, kept apart from the asv that runs: tools/offline_site.py
SITE_ASSETS = "asv==0.5.1"
SITE_ASSETS_FOLDER = VENV / "share" / "asv-0.5.1"
PROVIDED = {"torch", "triton"}  # come from torch_source; pip must not choose others


def ensure(extras: set[str], say: Callable[[str], None]) -> None:
    """Make .venv hold the project in editable mode with these extras; without network where it already does."""
    digest = fingerprint((ROOT / "pyproject.toml").read_bytes())
    stamped = STAMP.read_text(encoding="utf-8") if STAMP.exists() else ""
    if is_fresh(stamped, digest, extras) and PYTHON.exists():
        return
    create(say)
    found = provide(PYTHON, [sys.executable], say)
    say(f"installing the project and its extras {', '.join(sorted(extras))} into .venv")
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    constraints = VENV / "ropekern-constraints.txt"
    constraints.write_text(constrain(found), encoding="utf-8")
    install(PYTHON, "--constraint", str(constraints), *requirements(pyproject, extras))
    if gpu_names() and "flashinfer" not in found.folders:
        add_flashinfer(constraints, requirements(pyproject, {"flashinfer"}), say)
    install(PYTHON, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    if "asv" in extras:
        add_site_assets(say)
    before = stamped.split()[1:] if stamped.startswith(digest) else []
    STAMP.write_text("\n".join([digest, *sorted(extras.union(before))]) + "\n", encoding="utf-8")


def add_flashinfer(constraints: Path, wanted: list[str], say: Callable[[str], None]) -> None:
    """A machine with a GPU measures it; without it all else still runs, and its rows fail and say why."""
    say("installing FlashInfer, which is measured on a GPU")
    try:
        install(PYTHON, "--constraint", str(constraints), *wanted)
    except SetupError as error:
        say(f"FlashInfer's rows will fail: {error}")


def add_site_assets(say: Callable[[str], None]) -> None:
    """Only the site needs them: without them tests and measurements still run."""
    if SITE_ASSETS_FOLDER.exists():
        return
    try:
        install(PYTHON, "--quiet", "--no-deps", "--target", str(SITE_ASSETS_FOLDER), SITE_ASSETS)
    except SetupError as error:
        say(f"the site cannot be published until its scripts are there: {error}")


def fingerprint(pyproject: bytes) -> str:
    """Changes whenever .venv must be looked at again: what is wanted, of which Python, in which folder."""
    parts = [pyproject, sys.version.encode(), str(ROOT).encode(), TORCH.encode(), TRITON.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_fresh(stamped: str, digest: str, extras: set[str]) -> bool:
    """A stamp holds the digest, then the extras that are installed."""
    words = stamped.split()
    return bool(words) and words[0] == digest and extras.issubset(words[1:])


def requirements(pyproject: dict[str, object], extras: set[str]) -> list[str]:
    """What pip must install for these extras and for building the project, without torch and triton."""
    project, build = table(pyproject, "project"), table(pyproject, "build-system")
    optional = table(project, "optional-dependencies")
    if unknown := extras - optional.keys():
        raise SetupError(f"pyproject.toml has no extra {', '.join(sorted(unknown))}; it has {', '.join(optional)}")
    wanted = [*texts(build.get("requires")), *texts(project.get("dependencies"))]
    for extra in sorted(extras):
        wanted += texts(optional[extra])
    return [requirement for requirement in dict.fromkeys(wanted) if name_of(requirement) not in PROVIDED]


def table(parent: dict[str, object], key: str) -> dict[str, object]:
    """A table of a TOML table, empty where there is none."""
    value = parent.get(key, {})
    return value if isinstance(value, dict) else {}


def texts(value: object) -> list[str]:
    """A TOML array of strings, empty where there is none."""
    return [str(item) for item in value] if isinstance(value, list) else []


def name_of(requirement: str) -> str:
    """`Some_Package[x]>=1` -> `some-package`."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def constrain(found: Found) -> str:
    """A pip constraints file that keeps the torch which is there."""
    return f"torch=={found.torch}\n" if found.torch else ""


def create(say: Callable[[str], None]) -> None:
    """An environment of this very Python version; one of another version is replaced."""
    here, there = find(sys.executable), find(PYTHON)
    if here and there and here.python == there.python:
        return
    if Path(sys.prefix) == VENV:
        raise SetupError(".venv is active and incomplete: run `deactivate`, then try again")
    say(f"creating .venv with Python {sys.version.split()[0]} ({sys.executable})")
    makers = {"ensurepip": ["venv"], "virtualenv": ["virtualenv", "--quiet"]}  # Debian ships venv without ensurepip
    maker = next((command for module, command in makers.items() if importlib.util.find_spec(module)), None)
    if maker is None:
        raise SetupError(f"{sys.executable} has neither ensurepip (Debian: apt install python3-venv) nor virtualenv")
    command = [sys.executable, "-m", *maker, "--clear", str(VENV)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise SetupError(f"could not create .venv with {maker[0]}: {lines[-1]}")
