"""What the host pays to issue one eager call at one token, where decoding is bound by it."""

from benchmarks.suite import Clocked, host_sampler, on_gpu, tick


class HostCost(Clocked):
    """One eager call of apply_rope_, argument checks included."""

    version = "1"
    params = (("Llama-3.1-8B tp1", "Qwen2-VL-7B tp1"),)
    param_names = ("model",)

    @on_gpu
    def time_native(self, model: str) -> None:
        """Plain PyTorch."""
        tick(host_sampler("native", model))

    @on_gpu
    def time_triton(self, model: str) -> None:
        """Our Triton kernel."""
        tick(host_sampler("triton", model))

    @on_gpu
    def time_flashinfer(self, model: str) -> None:
        """FlashInfer."""
        tick(host_sampler("flashinfer", model))
