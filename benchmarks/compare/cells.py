"""What compare measures: cells of the asv suite, few of them or whole grids, and the cells that control the run."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import suite

CONTROL = "control"
"""Provider of the frozen kernel: an in-place elementwise one of the ruler, the same whatever commit is installed."""

SMOKE_MODELS = ("Llama-3.1-8B tp1", "Qwen2-VL-7B tp1", "Qwen3-VL-8B tp1", "GLM-4.1V-9B tp1")
SMOKE_NUM_TOKENS = (1, 1024, 131072)
CPU_SMOKE_NUM_TOKENS = (16, 128)


@dataclass(frozen=True, slots=True)
class Cell:
    """One provider on one shape. `benchmark` and `params` are asv's name for it; empty where asv has none."""

    provider: str
    model_name: str
    tp_size: int
    num_tokens: int
    benchmark: str = ""
    params: tuple[str | int, ...] = ()

    @property
    def name(self) -> str:
        """What reports and journals call it."""
        return f"{self.provider}, {self.model_name} tp {self.tp_size}, {self.num_tokens} tokens"

    def message(self) -> dict[str, Any]:
        """Its fields, for a worker."""
        return asdict(self)


def of_suite(place: str, providers: Sequence[str] | None = None) -> list[Cell]:
    """The timed cells of the asv suite: on a CPU native alone.

    Args:
        place: "cuda" or "cpu".
        providers: None means all that the suite has for the place.

    Raises:
        ValueError: the suite has no such provider there.
    """
    timed: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "bench_rope.Rope": (suite.ROPE_MODELS, suite.NUM_TOKENS),
        "bench_mrope.Mrope": (suite.MROPE_MODELS, suite.NUM_TOKENS),
    }
    known: tuple[str, ...] = ("triton", "flashinfer", "native")
    if place == "cpu":
        timed, known = {"bench_cpu.Cpu": (suite.CPU_MODELS, suite.CPU_NUM_TOKENS)}, ("native",)
    if unknown := set(providers or ()) - set(known):
        raise ValueError(f"--provider must be among {', '.join(known)} here, got {', '.join(sorted(unknown))}")
    cells = []
    for provider in (name for name in known if name in (providers or known)):
        for benchmark, (models, counts) in timed.items():
            for label in models:
                name, tp_size = suite.SHARDS[label]
                cells += [
                    Cell(provider, name, tp_size, count, f"{benchmark}.time_{provider}", (label, count))
                    for count in counts
                ]
    return cells


def chosen(place: str, providers: Sequence[str] | None = None, *, is_smoke: bool, is_full: bool) -> list[Cell]:
    """The cells that --provider, --smoke and --full ask for.

    Raises:
        ValueError: the suite has no such provider there, or no cell is left.
    """
    cells = of_suite(place, providers)
    cells = smoke(cells) if is_smoke else full(cells) if is_full else cells
    if not cells:
        raise ValueError("--provider: --smoke measures triton, on a CPU native")
    return cells


def smoke(cells: Iterable[Cell]) -> list[Cell]:
    """Few of the suite's cells: Triton (on a CPU native) on four models and three token counts."""
    return [
        cell
        for cell in cells
        if cell.provider in {"triton", "native"}
        and cell.params[0] in SMOKE_MODELS
        and (
            (cell.provider == "triton" and cell.num_tokens in SMOKE_NUM_TOKENS)
            or (cell.benchmark.startswith("bench_cpu") and cell.num_tokens in CPU_SMOKE_NUM_TOKENS)
        )
    ]


def full(cells: Iterable[Cell]) -> list[Cell]:
    """The suite's cells, and where Triton is among them, Triton over the rest of vLLM's mRoPE grid (16 model shards x
    18 token counts).
    """
    from benchmarks import shapes  # needs torch, which who only reads cells should not have to import

    cells = list(cells)
    if not any(cell.provider == "triton" for cell in cells):
        return cells
    found = {(c.provider, c.model_name, c.tp_size, c.num_tokens): c for c in cells}
    for name, sizes in shapes.MROPE_SHARDS.items():
        for tp_size in sizes:
            for count in shapes.MROPE_NUM_TOKENS:
                cell = Cell("triton", name, tp_size, count)
                found.setdefault(("triton", name, tp_size, count), cell)
    return list(found.values())


def controls(place: str) -> list[Cell]:
    """The frozen kernel over the bytes of a small, a middling and a large call."""
    counts = CPU_SMOKE_NUM_TOKENS if place == "cpu" else SMOKE_NUM_TOKENS
    return [Cell(CONTROL, "Qwen/Qwen2-VL-7B-Instruct", 1, count) for count in counts]


def doubled(cells: Sequence[Cell], most: int = 8) -> list[Cell]:
    """Cells that a second process of the base measures, too: spread evenly over the list."""
    count = min(most, len(cells))
    return [cells[i * len(cells) // count] for i in range(count)]


def size_group(seconds: float) -> int:
    """Cells of a like size: calls below 5, 20 and 200 us, and longer ones."""
    return sum(seconds >= limit for limit in (5e-6, 20e-6, 200e-6))


def token_range(num_tokens: int) -> str:
    """The range that a summary puts a cell in."""
    return "decode (1 - 64)" if num_tokens <= 64 else "short (65 - 4096)" if num_tokens <= 4096 else "long (4097 -)"
