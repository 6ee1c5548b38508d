"""What a machine without a GPU can measure: the native backend on one CPU thread, at sizes a CPU likes."""

from benchmarks.suite import CPU_NUM_TOKENS, Clocked, cpu_sampler, on_cpu, tick


class Cpu(Clocked):
    """One call on query and key of one rank of a model, bfloat16, in place."""

    version = "1"
    params = (("Llama-3.1-8B tp1", "Qwen2-VL-7B tp1", "Qwen3-VL-8B tp1"), CPU_NUM_TOKENS)
    param_names = ("model", "num_tokens")

    @on_cpu
    def time_native(self, model: str, num_tokens: int) -> None:
        """Plain PyTorch."""
        tick(cpu_sampler("native", model, num_tokens))
