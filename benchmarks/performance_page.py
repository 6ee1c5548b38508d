"""The performance page: tables, comparisons and targets, from the rows of one run."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks import shapes
from benchmarks.performance import Row
from benchmarks.providers import PROVIDERS

OURS = ("triton", "triton alone")
LARGE_MB = 160.0
"""From this traffic on bandwidth is all that counts."""

_Times = Mapping[tuple[str, int, str], float]


def page(rows: Sequence[Row], pictures: Sequence[str] = ()) -> str:
    """Markdown of a whole run.

    Args:
        rows: of one run.
        pictures: file names to show, next to the page.
    """
    machines = list(dict.fromkeys(row.machine for row in rows))
    parts = [f"Measured on: {machine}." for machine in machines]
    parts += [
        "GPU time of a call in microseconds, bfloat16, cold L2 cache, float32 table, random positions. The roofline is "
        "an in-place elementwise kernel over the same bytes; its calls do not overlap, those of `triton` do: small "
        "rows pass 100 %."
    ]
    parts += [f"![{name}]({name})" for name in pictures]
    parts += ["## Tables", tables(rows), notes(rows)]
    parts += ["## Host cost", host(rows)] if any(row.table in shapes.HOST for row in rows) else []
    parts += ["## Speedup", comparisons(rows), "## Share of the roofline", bandwidth(rows), "## Layouts", layouts(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def tables(rows: Sequence[Row]) -> str:
    """A table for each shape of shapes.TABLES: tokens down, providers across, the fastest in bold, "-" where there is
    no number; at the end the share of the roofline of ours.
    """
    lines: list[str] = []
    for title in shapes.TABLES:
        cells: dict[int, dict[str, Row]] = {}
        for row in rows:
            if row.table == title:
                cells.setdefault(row.num_tokens, {})[row.provider] = row
        if not cells:
            continue
        found = {name for by_provider in cells.values() for name, row in by_provider.items() if row.us is not None}
        names = [name for name in PROVIDERS if name in found]
        ours = [name for name in OURS if name in found]
        lines += [f"**{title}**", ""]
        lines.append(f"| tokens | {' | '.join(names)} | {' | '.join(f'roofline, {name}' for name in ours)} |")
        lines.append("| --- " * (1 + len(names) + len(ours)) + "|")
        for num_tokens, by_provider in cells.items():
            times = [row.us for row in by_provider.values() if row.us is not None]
            texts = [_cell(by_provider.get(name), min(times, default=None)) for name in names]
            texts += [_share(by_provider.get(name)) for name in ours]
            lines.append(f"| {num_tokens} | {' | '.join(texts)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def host(rows: Sequence[Row]) -> str:
    """What the host pays to issue one eager call at one token: providers down, shapes across; least and most behind."""
    found = {(row.provider, row.table): row for row in rows if row.table in shapes.HOST and row.us is not None}
    names = list(dict.fromkeys(name for name, _ in found))
    lines = [
        "Microseconds of an eager call at one token, argument checks included, least and most of ten samples behind.",
        "",
    ]
    lines += [f"| provider | {' | '.join(shapes.HOST)} |", "| --- " * (1 + len(shapes.HOST)) + "|"]
    for name in names:
        cells = [found.get((name, table)) for table in shapes.HOST]
        texts = ["-" if row is None else f"{row.us:.1f} ({row.us_min:.1f} - {row.us_max:.1f})" for row in cells]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines)


def notes(rows: Sequence[Row]) -> str:
    """What each provider's time leaves out or includes, and why it has no number where it has none."""
    lines = [f"- {name}: {PROVIDERS[name].note}." for name in PROVIDERS if PROVIDERS[name].note]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.us is None:
            tables = reasons.setdefault((row.provider, row.status), [])
            if row.table not in tables:
                tables.append(row.table)
    lines += [f"- no number of {name}: {status} ({'; '.join(where)})" for (name, status), where in reasons.items()]
    return "\n".join(lines)


