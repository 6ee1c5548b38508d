"""Plots of stored results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import summary
from benchmarks.performance import Row as PerformanceRow
from benchmarks.records import Record
from benchmarks.results import Row

# Colours that colour-blind people tell apart (Okabe and Ito), and a mark each for print.
_STYLES = {
    "native": ("#E69F00", "s"),
    "triton": ("#0072B2", "o"),
    "triton alone": ("#56B4E9", "."),
    "flashinfer": ("#009E73", "^"),
    "torch.compile": ("#D55E00", "v"),
    "vllm-like": ("#CC79A7", "D"),
    "liger": ("#000000", "x"),
}

_Panels = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""Title -> provider -> (tokens, value) points."""


def plot_latency(rows: Mapping[Row, float], title: str, path: Path) -> None:
    """GPU time over tokens, log axes, a panel for each model, a line for each provider.

    Args:
        rows: seconds of rows whose parameters are (model, num_tokens); others are left out.
        title: above all panels; it should name the GPU and the commit.
        path: of the picture; its suffix chooses the format.

    Raises:
        ValueError: there is no such row.
    """
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row, seconds in rows.items():
        if row.benchmark in {"bench_rope.Rope", "bench_mrope.Mrope"}:
            kind = row.benchmark.rpartition(".")[2].replace("Rope", "RoPE").replace("Mrope", "mRoPE")
            panels.setdefault(f"{kind}, {row.params[0]}", {}).setdefault(row.provider, []).append(
                (int(row.params[1]), seconds * 1e6)
            )
    if not panels:
        raise ValueError("there is no row of GPU time to plot")
    _plot(dict(sorted(panels.items())), title, "GPU time of a call, us", path, log_values=True)


def plot_performance(rows: Sequence[PerformanceRow], path: Path, *, share: bool = False) -> None:
    """A panel for each table of a performance run, a line for each provider, over tokens.

    Args:
        rows: of one run; those without a share of the roofline (the grids) are left out.
        path: of the picture; its suffix chooses the format.
        share: draw shares of the roofline, else GPU times.

    Raises:
        ValueError: there is no such row.
    """
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        if row.us is not None and row.share_of_roofline is not None and row.provider in _STYLES:
            value = row.share_of_roofline if share else row.us
            panels.setdefault(row.table, {}).setdefault(row.provider, []).append((row.num_tokens, value))
    if not panels:
        raise ValueError("there is no row with a share of the roofline to plot")
    label = "share of the roofline" if share else "GPU time of a call, us"
    _plot(panels, rows[0].machine.partition(",")[0] + ", cold L2 cache", label, path, log_values=not share)


def plot_sweep(records: Sequence[Record], path: Path, *, speedup: bool = False) -> None:
    """A panel for each model or shape, a line for each provider over tokens, with the band of its interval.

    Args:
        records: of one run.
        path: of the picture.
        speedup: draw the speedup over native, else the time.

    Raises:
        ValueError: there is no number to draw.
    """
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    bands: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for record in records:
        numbers = (
            (record.speedup, record.speedup_low, record.speedup_high)
            if speedup
            else (record.us, record.us_low, record.us_high)
        )
        value, low, high = numbers
        if value is None or low is None or high is None:
            continue
        title = summary.title(record)
        panels.setdefault(title, {}).setdefault(record.provider, []).append((record.num_tokens, value))
        bands.setdefault(title, {}).setdefault(record.provider, []).append((record.num_tokens, low, high))
    if not panels:
        raise ValueError("there is no number to draw")
    label = "speedup over native" if speedup else "time of a call, us"
    _plot(panels, records[0].machine.partition(",")[0], label, path, log_values=True, bands=bands)


def _plot(
    panels: _Panels,
    title: str,
    label: str,
    path: Path,
    *,
    log_values: bool,
    bands: Mapping[str, Mapping[str, Sequence[tuple[int, float, float]]]] | None = None,
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.2 * columns, 3.2 * lines), sharex=True, sharey=True, squeeze=False
    )
    for axis, (name, providers) in zip(axes.flat, panels.items(), strict=False):
        _draw(axis, name, providers)
        for provider, band in ((bands or {}).get(name, {})).items():
            tokens, low, high = zip(*sorted(band), strict=True)
            axis.fill_between(tokens, low, high, color=_style(provider)[0], alpha=0.25, linewidth=0)
        if log_values:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    if not log_values:  # of all axes, which share it
        axes[0, 0].set_ylim(bottom=0)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("tokens")
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    handles = {text: line for axis in axes.flat for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    names = sorted(handles, key=lambda name: list(_STYLES).index(name) if name in _STYLES else len(_STYLES))
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0.35 / figure.get_figheight(), 1, 1))
    figure.legend([handles[name] for name in names], names, frameon=False, ncols=len(names), loc="lower center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(axis: Any, name: str, providers: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    for provider, points in providers.items():
        colour, marker = _style(provider)
        axis.plot(*zip(*sorted(points), strict=True), color=colour, marker=marker, markersize=5, label=provider)
    axis.set_title(name, fontsize=9)
    axis.set_xscale("log", base=2)
    axis.grid(visible=True, which="major", alpha=0.3)


def _style(provider: str) -> tuple[str, str]:
    return _STYLES.get(provider, ("#999999", "P"))  # a user's own
