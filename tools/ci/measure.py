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
        CiError: the runner is not what its label says, this is not main, or something was not measured.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.ci.measure", description=__doc__)
    parser.add_argument("label", help="the runner's label, asv's name of the machine: h100")
    parser.add_argument("--remote", default="origin", help="name of the remote whose main is measured")
    parser.add_argument(
        "--comparisons", type=Path, required=True, help="folder for what was compared in earlier nights"
    )
    options = parser.parse_args()
    machine = here(options.label)
    branch_main(options.remote)
    # Before all else, and also where nothing is new: this runner's .venv is absent, and the comparisons need it.
    if bootstrap.main(["env"]):
        raise CiError("the environment could not be made: its own lines are above")
    fetch(options.remote, bootstrap.RESULTS, machine, options.comparisons)
    # Before asv begins, because the step may be cut off and what was measured until then counts. What asv has not
    # come to change `results_branch push` leaves out.
    set_outputs({"machine": machine})
    commit = git("rev-parse", "main")
    if any((bootstrap.RESULTS / machine).glob(f"{commit[:8]}-*.json")):
        print(f"{commit[:8]} is measured already")
        return
    arguments = ["bench", "--machine", machine, "--commits", "NEW", "--steps", STEPS]
    if code := bootstrap.main(arguments):
        raise CiError(f"not everything was measured: exit code {code}, its own lines are above")


def branch_main(remote: str) -> None:
    """Have a local branch main, which asv measures and publishes; a runner may have none.

    Raises:
        CiError: the checkout or that branch has commits that main does not have: their numbers are not main's.
    """
    upstream = f"refs/remotes/{remote}/main"
    if not succeeds("show-ref", "--verify", "--quiet", "refs/heads/main"):
        git("branch", "--no-track", "main", upstream)
    for name in ("HEAD", "main"):
        if not succeeds("merge-base", "--is-ancestor", name, upstream):
            raise CiError(f"{name} is not on main of {remote}: only main is measured")


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
