"""What a comparison came to: a verdict for each cell, and whether the run may be believed at all."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.compare.cells import CONTROL, Cell, size_group, token_range
from benchmarks.compare.journal import Entry, Journal
from benchmarks.compare.verdicts import Finding, Rules, Verdict, confirm, control_failure, judge, pair_log_ratio

SIGMA = 0.0
"""Standard deviation of a cell's mean log ratio over A/A runs: not measured yet, so the margin is the rules' own."""


@dataclass(frozen=True, slots=True)
class Row:
    """A cell with its finding and its seconds in both commits: medians of process medians."""

    cell: Cell
    finding: Finding
    base_seconds: float
    head_seconds: float
    was_flagged: bool = False
    """The first processes said SLOWER or FASTER; the finding is what new ones made of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of it. `invalid`: reasons for which no row may be believed; `missing`: cell -> why it has no number."""

    rows: list[Row]
    controls: list[Row] = field(default_factory=list)
    doubled: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    invalid: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 clean, 1 confirmed regression, 3 invalid."""
        if self.invalid or self.missing:
            return 3
        return int(any(row.finding.verdict == Verdict.SLOWER for row in self.rows))


def first_look(journal: Journal, cells: Sequence[Cell], rules: Rules) -> list[Row]:
    """Rows of the first phase, not yet confirmed; a cell without a number is left out. Controls are judged apart."""
    return _rows(journal, "first", [cell for cell in cells if cell.provider != CONTROL], rules)


def flagged(rows: Iterable[Row]) -> list[Cell]:
    """Cells that new processes must confirm."""
    return [row.cell for row in rows if row.finding.verdict in {Verdict.SLOWER, Verdict.FASTER}]


def conclude(
    journal: Journal, cells: Sequence[Cell], doubled: Sequence[Cell], rules: Rules, rounds: int = 10
) -> Outcome:
    """Put both phases together.

    Args:
        journal: of a run that has measured what was flagged again.
        cells: all of the run, controls among them.
        doubled: those that the second process of the base measured.
        rules: of the verdicts.
        rounds: how many were to be measured. A cell with fewer is missing, whatever they seem to say.
    """
    control_cells = [cell for cell in cells if cell.provider == CONTROL]
    first = first_look(journal, cells, rules)
    suspects = flagged(first)
    again = {row.cell: row for row in _rows(journal, "again", suspects, rules)}
    twice = _rows(journal, "first", doubled, rules, beside=True)
    controls = _rows(journal, "first", control_cells, rules)
    late = _rows(journal, "again", control_cells, rules)
    invalid = _control_failures(controls, late, twice, rules)
    missing: dict[str, str] = {}
    for phase, wanted in (("again", [*control_cells, *suspects] if suspects else []), ("first", cells)):
        missing |= {c.name: why for c in wanted if (why := _missing(journal, phase, c, rounds))}
    invalid += [f"the GPU was throttled: {name}" for name, why in missing.items() if "is throttled" in why]
    rows = [_confirmed(row, again.get(row.cell), rules) for row in first]
    return Outcome(rows, [*controls, *late], twice, missing, invalid)


def _control_failures(first: list[Row], again: list[Row], doubled: list[Row], rules: Rules) -> list[str]:
    aa = [row.finding for row in doubled]
    reasons = {"": control_failure([row.finding for row in first], aa, rules)}
    if again:
        reasons["when flagged cells were measured again, "] = control_failure([r.finding for r in again], aa, rules)
    return list(dict.fromkeys(f"{when}{reason}" for when, reason in reasons.items() if reason))


def _missing(journal: Journal, phase: str, cell: Cell, rounds: int) -> str:
    """Why a cell's number cannot stand; empty where all its rounds are there."""
    if errors := [e.error for e in journal.entries if e.error and (e.phase, e.cell) == (phase, cell.name)]:
        return errors[-1]
    found = sum(1 for _ in journal.of(phase, cell.name))
    where = "" if phase == "first" else " when it was measured again"
    return "" if found >= rounds else f"{found} of {rounds} rounds{where}"


def _confirmed(row: Row, again: Row | None, rules: Rules) -> Row:
    if row.finding.verdict not in {Verdict.SLOWER, Verdict.FASTER}:
        return row
    if again is None:
        return replace(row, finding=replace(row.finding, verdict=Verdict.INCONCLUSIVE), was_flagged=True)
    return replace(again, finding=confirm(row.finding, again.finding, rules), was_flagged=True)


def _rows(journal: Journal, phase: str, cells: Sequence[Cell], rules: Rules, *, beside: bool = False) -> list[Row]:
    found: list[tuple[Cell, list[Entry]]] = []
    for cell in cells:
        entries = [e for e in journal.of(phase, cell.name) if not beside or e.again]
        if entries:
            found.append((cell, entries))
    if not found:
        return []
    rounds = max(len(entries) for _, entries in found)
    ratios = np.full((len(found), rounds), math.nan)
    seconds = []
    for i, (_, entries) in enumerate(found):
        pairs = [(e.base_beside_again, e.again) if beside else (e.base, e.head) for e in entries]
        ratios[i, : len(pairs)] = [float(pair_log_ratio(np.array(a), np.array(b))) for a, b in pairs]
        seconds.append([statistics.median(statistics.median(arm) for arm in arms) for arms in zip(*pairs, strict=True)])
    groups = np.array([size_group(base) for base, _ in seconds])
    sigma = np.full(len(found), SIGMA)
    findings = judge(ratios, groups, sigma, rules)
    return [Row(cell, f, *s) for (cell, _), f, s in zip(found, findings, seconds, strict=True)]


def process_medians(journal: Journal, cell: Cell) -> tuple[list[float], list[float]]:
    """Seconds of base and head: the median of each process of the first phase."""
    entries = list(journal.of("first", cell.name))
    return [statistics.median(e.base) for e in entries], [statistics.median(e.head) for e in entries]


def geometric_means(rows: Sequence[Row]) -> dict[str, tuple[int, float]]:
    """Head over base, by provider, by model and by token range: label -> rows and geometric mean."""
    groups: dict[str, list[float]] = {}
    kinds: tuple[Callable[[Cell], str], ...] = (
        lambda cell: cell.provider,
        lambda cell: f"{cell.model_name} tp {cell.tp_size}",
        lambda cell: token_range(cell.num_tokens),
    )
    for kind in kinds:
        for row in rows:
            if not math.isnan(row.finding.log_ratio):
                groups.setdefault(kind(row.cell), []).append(row.finding.log_ratio)
    return {label: (len(logs), math.exp(statistics.fmean(logs))) for label, logs in groups.items()}
