"""What a run of the seed benchmarks comes to: a table of all shapes, and one line of advice for each model."""

import math
from collections.abc import Iterable, Sequence

from benchmarks.records import Record, by_shape


def table(records: Sequence[Record]) -> str:
    """Markdown: shapes down, providers across, `us` and in brackets the speedup over native; the fastest in bold."""
    names = list(dict.fromkeys(record.provider for record in records if record.us is not None))
    lines = [f"| shape | tokens | {' | '.join(names)} |", "| --- " * (2 + len(names)) + "|"]
    for cells in by_shape(records).values():
        best = min((record.us for record in cells.values() if record.us is not None), default=math.inf)
        texts = []
        for name in names:
            record = cells.get(name)
            if record is None or record.us is None:
                texts.append("-")
                continue
            text = f"{record.us:.2f}" if record.speedup is None else f"{record.us:.2f} ({record.speedup:.1f}x)"
            texts.append(f"**{text}**" if record.us == best else text)
        first = next(iter(cells.values()))
        lines.append(f"| {title(first)} | {first.num_tokens} | {' | '.join(texts)} |")
    return "\n".join(lines)


def reasons(records: Iterable[Record]) -> str:
    """Why providers have no number: a line for each provider and reason, and how many rows it concerns."""
    counts: dict[tuple[str, str], int] = {}
    for record in records:
        if record.us is None:
            key = record.provider, record.status
            counts[key] = counts.get(key, 0) + 1
    return "\n".join(f"{name}: {status} ({count} rows)" for (name, status), count in counts.items())


def advice(records: Sequence[Record]) -> str:
    """A line for each model and size: which provider is fastest from which number of tokens on.

    "or" joins providers whose intervals overlap the fastest one's: the run cannot tell them apart.
    """
    lines = []
    titles = dict.fromkeys(title(record) for record in records)
    for name in titles:
        steps: list[tuple[int, str]] = []
        by_tokens = {
            next(iter(cells.values())).num_tokens: cells
            for cells in by_shape(record for record in records if title(record) == name).values()
        }
        for num_tokens in sorted(by_tokens):
            timed = [record for record in by_tokens[num_tokens].values() if record.us is not None]
            if not timed:
                continue
            fastest = min(timed, key=lambda record: record.us or math.inf)
            winners = sorted(record.provider for record in timed if (record.us_low or 0) <= (fastest.us_high or 0))
            text = " or ".join(winners)
            if not steps or steps[-1][1] != text:
                steps.append((num_tokens, text))
        if steps:
            parts = [f"{text} from {tokens} tokens" for tokens, text in steps]
            lines.append(f"{name}: {', '.join(parts)}" if len(parts) > 1 else f"{name}: {steps[0][1]} at every size")
    return "\n".join(lines)


def title(record: Record) -> str:
    """A shape in words, apart from its number of tokens."""
    heads = f"{record.num_heads} / {record.num_kv_heads} heads"
    if record.model_name:
        return f"{record.model_name} tp {record.tp_size}, {heads}"
    pairing = "NeoX" if record.is_neox_style else "GPT-J"
    return f"{heads}, rotary {record.rotary_dim} of {record.head_size}, {pairing}"
