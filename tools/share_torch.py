"""asv's install step, run by each asv environment's own Python: `python -m tools.share_torch` gives it a torch.

Also an asv plugin, so that the step knows which Python runs asv.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tools.torch_source import SetupError, provide

ROOT = Path(__file__).resolve().parent.parent
ASV_PYTHON = "ROPEKERN_ASV_PYTHON"


def setup() -> None:
    """asv calls this in its own process, right after it imported the plugin."""
    os.environ[ASV_PYTHON] = sys.executable


def hosts() -> list[str]:
    """Pythons that may have a torch: .venv's, the one that runs asv, the others on PATH outside this environment."""
    folders = [folder for folder in os.get_exec_path() if Path(folder).resolve() != Path(sys.prefix, "bin").resolve()]
    on_path = [shutil.which(name, path=folder) for folder in folders for name in ("python3", "python")]
    candidates = [str(ROOT / ".venv" / "bin" / "python"), os.environ.get(ASV_PYTHON), *on_path]
    return list(dict.fromkeys(python for python in candidates if python))


def main() -> int:
    """The install step: exit code 1 and one line where no torch can be had."""
    try:
        found = provide(sys.executable, hosts(), print)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"torch {found.torch}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
