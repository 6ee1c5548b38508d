"""`python -m benchmarks mrope` and `rope`: the flags of vLLM's benchmarks, and what runs them."""

import argparse
import html
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

HEAD_SIZE, ROTARY_DIM = 128, 32  # the seed's defaults


def add_commands(commands: Any) -> None:
    """Add both to argparse's sub-parsers."""
    from benchmarks import shapes

    mrope = commands.add_parser("mrope", help="multimodal RoPE of models, as vLLM's benchmark_mrope.py")
    mrope.add_argument(
        "--model-name", nargs="+", default=[""], help="table, config file or hub; empty: 16 model shards"
    )
    mrope.add_argument("--tp-size", type=_positive, nargs="+", help="default: 1, or the 16 shards' own")
    mrope.add_argument("--num-tokens", type=_positive, nargs="+", default=list(shapes.MROPE_NUM_TOKENS))
    mrope.add_argument("--trust-remote-code", action="store_true", help="let a model of the hub run code of its own")
    mrope.add_argument("--output-csv", type=Path, default=Path("mrope_benchmark_results.csv"), help="vLLM's format")
    mrope.add_argument("--positions", choices=_positions(), default="uniform")
    _add_common(mrope)
    mrope.add_argument("--output-long-csv", type=Path, help="default: beside --output-csv, _long added to its name")

    rope = commands.add_parser("rope", help="RoPE of any shape, as vLLM's benchmark_rope.py")
    rope.add_argument("--head-size", type=_positive, nargs="+", default=[HEAD_SIZE])
    rope.add_argument("--rotary-dim", type=_positive, nargs="+", default=[ROTARY_DIM], help="even, up to the head size")
    rope.add_argument("--is-neox-style", type=_truth, nargs="?", const=True, default=True, metavar="BOOL")
    rope.add_argument("--no-is-neox-style", dest="is_neox_style", action="store_false", help="GPT-J pairing")
    rope.add_argument("--batch-size", type=_positive, nargs="+", default=list(shapes.ROPE_BATCH_SIZES))
    rope.add_argument("--seq-len", type=_positive, nargs="+", default=list(shapes.ROPE_SEQ_LENS))
    rope.add_argument("--num-heads", type=_positive, nargs="+", default=list(shapes.ROPE_NUM_HEADS))
    rope.add_argument("--num-kv-heads", type=_positive, nargs="+", help="default: as many as heads")
    rope.add_argument("--save-path", type=Path, default=Path("configs/rope"), help="folder for CSV, plots and page")
    _add_common(rope)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--provider", nargs="+", action="extend", help="names, or package.module:function for a kernel of yours"
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warmup-iter", type=_natural, default=10, help="single calls before the statistics")
    parser.add_argument("--benchmark-iter", type=_positive, default=100, help="single calls in the statistics")
    parser.add_argument("--device", help="default: the GPU, else the CPU")
    parser.add_argument(
        "--layout", choices=("contiguous", "packed"), default="contiguous", help="packed: slices of qkv"
    )
    parser.add_argument("--output", choices=("in-place", "new"), default="in-place", help="new: into new tensors")
    parser.add_argument(
        "--cache", choices=("cold", "hot"), default="cold", help="whether a call finds q and k in the L2 cache"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the long CSV that is there")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON instead of the table")


def run_mrope(options: argparse.Namespace) -> int:
    """Run `mrope`; 0 if every row has a number or a reason, 2 raises as ValueError, 130 for an interruption."""
    from benchmarks import records, seeds

    cells = seeds.mrope_cells(
        options.model_name,
        options.tp_size,
        options.num_tokens,
        seeds.DTYPES[options.dtype],
        positions=options.positions,
        is_packed=options.layout == "packed",
        in_place=options.output == "in-place",
        trust_remote_code=options.trust_remote_code,
    )
    csv = options.output_csv
    long_csv = options.output_long_csv or csv.with_name(f"{csv.stem}_long{csv.suffix}")

    def finish(found: Sequence[records.Record]) -> list[Path]:
        records.write_csv(csv, records.MROPE_HEADER, records.mrope_rows(found))
        return [csv]

    return _run(cells, options, long_csv, finish)


