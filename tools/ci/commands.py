"""git and gh, and how a script fails: one line, exit code 1."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# gh reads the token from GH_TOKEN, so that it is in no command line, no address and no configuration file.
CREDENTIALS = ("-c", "credential.helper=", "-c", "credential.helper=!gh auth git-credential")
AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (
        ("NAME", "github-actions[bot]"),
        ("EMAIL", "41898282+github-actions[bot]@users.noreply.github.com"),
    )
}
LARGEST_ARTIFACT = 50 * 2**20
LARGEST_FILE = 200 * 2**20
BOT = "github-actions[bot]"


class CiError(Exception):
    """An expected failure: its text is what the log says."""


def guarded(run: Callable[[], None]) -> int:
    """Exit code of a script: expected failures end in one line."""
    try:
        run()
    except (CiError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def git(*arguments: str, folder: Path | None = None) -> str:
    """git's output.

    Raises:
        CiError: git fails.
    """
    return _run("git", *arguments, folder=folder).stdout.strip()


def succeeds(*arguments: str, folder: Path | None = None) -> bool:
    """Whether this git command ends well."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **AUTHOR}, capture_output=True, check=False
    )
    return done.returncode == 0


def api(path: str, method: str = "GET", **fields: object) -> Any:
    """What GitHub answers. `path` begins with repos/{owner}/{repo}: gh fills those in from GH_REPO."""
    body = ["--input", "-"] if fields else []
    done = _run("gh", "api", "--method", method, path, *body, text=json.dumps(fields) if fields else None)
    return json.loads(done.stdout) if done.stdout.strip() else None


def pages(path: str, items: str = ".[]") -> list[dict[str, Any]]:
    """Every item of a list that GitHub gives page by page; `items` is a jq expression."""
    done = _run("gh", "api", "--paginate", "--jq", items, path)
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def artifacts(run: str, prefix: str) -> dict[str, bytes | CiError]:
    """The newest artifact of each name in a run -> its zip file, or why not; of the names with this prefix."""
    found: dict[str, dict[str, Any]] = {}
    for item in pages(f"repos/{{owner}}/{{repo}}/actions/runs/{run}/artifacts", ".artifacts[]"):
        name = str(item["name"])
        if name.startswith(prefix) and not item.get("expired") and item["id"] > found.get(name, {"id": -1})["id"]:
            found[name] = item
    return {name: _download(item) for name, item in found.items()}


def _download(item: Mapping[str, Any]) -> bytes | CiError:
    """One artifact that cannot be had is no reason to have none."""
    if item["size_in_bytes"] > LARGEST_ARTIFACT:
        return CiError(f"the artifact is over {LARGEST_ARTIFACT >> 20} MiB, too large to be ours")
    try:
        return _bytes("gh", "api", f"repos/{{owner}}/{{repo}}/actions/artifacts/{item['id']}/zip")
    except CiError as error:
        return error


def unpack(data: bytes | CiError, folder: Path) -> Path:
    """Unpack an artifact of our own; zipfile itself keeps names inside the folder.

    Raises:
        CiError: not a zip file, or larger than anything of ours, or `artifacts` has not got it.
    """
    if isinstance(data, CiError):
        raise data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(item.file_size for item in archive.infolist()) > LARGEST_FILE:
                raise CiError(f"an artifact unpacks to more than {LARGEST_FILE >> 20} MiB")
            archive.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CiError(f"an artifact is no zip file: {error}") from error
    return folder


def set_outputs(values: Mapping[str, str]) -> None:
    """Outputs of a workflow step, printed where there is no workflow.

    Raises:
        CiError: a value has a line break, which could smuggle in another output.
    """
    lines = [f"{name}={value}" for name, value in values.items()]
    if any("\n" in line or "\r" in line for line in lines):
        raise CiError("an output has a line break")
    text = "".join(f"{line}\n" for line in lines)
    print(text, end="")
    if path := os.environ.get("GITHUB_OUTPUT"):
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(text)


def _run(*command: str, folder: Path | None = None, text: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **AUTHOR}, input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CiError(_failure(command, done.stderr))
    return done


def _bytes(*command: str) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise CiError(_failure(command, done.stderr.decode(errors="replace")))
    return done.stdout


def _failure(command: tuple[str, ...], said: str) -> str:
    lines = said.strip().splitlines() or ["nothing said"]
    return f"`{' '.join(word for word in command[:6])}` failed: {lines[-1]}"
