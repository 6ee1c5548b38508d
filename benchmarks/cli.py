"""The command line: `python -m benchmarks COMMAND`. Printing lives here, in seed_cli, console and two command.py."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import merge, seed_cli
from benchmarks.compare import command
from benchmarks.shards import command as shards

PARTS = ("host", "tables", "grids")


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
    performance = commands.add_parser("performance", help="GPU time of every provider on the shapes others publish")
    performance.add_argument("--provider", nargs="+", help="providers to measure; default: all that are known")
    performance.add_argument("--num-tokens", type=int, default=131072, help="the largest token count to measure")
    performance.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="default: all; grids take longest")
    performance.add_argument("--output-csv", type=Path, default=Path("performance.csv"))
    page = commands.add_parser("page", help="write a performance run as a Markdown page with two pictures")
    page.add_argument("page", type=Path, help="page to write, .md; the pictures lie beside it")
    page.add_argument("csv", type=Path, nargs="+", help="what performance wrote: one file, or one for each part")
    block = commands.add_parser("block", help="a transformers attention layer with and without this package")
    block.add_argument("--num-tokens", type=int, nargs="+", default=[1, 128, 1024, 8192])
    accuracy = commands.add_parser("accuracy", help="the error of angles, table, cast and kernel, apart")
    accuracy.add_argument("--model-name", default="Qwen/Qwen2-VL-7B-Instruct", help="as for mrope")
    accuracy.add_argument("--num-tokens", type=int, default=1024)
    accuracy.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    accuracy.add_argument("--provider", nargs="+", help="as for mrope; default: all that are known")
    accuracy.add_argument("--device", help="default: the GPU, else the CPU")
    seed_cli.add_commands(commands)
    command.add_command(commands)
    merge.add_command(commands)
    shards.add_command(commands)
    options = parser.parse_args(arguments)
    run: dict[str, Callable[[argparse.Namespace], int]] = {
        "env": lambda _: _env(),
        "agreement": lambda o: _agreement(o.first, o.second),
        "plot": lambda o: _plot(o.result, o.picture, o.title),
        "performance": lambda o: _performance(o.provider, o.num_tokens, o.output_csv, o.part),
        "page": lambda o: _page(o.page, o.csv),
        "block": lambda o: _block(o.num_tokens),
        "accuracy": lambda o: _accuracy(o.model_name, o.num_tokens, o.dtype, o.provider, o.device),
        "compare": command.run,
        "merge": _merge,
        "run": shards.run,
        "mrope": seed_cli.run_mrope,
        "rope": seed_cli.run_rope,
    }
    try:
        return run[options.command](options)
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


def _performance(names: list[str] | None, largest: int, output_csv: Path, parts: Sequence[str]) -> int:
    from benchmarks import gpu
    from benchmarks.providers import PROVIDERS

    names = names or list(PROVIDERS)
    if unknown := set(names) - PROVIDERS.keys():
        raise ValueError(f"--provider must be among {', '.join(PROVIDERS)}, got {', '.join(sorted(unknown))}")
    if reason := gpu.reason_absent():
        raise ValueError(f"performance measures GPU time and needs a GPU: {reason}")
    from itertools import chain

    from benchmarks import environment, performance, performance_page, shapes, timing

    device, machine = timing.CudaDevice(), environment.line()
    runs = []
    if "host" in parts:
        runs.append(performance.measure_host(names, "cuda", shapes.HOST, machine=machine))
    if "tables" in parts:
        runs.append(performance.measure(device, "cuda", names, shapes.TABLES, largest=largest, machine=machine))
    if "grids" in parts:
        rivals = [name for name in names if name in shapes.GRID_PROVIDERS]
        everything = {title: cells for grid in shapes.GRIDS.values() for title, cells in grid.items()}
        runs.append(
            performance.measure(device, "cuda", rivals, everything, largest=largest, machine=machine, is_grid=True)
        )
    rows = []
    for row in performance.save(chain(*runs), output_csv):
        rows.append(row)
        share = "" if row.share_of_roofline is None else f", {row.share_of_roofline:.0%} of the roofline"
        result = row.status if row.us is None else f"{row.us:.2f} us{share}"
        print(f"{row.table}, {row.num_tokens} tokens, {row.provider}: {result}", flush=True)
    print(performance_page.page(rows))
    print(output_csv)
    return 0


def _page(page: Path, sources: Sequence[Path]) -> int:
    from benchmarks import performance, performance_page, report

    rows = [row for source in sources for row in performance.load(source)]
    pictures = {f"{page.stem}-latency.png": False, f"{page.stem}-roofline.png": True}
    if not any(row.share_of_roofline is not None for row in rows):
        pictures = {}  # a run of the grids alone
    for name, share in pictures.items():
        report.plot_performance(rows, page.with_name(name), share=share)
    links = ", ".join(f"[{source.name}]({source.name})" for source in sources)
    text = f"# Performance on one {rows[0].machine.partition(',')[0]}\n\n"
    text += f"Written by `python -m benchmarks page` from {links}.\n\n"
    page.write_text(text + performance_page.page(rows, list(pictures)), encoding="utf-8")
    print(page)
    return 0


def _block(counts: list[int]) -> int:
    from benchmarks import gpu

    if reason := gpu.reason_absent():
        raise ValueError(f"block measures GPU time and needs a GPU: {reason}")
    from benchmarks import environment, model_block, timing

    print(f"{environment.line()}; attention layer of {model_block.MODEL}, bfloat16, one sequence\n")
    print(model_block.table(list(model_block.measure(timing.CudaDevice(), "cuda", counts))))
    return 0


def _merge(options: argparse.Namespace) -> int:
    if options.sources:
        outcome = merge.merge(options.sources, options.into, prefer=options.prefer, benchmarks=options.benchmarks)
        for line in outcome.lines:
            print(line)
        for path in outcome.changed:
            print(f"written: {path}")
        print(f"{len(options.sources)} merged into {options.into}, {len(outcome.changed)} files changed")
    elif not options.check:
        raise ValueError("merge needs folders of results, or --check")
    if options.check:
        print(f"{options.into}: {merge.check(options.into, Path.cwd())} result files, all whole and of this repository")
    return 0


def _accuracy(model_name: str, num_tokens: int, dtype: str, names: list[str] | None, device: str | None) -> int:
    import torch

    from benchmarks import accuracy, models, presets, providers, sweep
    from benchmarks.workload import Workload

    chosen, place = providers.find(names or list(providers.PROVIDERS)), sweep.place_of(device)
    workload = Workload.of(presets.shard(models.find(model_name)), num_tokens, dtype=getattr(torch, dtype))
    print(f"{model_name}, {num_tokens} tokens, {dtype}, positions below {workload.table_rows}; of the largest input\n")
    print(accuracy.table(list(accuracy.measure(workload, chosen, place))))
    for name in ("bfloat16", "float16"):
        error = accuracy.table_error(workload, place, getattr(torch, name))
        print(f"\na {name} table instead of float32 would cost {error:.1e}")
    return 0
