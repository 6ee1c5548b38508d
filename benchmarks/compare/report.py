"""A comparison as text for a pull request, as JSON and as a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.outcome import Outcome, Row, geometric_means
from benchmarks.compare.verdicts import Verdict

_ORDER = (Verdict.SLOWER, Verdict.FASTER, Verdict.INCONCLUSIVE, Verdict.INVALID, Verdict.SAME)
_COLOURS = {
    Verdict.SLOWER: "#d55e00",
    Verdict.FASTER: "#009e73",
    Verdict.SAME: "#0072b2",
    Verdict.INCONCLUSIVE: "#999999",
    Verdict.INVALID: "#000000",
}


def headline(outcome: Outcome) -> str:
    """One line: what a reviewer wants to know first."""
    if outcome.invalid:
        return f"INVALID run: {'; '.join(outcome.invalid)}"
    counts = {verdict: sum(row.finding.verdict == verdict for row in outcome.rows) for verdict in _ORDER}
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    if outcome.missing:
        return f"INVALID run: {len(outcome.missing)} expected rows are missing; besides, {words or 'nothing'}"
    return f"{'Regression' if counts[Verdict.SLOWER] else 'No regression found'}: {words}"


def markdown(outcome: Outcome, title: str, notes: Sequence[str], facts: Sequence[str]) -> str:
    """The whole report.

    Args:
        outcome: of the comparison.
        title: which commits.
        notes: what a reader should know.
        facts: machine, versions, times.
    """
    lines = [f"## {title}", "", f"**{headline(outcome)}**", ""]
    lines += [f"- {note}" for note in notes]
    lines += [f"- missing: {name}: {why}" for name, why in outcome.missing.items()]
    shown = [row for verdict in _ORDER[:-1] for row in outcome.rows if row.finding.verdict == verdict]
    same = [row for row in outcome.rows if row.finding.verdict == Verdict.SAME]
    if shown:
        lines += ["", *_table(shown)]
    if same:
        lines += ["", f"<details><summary>{len(same)} rows SAME</summary>", "", *_table(same), "", "</details>"]
    if outcome.rows:
        lines += ["", "| geometric mean of head / base | rows | ratio |", "| --- | --- | --- |"]
        lines += [
            f"| {label} | {count} | {mean:.4f} |" for label, (count, mean) in geometric_means(outcome.rows).items()
        ]
    if outcome.controls or outcome.doubled:
        lines += ["", "Controls (a frozen kernel in both commits' processes; a second process of the base):", ""]
        lines += _table([*outcome.controls, *outcome.doubled])
    return "\n".join([*lines, "", *(f"{fact}  " for fact in facts)])


def _table(rows: Sequence[Row]) -> list[str]:
    lines = ["| verdict | row | base, us | head, us | ratio | 95 % interval |", "| --- " * 6 + "|"]
    for row in rows:
        f = row.finding
        verdict = f"{f.verdict}{'' if not row.was_flagged or f.verdict in _ORDER[:2] else ' (flag not confirmed)'}"
        times = f"{row.base_seconds * 1e6:.2f} | {row.head_seconds * 1e6:.2f}"
        lines.append(
            f"| {verdict} | {row.cell.name} | {times} | {f.ratio:.4f} | {f.ratio_low:.4f} - {f.ratio_high:.4f} |"
        )
    return lines


def as_json(outcome: Outcome, header: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """Everything, for programs."""

    def row(row: Row) -> dict[str, Any]:
        f = row.finding
        numbers = {
            "ratio": f.ratio,
            "ratio_low": f.ratio_low,
            "ratio_high": f.ratio_high,
            "margin": f.margin,
            "base_seconds": row.base_seconds,
            "head_seconds": row.head_seconds,
        }
        return {
            **row.cell.message(),
            "name": row.cell.name,
            "verdict": str(f.verdict),
            "was_flagged": row.was_flagged,
            "pairs": f.pairs,
            **{name: None if math.isnan(value) else value for name, value in numbers.items()},
        }

    return {
        "header": header,
        "headline": headline(outcome),
        "exit_code": outcome.exit_code,
        "notes": list(notes),
        "invalid": outcome.invalid,
        "missing": outcome.missing,
        "rows": [row(r) for r in outcome.rows],
        "controls": [row(r) for r in outcome.controls],
        "doubled": [row(r) for r in outcome.doubled],
    }


def plot(outcome: Outcome, title: str, path: Path) -> None:
    """All ratios with their intervals, slowest first.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no row to draw.
    """
    from matplotlib.figure import Figure

    rows = sorted(
        (row for row in outcome.rows if not math.isnan(row.finding.log_ratio)), key=lambda row: row.finding.log_ratio
    )
    if not rows:
        raise ValueError("no row to draw")
    figure = Figure(figsize=(9, 1.6 + 0.19 * len(rows)), layout="constrained")
    axes = figure.subplots()
    margin = max(row.finding.margin for row in rows)
    axes.axvspan(math.exp(-margin), math.exp(margin), color="#e8e8e8", label="margin")
    axes.axvline(1.0, color="#555555", linewidth=0.8)
    for verdict in _ORDER:
        members = [(i, row.finding) for i, row in enumerate(rows) if row.finding.verdict == verdict]
        if members:
            middle = [f.ratio for _, f in members]
            reach = ([f.ratio - f.ratio_low for _, f in members], [f.ratio_high - f.ratio for _, f in members])
            places = [i for i, _ in members]
            axes.errorbar(
                middle, places, xerr=reach, fmt="o", markersize=4, color=_COLOURS[verdict], label=str(verdict)
            )
    axes.set_yticks(range(len(rows)), [row.cell.name for row in rows], fontsize=7)
    axes.set_ylim(-1, len(rows))
    axes.set_xlabel("head / base, 95 % interval")
    axes.set_title(title)
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
