"""The command line: `python -m benchmarks COMMAND`. Printing lives here alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 for success, 1 for a finding, 2 for an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure rotary-embedding kernels.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("env", help="GPU, versions, and which providers work here")
    agreement = commands.add_parser("agreement", help="compare two asv result files of one commit, row by row")
    agreement.add_argument("first", type=Path, help="asv result file of the first run")
    agreement.add_argument("second", type=Path, help="asv result file of the second run")
    plot = commands.add_parser("plot", help="draw GPU time over tokens from an asv result file")
    plot.add_argument("result", type=Path, help="asv result file")
    plot.add_argument("picture", type=Path, help="picture to write, .png or .svg")
    plot.add_argument("--title", default="", help="above the panels; default: machine and commit")
    options = parser.parse_args(arguments)
    try:
        if options.command == "env":
            return _env()
        if options.command == "plot":
            return _plot(options.result, options.picture, options.title)
        return _agreement(options.first, options.second)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _env() -> int:
    from benchmarks import environment

    for title, table in (
        ("device", environment.device()),
        ("versions", environment.versions()),
        ("providers", environment.providers()),
    ):
        print(f"{title}:")
        for name, text in table.items():
            print(f"  {name}: {text}")
    return 0


def _agreement(first: Path, second: Path) -> int:
    from benchmarks import agreement
    from benchmarks.results import read_timed_rows

    pairs = agreement.pair_rows(read_timed_rows(first), read_timed_rows(second))
    print(agreement.report(pairs))
    return int(any(pair.difference > pair.limit for pair in pairs))


def _plot(result: Path, picture: Path, title: str) -> int:
    from benchmarks import report
    from benchmarks.results import read_timed_rows

    default = f"{result.parent.name}, commit {result.name.partition('-')[0]}: bfloat16, in place, cold L2 cache"
    report.plot_latency(read_timed_rows(result), title or default, picture)
    print(picture)
    return 0
