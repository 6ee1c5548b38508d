"""report.json of `python -m benchmarks compare`, read as what it is: text from a job that ran a stranger's code."""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LARGEST_REPORT = 4 * 2**20
VERDICTS = ("SLOWER", "FASTER", "INCONCLUSIVE", "INVALID", "SAME")
CLEAN, REGRESSION, INVALID = 0, 1, 3
OUTSIDE = re.compile(r"[^A-Za-z0-9 .,:;()/+=%_-]")


@dataclass(frozen=True, slots=True)
class Row:
    """A cell: its verdict, its microseconds at both commits and head / base; None where there is no number."""

    name: str
    verdict: str
    base_us: float | None
    head_us: float | None
    ratio: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison. `why` says why it may not be believed; empty for one that may be.

    `job` is how its job ended, where that contradicts `exit_code`: GitHub's word, not the report's.
    """

    base: str
    head: str
    machine: str
    exit_code: int
    why: str
    rows: tuple[Row, ...]
    job: str = ""

    def of(self, verdict: str) -> list[Row]:
        """The rows with a verdict, the largest difference first."""
        rows = [row for row in self.rows if row.verdict == verdict]
        return sorted(rows, key=lambda row: -abs(math.log(row.ratio)) if row.ratio else 0.0)


def plain(text: object, longest: int = 120) -> str:
    """Text that means nothing to Markdown or HTML inside a code span: no backtick, bar, bracket or line break."""
    return OUTSIDE.sub("?", str(text))[:longest]


def parse(text: str) -> Report:
    """Only known fields of known shape are taken over.

    Raises:
        ValueError: this is not a report.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or not isinstance(content.get("header"), dict):
        raise ValueError("not a report: no header")
    header, rows = content["header"], content.get("rows")
    code = content.get("exit_code")
    if code not in {CLEAN, REGRESSION, INVALID} or isinstance(code, bool):
        raise ValueError(f"not a report: exit_code {plain(code)}")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("not a report: no rows")
    reasons = [*_list(content.get("invalid")), *(f"{name} is missing" for name in _list(content.get("missing")))]
    why = "; ".join(plain(reason) for reason in reasons[:5]) or ("no reason given" if code == INVALID else "")
    return Report(
        base=_hash(header.get("base")),
        head=_hash(header.get("head")),
        machine=plain(header.get("machine", "")),
        exit_code=code,
        why=why if code == INVALID else "",
        rows=tuple(_row(row) for row in rows),
    )


def from_zip(data: bytes) -> Report:
    """The one report.json in an artifact; nothing is unpacked to disk.

    Raises:
        ValueError: there is none, or more than one, or it is too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = [item for item in archive.infolist() if item.filename.rpartition("/")[2] == "report.json"]
            if len(found) != 1:
                raise ValueError(f"{len(found)} reports in the artifact, wanted 1")
            with archive.open(found[0]) as stream:
                text = stream.read(LARGEST_REPORT + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ValueError("the artifact is no zip file") from error
    if len(text) > LARGEST_REPORT:
        raise ValueError("the report is too large")
    return parse(text.decode("utf-8"))


def table(rows: list[Row]) -> list[str]:
    """Rows as a Markdown table."""
    lines = ["| verdict | row | base, us | head, us | head / base | 95 % interval |", "| --- " * 6 + "|"]
    for row in rows:
        interval = f"{_number(row.low, 4)} - {_number(row.high, 4)}"
        times = f"{_number(row.base_us, 2)} | {_number(row.head_us, 2)} | {_number(row.ratio, 4)}"
        lines.append(f"| {row.verdict} | `{row.name}` | {times} | {interval} |")
    return lines


def _row(row: Mapping[str, Any]) -> Row:
    if row.get("verdict") not in VERDICTS:
        raise ValueError(f"not a report: verdict {plain(row.get('verdict'))}")
    base, head = _float(row.get("base_seconds")), _float(row.get("head_seconds"))
    return Row(
        name=plain(row.get("name", "")),
        verdict=str(row["verdict"]),
        base_us=None if base is None else base * 1e6,
        head_us=None if head is None else head * 1e6,
        ratio=_float(row.get("ratio")),
        low=_float(row.get("ratio_low")),
        high=_float(row.get("ratio_high")),
    )


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | dict) else []


def _hash(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{40}", value):
        raise ValueError(f"not a report: {plain(value)} is not a commit")
    return value


def _float(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"not a report: {plain(value)} is not a positive number")
    return float(value)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
