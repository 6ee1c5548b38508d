"""Plots of stored results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import Row

# Colours that colour-blind people tell apart (Okabe and Ito), and a mark each for print.
_STYLES = {"native": ("#E69F00", "s"), "triton": ("#0072B2", "o"), "flashinfer": ("#009E73", "^")}


def plot_latency(rows: Mapping[Row, float], title: str, path: Path) -> None:
    """GPU time over tokens, log axes, a panel for each model, a line for each provider.

    Args:
        rows: seconds of rows whose parameters are (model, num_tokens); others are left out.
        title: above all panels; it should name the GPU and the commit.
        path: of the picture; its suffix chooses the format.

    Raises:
        ValueError: there is no such row.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row, seconds in rows.items():
        if row.benchmark in {"bench_rope.Rope", "bench_mrope.Mrope"}:
            kind = row.benchmark.rpartition(".")[2].replace("Rope", "RoPE").replace("Mrope", "mRoPE")
            panels.setdefault(f"{kind}, {row.params[0]}", {}).setdefault(row.provider, []).append(
                (int(row.params[1]), seconds * 1e6)
            )
    if not panels:
        raise ValueError("there is no row of GPU time to plot")
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4 * columns, 3.2 * lines), sharex=True, sharey=True, squeeze=False
    )
    for axis, (name, providers) in zip(axes.flat, sorted(panels.items()), strict=False):
        _draw(axis, name, providers)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("tokens")
    for axis in axes[:, 0]:
        axis.set_ylabel("GPU time of a call, us")
    axes[0, 0].legend(frameon=False)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(axis: Any, name: str, providers: Mapping[str, list[tuple[int, float]]]) -> None:
    for provider, (colour, marker) in _STYLES.items():
        if points := sorted(providers.get(provider, [])):
            axis.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, label=provider)
    axis.set_title(name, fontsize=10)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.grid(visible=True, which="major", alpha=0.3)
