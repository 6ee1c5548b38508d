"""GPU time relative to native, the speedup upside down, and to the roofline: smaller is better, as asv wants it.

All times of a row are sampled in turns by one process, so that a clock that wanders moves all of them.
"""

import statistics

from benchmarks import gpu
from benchmarks.suite import MROPE_MODELS, NUM_TOKENS, ROPE_MODELS, device_sampler, floor_sampler, with_driver

_SAMPLES = 10

ROOFLINE = "roofline"

Times = dict[tuple[str, str, int], float | str]
"""(backend or ROOFLINE, model, num_tokens) -> seconds, or the reason why there are none."""


class _Relative:
    """What both classes measure, once for both: asv runs a set-up that is inherited one time."""

    version = "1"
    params = ((*ROPE_MODELS, *MROPE_MODELS), NUM_TOKENS)
    param_names = ("model", "num_tokens")

    def setup_cache(self) -> Times:
        """Measure every row; a backend that fails a row leaves its reason there and the others go on."""
        if gpu.reason_absent():
            return {}
        times: Times = {}
        for model in self.params[0]:
            for num_tokens in self.params[1]:
                times |= _measure(str(model), int(num_tokens))
        return times

    setup_cache.timeout = 300  # type: ignore[attr-defined]

    def setup(self, times: Times, model: str, num_tokens: int) -> None:  # noqa: ARG002  asv passes them
        """n/a on a machine with a driver and no GPU."""
        if not times:
            raise NotImplementedError("no GPU on this machine")


class RelativeToNative(_Relative):
    """Time of a backend over the time of native, same shape, same inputs, same process."""

    unit = "x native"

    @with_driver
    def track_triton(self, times: Times, model: str, num_tokens: int) -> float:
        """Our Triton kernel."""
        return _ratio(times, "triton", "native", model, num_tokens)

    @with_driver
    def track_flashinfer(self, times: Times, model: str, num_tokens: int) -> float:
        """FlashInfer."""
        return _ratio(times, "flashinfer", "native", model, num_tokens)


class RelativeToRoofline(_Relative):
    """Time of a backend over that of an in-place elementwise kernel on the bytes that must move: 1 is the hardware."""

    unit = "x roofline"

    @with_driver
    def track_triton(self, times: Times, model: str, num_tokens: int) -> float:
        """Our Triton kernel."""
        return _ratio(times, "triton", ROOFLINE, model, num_tokens)

    @with_driver
    def track_flashinfer(self, times: Times, model: str, num_tokens: int) -> float:
        """FlashInfer."""
        return _ratio(times, "flashinfer", ROOFLINE, model, num_tokens)


def _measure(model: str, num_tokens: int) -> Times:
    from benchmarks.providers import BACKENDS

    samplers, times = {}, {}
    for name in (*BACKENDS, ROOFLINE):
        try:
            samplers[name] = (
                floor_sampler(model, num_tokens) if name == ROOFLINE else device_sampler(name, model, num_tokens)
            )
        except Exception as error:  # any failure is this row's, and is raised where the row is read
            times[name] = f"{type(error).__name__}: {error}"
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(_SAMPLES):
        for name, sampler in samplers.items():
            try:
                samples[name].append(sampler())
            except Exception as error:
                times[name] = f"{type(error).__name__}: {error}"
    medians = {name: statistics.median(found) for name, found in samples.items() if name not in times}
    device_sampler.cache_clear()  # its buffers and graphs would fill the GPU's memory
    return {(name, model, num_tokens): found for name, found in (times | medians).items()}


def _ratio(times: Times, backend: str, base: str, model: str, num_tokens: int) -> float:
    above, below = times[backend, model, num_tokens], times[base, model, num_tokens]
    for name, found in ((backend, above), (base, below)):
        if isinstance(found, str):
            raise RuntimeError(f"{name}: {found}")
    return float(above) / float(below)
