"""GPU time relative to native: the speedup across commits, upside down so that smaller is better, as asv wants it.

The backends of a row are sampled in turns by one process, so that a clock that wanders moves all of them.
"""

import statistics

from benchmarks import gpu
from benchmarks.suite import MROPE_MODELS, NUM_TOKENS, ROPE_MODELS, device_sampler, with_driver

_SAMPLES = 10

Ratios = dict[tuple[str, str, int], float | str]


class RelativeToNative:
    """Time of a backend over the time of native, same shape, same inputs, same process."""

    version = "1"
    params = ((*ROPE_MODELS, *MROPE_MODELS), NUM_TOKENS)
    param_names = ("model", "num_tokens")
    unit = "x native"

    def setup_cache(self) -> Ratios:
        """Measure every row; a backend that fails a row leaves its reason there and the others go on."""
        if gpu.reason_absent():
            return {}
        ratios: Ratios = {}
        for model in self.params[0]:
            for num_tokens in self.params[1]:
                ratios |= _measure(str(model), int(num_tokens))
        return ratios

    setup_cache.timeout = 300  # type: ignore[attr-defined]

    def setup(self, ratios: Ratios, model: str, num_tokens: int) -> None:  # noqa: ARG002  asv passes them
        """n/a on a machine with a driver and no GPU."""
        if not ratios:
            raise NotImplementedError("no GPU on this machine")

    @with_driver
    def track_triton(self, ratios: Ratios, model: str, num_tokens: int) -> float:
        """Our Triton kernel."""
        return _ratio(ratios, "triton", model, num_tokens)

    @with_driver
    def track_flashinfer(self, ratios: Ratios, model: str, num_tokens: int) -> float:
        """FlashInfer."""
        return _ratio(ratios, "flashinfer", model, num_tokens)


def _measure(model: str, num_tokens: int) -> Ratios:
    from benchmarks.providers import BACKENDS

    samplers = {}
    ratios: Ratios = {}
    for backend in BACKENDS:
        try:
            samplers[backend] = device_sampler(backend, model, num_tokens)
        except Exception as error:  # any failure is this row's, and is raised where the row is read
            ratios[backend, model, num_tokens] = f"{type(error).__name__}: {error}"
    samples: dict[str, list[float]] = {backend: [] for backend in samplers}
    for _ in range(_SAMPLES):
        for backend, sampler in samplers.items():
            try:
                samples[backend].append(sampler())
            except Exception as error:
                ratios[backend, model, num_tokens] = f"{type(error).__name__}: {error}"
    medians = {b: statistics.median(times) for b, times in samples.items() if (b, model, num_tokens) not in ratios}
    device_sampler.cache_clear()  # its buffers and graphs would fill the GPU's memory
    return ratios | {(b, model, num_tokens): medians[b] / medians["native"] for b in medians if "native" in medians}


def _ratio(ratios: Ratios, backend: str, model: str, num_tokens: int) -> float:
    found = ratios.get((backend, model, num_tokens), "the native backend failed")
    if isinstance(found, str):
        raise RuntimeError(found)
    return found
