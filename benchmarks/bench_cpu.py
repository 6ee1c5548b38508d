"""What a machine without a GPU can measure: the native backend on one CPU thread, at sizes a CPU likes."""

from benchmarks.suite import CPU_MODELS, CPU_NUM_TOKENS, Clocked, cpu_sampler, on_cpu, tick


class Cpu(Clocked):
    """One call on query and key of one rank of a model, bfloat16, in place."""

    version = "1"
    params = (CPU_MODELS, CPU_NUM_TOKENS)
    param_names = ("model", "num_tokens")

    @on_cpu
    def time_native(self, model: str, num_tokens: int) -> None:
        """Plain PyTorch."""
        tick(cpu_sampler("native", model, num_tokens))
