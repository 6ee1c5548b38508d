"""`python -m tools.ci.measure LABEL`: measure on this runner what is new on main, beside what it measured before."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools import bootstrap
from tools.ci.commands import CiError, git, guarded, set_outputs, succeeds
from tools.ci.results_branch import fetch
from tools.machine import cpu_name, gpu_names, machine_name

STEPS = "6"
"""Commits a night at most, evenly spread; a new machine would begin with the whole history."""


def main() -> None:
    """Read the command line, measure, set the output machine.

    Raises:
        CiError: the runner is not what its label says, or something was not measured.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.ci.measure", description=__doc__)
    parser.add_argument("label", help="the runner's label, asv's name of the machine: h100")
    parser.add_argument("--remote", default="origin")
    parser.add_argument(
        "--comparisons", type=Path, required=True, help="folder for what was compared in earlier nights"
    )
    options = parser.parse_args()
    machine = here(options.label)
    set_outputs({"machine": machine})
    if not succeeds("show-ref", "--verify", "--quiet", "refs/heads/main"):
        git("branch", "main", "HEAD")  # asv measures and publishes a local branch; a runner may have none
    fetch(options.remote, bootstrap.RESULTS, machine, options.comparisons)
    commit = git("rev-parse", "main")
    if any((bootstrap.RESULTS / machine).glob(f"{commit[:8]}-*.json")):
        print(f"{commit[:8]} is measured already")
        return
    arguments = ["bench", "--machine", machine, "--commits", "NEW", "--steps", STEPS]
    if code := bootstrap.main(arguments):
        raise CiError(f"not everything was measured: exit code {code}, its own lines are above")


def here(label: str) -> str:
    """asv's name of this machine.

    Raises:
        CiError: there is no GPU, or another than the label says: its numbers would spoil a series.
    """
    gpus = gpu_names()
    if not gpus:
        raise CiError(f"this runner is labelled {label} and shows no GPU: nvidia-smi finds none")
    name = machine_name(gpus, cpu_name())
    if name != label:
        raise CiError(f"this runner is labelled {label}, its GPU is {gpus[0]}: its label must be {name}")
    return name


if __name__ == "__main__":
    raise SystemExit(guarded(main))
