"""asv's result files, read: one file holds one commit on one machine."""

import ast
import json
import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """A timed row: `benchmark` as in "bench_rope.Rope", its provider, its parameters."""

    benchmark: str
    provider: str
    params: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.benchmark}.time_{self.provider}({', '.join(map(repr, self.params))})"


def read_timed_rows(path: Path) -> dict[Row, float]:
    """Row -> seconds, of every timed row that holds a number.

    Raises:
        ValueError: the file is not an asv result file.
    """
    stored = json.loads(path.read_text(encoding="utf-8"))
    if "result_columns" not in stored:
        raise ValueError(f"{path} is not an asv result file: it has no result_columns")
    columns = {name: index for index, name in enumerate(stored["result_columns"])}
    rows = {}
    for name, entry in stored["results"].items():
        benchmark, _, method = name.rpartition(".")
        if not method.startswith("time_"):
            continue
        values, axes = entry[columns["result"]], entry[columns["params"]]
        for value, words in zip(values or [], product(*axes), strict=False):
            if value is not None and not math.isnan(value):
                params = tuple(ast.literal_eval(word) for word in words)
                rows[Row(benchmark, method.removeprefix("time_"), params)] = float(value)
    return rows