def comparisons(rows: Sequence[Row]) -> str:
    """Geometric mean and smallest speedup of ours over every other provider, for each grid and for the tables."""
    times = _times(rows)
    lines = ["| shapes | of | over | rows | geometric mean | smallest | at | rows slower |", "| --- " * 8 + "|"]
    for title, group in {**shapes.GRIDS, "tables": shapes.TABLES}.items():
        cells = [(table, n) for table, (_, counts) in group.items() for n in counts]
        for ours in OURS:
            for other in PROVIDERS:
                pairs = {
                    (table, n): times[table, n, other] / times[table, n, ours]
                    for table, n in cells
                    if (table, n, other) in times and (table, n, ours) in times
                }
                if other.startswith("triton") or not pairs:
                    continue
                count = sum(cell in pairs for cell in cells)  # a product of batch and sequence counts as often as it is
                mean = statistics.geometric_mean([pairs[cell] for cell in cells if cell in pairs])
                (table, n), least = min(pairs.items(), key=lambda item: item[1])
                slower = sum(pairs.get(cell, 2.0) < 1 for cell in cells)
                where = f"{table}, {n} tokens"
                lines.append(
                    f"| {title} | {ours} | {other} | {count} | {mean:.2f} | {least:.2f} | {where} | {slower} |"
                )
    return "\n".join(lines)


def bandwidth(rows: Sequence[Row]) -> str:
    """The smallest share of the roofline among rows of 160 MB and more, for each table."""
    lines = [f"| table | {' | '.join(f'{name}, least share from 160 MB' for name in OURS)} |", "| --- | --- | --- |"]
    for title in shapes.TABLES:
        texts = []
        for name in OURS:
            found = [
                (row.share_of_roofline, row.num_tokens)
                for row in rows
                if (row.table, row.provider) == (title, name)
                and row.share_of_roofline is not None
                and row.traffic_mb >= LARGE_MB
            ]
            share, num_tokens = min(found, default=(0.0, 0))
            texts.append(f"{share:.1%} at {num_tokens} tokens" if found else "-")
        if texts != ["-", "-"]:
            lines.append(f"| {title} | {' | '.join(texts)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def layouts(rows: Sequence[Row]) -> str:
    """What a pairing, an axis layout or a memory layout costs at 1024 tokens and more: time over the plainer one's."""
    times = _times(rows)
    costs = {  # title -> (table, provider; None: ours), over the same of the plainer layout
        "GPT-J over NeoX": (shapes.GPTJ, None, shapes.NEOX),
        "slices of qkv over contiguous": (shapes.PACKED, None, shapes.NEOX),
        "chunked mRoPE over 1-D": (shapes.CHUNKED, None, shapes.NEOX),
        "interleaved over chunked mRoPE": (shapes.INTERLEAVED, None, shapes.CHUNKED),
        "out of place over in place": (shapes.NEOX, "triton out of place", shapes.NEOX),
    }
    counts = (1024, 8192, 65536, 131072)
    lines = [f"| 32 / 8 heads | of | {' | '.join(f'{n} tokens' for n in counts)} |", "| --- " * (2 + len(counts)) + "|"]
    for title, (table, name, plainer) in costs.items():
        for ours in OURS if name is None else ("triton",):
            cells = [(times.get((table, n, name or ours)), times.get((plainer, n, ours))) for n in counts]
            if any(a and b for a, b in cells):
                texts = [f"{a / b:.3f}" if a and b else "-" for a, b in cells]
                lines.append(f"| {title} | {ours} | {' | '.join(texts)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _times(rows: Sequence[Row]) -> _Times:
    return {(row.table, row.num_tokens, row.provider): row.us for row in rows if row.us is not None}


def _cell(row: Row | None, best: float | None) -> str:
    if row is None or row.us is None:
        return "-"
    text = f"{row.us:.2f}" if row.us < 100 else f"{row.us:.0f}"
    return f"**{text}**" if row.us == best else text


def _share(row: Row | None) -> str:
    return "-" if row is None or row.share_of_roofline is None else f"{row.share_of_roofline:.1%}"