def run_rope(options: argparse.Namespace) -> int:
    """Run `rope`; exit codes as run_mrope."""
    from benchmarks import records, seeds

    cells = seeds.rope_cells(
        options.batch_size,
        options.seq_len,
        options.num_heads,
        options.num_kv_heads,
        options.head_size,
        options.rotary_dim,
        options.is_neox_style,
        seeds.DTYPES[options.dtype],
        is_packed=options.layout == "packed",
        in_place=options.output == "in-place",
    )
    stem = "rope-perf-neox-style" if options.is_neox_style else "rope-perf"
    folder = options.save_path

    def finish(found: Sequence[records.Record]) -> list[Path]:
        records.write_csv(folder / f"{stem}.csv", records.ROPE_HEADER, records.rope_rows(found))
        return [folder / f"{stem}.csv", *_page(folder, stem, found)]

    return _run(cells, options, folder / f"{stem}_long.csv", finish)


def _run(cells: Sequence[Any], options: argparse.Namespace, long_csv: Path, finish: Any) -> int:
    import torch

    from benchmarks import providers, records, seeds, summary, sweep

    chosen = providers.find(options.provider or list(providers.SEED_PROVIDERS))
    place = sweep.place_of(options.device)
    if place == "cpu":
        torch.set_num_threads(1)
    settings = seeds.settings_for(
        place, options.warmup_iter, options.benchmark_iter, options.seed, is_cold=options.cache == "cold"
    )
    log = records.Log(long_csv, resume=options.resume)
    progress = _Progress(len(cells) * len(chosen))
    interrupted = False
    try:
        for record in sweep.run(cells, chosen, settings, tuple(log.records)):
            log.add(record)
            progress.step(f"{summary.title(record)}, {record.num_tokens} tokens, {record.provider}")
    except KeyboardInterrupt:
        interrupted = True
    progress.end()
    wanted = {sweep.shape_of(cell, settings) for cell in cells}
    found = [record for record in log.records if record.shape in wanted]
    written = finish(found) if found else []
    if options.json:
        print(json.dumps([asdict(record) for record in found]))
    else:
        clock = "wall time, one thread" if place == "cpu" else f"GPU time, {options.cache} L2 cache"
        print(f"{settings.machine}; {clock}; us\n")
        print(summary.table(found))
        for text in (summary.reasons(found), summary.advice(found)):
            print(f"\n{text}" if text else "")
    print("\n".join(str(path) for path in (long_csv, *written)), file=sys.stderr)
    if interrupted:
        print(f"interrupted; --resume goes on with {long_csv}", file=sys.stderr)
    return 130 if interrupted else 0


def _page(folder: Path, stem: str, found: Sequence[Any]) -> list[Path]:
    """Plots and results.html; the pictures only where matplotlib is installed."""
    from benchmarks import report, summary

    pictures = {f"{stem}.png": False, f"{stem}-speedup.png": True}
    written = []
    for name, is_speedup in pictures.items():
        try:
            report.plot_sweep(found, folder / name, speedup=is_speedup)
        except (ImportError, ValueError) as error:  # no matplotlib, or no number to draw
            print(f"{name} is not drawn: {error}", file=sys.stderr)
            continue
        written.append(folder / name)
    rows = [line.strip("| ").split(" | ") for line in summary.table(found).splitlines()]
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text.strip('*'))}</td>" for text in row) + "</tr>"
        for row in [rows[0], *rows[2:]]
    )
    images = "".join(f'<p><img src="{path.name}" alt="{path.stem}" style="max-width:100%"></p>' for path in written)
    texts = "".join(
        f"<pre>{html.escape(text)}</pre>" for text in (found[0].machine, summary.advice(found), summary.reasons(found))
    )
    page = folder / "results.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><title>{stem}</title><body style="font-family:sans-serif">'
        f"<h1>{stem}</h1>{images}<table>{cells}</table>{texts}",
        encoding="utf-8",
    )
    return [*written, page]


class _Progress:
    """A line on a terminal's stderr that is written over: rows done, the row just measured, time left."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.start = total, 0, time.monotonic()
        self.shown = sys.stderr.isatty()

    def step(self, text: str) -> None:
        """One row more."""
        self.done += 1
        left = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        if self.shown:
            print(f"\r\x1b[2K[{self.done}/{self.total}] {left:.0f} s left; {text}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self.shown and self.done:
            print(file=sys.stderr)


def _positions() -> tuple[str, ...]:
    from benchmarks.workload import POSITIONS

    return POSITIONS


def _number(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text!r}")
    return number


def _positive(text: str) -> int:
    return _number(text, 1)


def _natural(text: str) -> int:
    return _number(text, 0)


def _truth(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return words[text.lower()]
