"""What the Speedup page shows: times and shares of the roofline by machine, commit, provider, model and tokens."""

import ast
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from tools.stored_results import Cell, Key, Machine, Result

# Class of timed benchmarks -> the kind of its rows. On a machine with a GPU the last is n/a, elsewhere the others are.
TIMED: Final = {"bench_rope.Rope": "RoPE", "bench_mrope.Mrope": "mRoPE", "bench_cpu.Cpu": "CPU"}
ROOFLINE: Final = "bench_relative.RelativeToRoofline"
PROVIDERS: Final = ("native", "triton", "flashinfer")  # the order of legends; others follow
MACHINE_FIELDS: Final = ("gpu", "cpu", "num_cpu", "ram", "os", "arch")

Tables = dict[str, dict[str, list[Cell | None]]]
"""Provider -> model -> a cell for each token count; None where no such row was run."""


def build(
    machines: Sequence[Machine],
    benchmarks: Mapping[str, Any],
    commits: Mapping[str, str],
    published: Collection[str],
) -> dict[str, Any]:
    """All that the page shows, as JSON knows it.

    Args:
        machines: what is stored.
        benchmarks: benchmarks.json; rows of another version of a benchmark are left out, as asv does.
        commits: hash -> subject, in the order of history; results of other commits are left out.
        published: hashes of the commits on a branch that asv draws.
    """
    models = _models(benchmarks)
    order = {commit_hash: index for index, commit_hash in enumerate(commits)}
    series = []
    dates: dict[str, int] = {}
    for machine in machines:
        stored = [one for one in machine.results if one.commit_hash in order]
        dates |= {one.commit_hash: one.date for one in stored}
        # asv draws one machine's Python 3.12 and 3.13 as two lines; they are two entries here.
        env_names = sorted({one.env_name for one in stored})
        for env_name in env_names:
            results = sorted(
                (one for one in stored if one.env_name == env_name), key=lambda one: order[one.commit_hash]
            )
            name = machine.name if len(env_names) == 1 else f"{machine.name}, {env_name}"
            series.append({"name": name, **_series(machine, results, benchmarks, models)})
    # A machine without a GPU has few numbers or none: it comes last.
    series.sort(key=lambda one: (-_most_numbers(one), one["name"]))
    return {
        "commits": [
            {
                "hash": commit_hash,
                "subject": subject,
                "date": dates[commit_hash],
                "published": commit_hash in published,
            }
            for commit_hash, subject in commits.items()
            if commit_hash in dates
        ],
        "models": [{"name": name, "kind": TIMED[place], "benchmark": place} for name, place in models.items()],
        "providers": _providers(benchmarks),
        "machines": series,
    }


def machines_with_numbers(machines: Sequence[Machine]) -> dict[str, list[str]]:
    """Benchmark -> names of the machines on which one of its rows holds a number."""
    found: dict[str, dict[str, None]] = {}
    for machine in machines:
        for stored in machine.results:
            for (benchmark, _), cell in stored.cells.items():
                if isinstance(cell, list):
                    found.setdefault(benchmark, {})[machine.name] = None
    return {benchmark: list(names) for benchmark, names in found.items()}


def _models(benchmarks: Mapping[str, Any]) -> dict[str, str]:
    models: dict[str, str] = {}
    for place in TIMED:
        for name, benchmark in benchmarks.items():
            if name.startswith(f"{place}.time_"):
                for word in benchmark["params"][0]:
                    models.setdefault(ast.literal_eval(word), place)
    return models


def _providers(benchmarks: Mapping[str, Any]) -> list[str]:
    found = {name.partition(".time_")[2] for name in benchmarks if _table(name) == "times"}
    return [name for name in PROVIDERS if name in found] + sorted(found - set(PROVIDERS))


def _table(benchmark: str) -> str | None:
    place = benchmark.rpartition(".")[0]
    return "times" if place in TIMED else "roofline" if place == ROOFLINE else None


def _series(
    machine: Machine, results: Sequence[Result], benchmarks: Mapping[str, Any], models: Collection[str]
) -> dict[str, Any]:
    cells = [_shown(stored, benchmarks) for stored in results]
    tokens = sorted(
        {
            key[1]
            for of_commit in cells
            for (benchmark, key), cell in of_commit.items()
            if _table(benchmark) == "times" and isinstance(cell, list)
        }
    )
    latest = next(iter(machine.environments.items()), None)
    return {
        "about": {field: str(machine.about[field]) for field in MACHINE_FIELDS if machine.about.get(field)},
        "environment": {"commit": latest[0], "versions": latest[1]} if latest else None,
        "tokens": tokens,
        "results": [
            {
                "commit": stored.commit_hash,
                "measured": stored.measured,
                # asv's own come last: it says 3.12 where the other says 3.12.3, and that is no change
                "environment": _environment(machine, stored.commit_hash) | stored.versions,
                **_tables(of_commit, tokens, models),
            }
            for stored, of_commit in zip(results, cells, strict=True)
        ],
    }


def _shown(stored: Result, benchmarks: Mapping[str, Any]) -> dict[Key, Cell]:
    def is_current(benchmark: str) -> bool:
        version = stored.benchmark_versions[benchmark]
        return benchmark in benchmarks and version in {None, benchmarks[benchmark].get("version")}

    return {
        (benchmark, key): cell
        for (benchmark, key), cell in stored.cells.items()
        if _table(benchmark) and is_current(benchmark)
    }


def _environment(machine: Machine, commit_hash: str) -> dict[str, str]:
    found = [versions for commit, versions in machine.environments.items() if commit and commit_hash.startswith(commit)]
    return found[0] if found else {}


def _tables(cells: Mapping[Key, Cell], tokens: Sequence[int], models: Collection[str]) -> dict[str, Tables]:
    tables: dict[str, Tables] = {"times": {}, "roofline": {}}
    for (benchmark, (model, num_tokens)), cell in cells.items():
        table = _table(benchmark)
        if table is None or model not in models or num_tokens not in tokens:
            continue
        provider = benchmark.rpartition(".")[2].partition("_")[2]
        row = tables[table].setdefault(provider, {}).setdefault(model, [None] * len(tokens))
        index = tokens.index(num_tokens)
        # One label and token count may stand for a GPU row and a CPU row, of which one is n/a.
        if row[index] is None or row[index] == "n/a":
            row[index] = cell
    return tables


def _most_numbers(series: Mapping[str, Any]) -> int:
    """Numbers of the commit that has most of them."""
    return max(
        sum(isinstance(cell, list) for rows in result["times"].values() for row in rows.values() for cell in row)
        for result in series["results"]
    )
