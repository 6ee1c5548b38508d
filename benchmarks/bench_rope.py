"""RoPE with one-dimensional positions: GPU time of one call, cold L2 cache, bfloat16, in place."""

from benchmarks.suite import NUM_TOKENS, ROPE_MODELS, Clocked, device_sampler, on_gpu, tick


class Rope(Clocked):
    """One call on query and key of one rank of a model."""

    version = "1"
    params = (ROPE_MODELS, NUM_TOKENS)
    param_names = ("model", "num_tokens")

    @on_gpu
    def time_native(self, model: str, num_tokens: int) -> None:
        """Plain PyTorch."""
        tick(device_sampler("native", model, num_tokens))

    @on_gpu
    def time_triton(self, model: str, num_tokens: int) -> None:
        """Our Triton kernel."""
        tick(device_sampler("triton", model, num_tokens))

    @on_gpu
    def time_flashinfer(self, model: str, num_tokens: int) -> None:
        """FlashInfer."""
        tick(device_sampler("flashinfer", model, num_tokens))
