"""Static metrics of the compiled Triton kernel for three GPU generations. They need no GPU."""

from benchmarks.suite import model_shard

_MODELS = ("Llama-3.1-8B tp1", "Qwen2-VL-7B tp1", "Qwen3-VL-8B tp1", "GLM-4.1V-9B tp1")
_NUM_TOKENS = (1, 8192)  # a small launch and a large one: they may choose different tiles
_TARGETS = ("sm_80", "sm_90", "sm_100")

Metrics = dict[tuple[str, int, str], dict[str, int]]


class CompiledKernel:
    """The kernel that a launch of this shape would run."""

    version = "1"
    params = (_MODELS, _NUM_TOKENS, _TARGETS)
    param_names = ("model", "num_tokens", "target")

    def setup_cache(self) -> Metrics:
        """Compile every row; empty where the commit offers no compile_kernel."""
        from dataclasses import asdict

        from benchmarks import subject
        from benchmarks.machine_code import MachineCode
        from benchmarks.workload import Workload

        subject.assert_installed()
        metrics: Metrics = {}
        for model in _MODELS:
            for num_tokens in _NUM_TOKENS:
                for target in _TARGETS:
                    workload = Workload.of(model_shard(model), num_tokens)
                    compiled = subject.compile_kernel(workload, int(target.removeprefix("sm_")))
                    if compiled is not None:
                        metrics[model, num_tokens, target] = asdict(MachineCode.of(compiled))
        return metrics

    setup_cache.timeout = 120  # type: ignore[attr-defined]

    def setup(self, metrics: Metrics, model: str, num_tokens: int, target: str) -> None:
        """n/a for a commit that offers no compile_kernel."""
        if (model, num_tokens, target) not in metrics:
            raise NotImplementedError("this commit offers no compile_kernel")

    def track_registers(self, metrics: Metrics, model: str, num_tokens: int, target: str) -> int:
        """Registers of a thread."""
        return metrics[model, num_tokens, target]["registers"]

    def track_spill_bytes(self, metrics: Metrics, model: str, num_tokens: int, target: str) -> int:
        """Bytes of registers that a thread spills to memory."""
        return metrics[model, num_tokens, target]["spill_bytes"]

    def track_narrow_accesses(self, metrics: Metrics, model: str, num_tokens: int, target: str) -> int:
        """Loads and stores of query and key narrower than 16 bytes."""
        return metrics[model, num_tokens, target]["narrow_accesses"]

    track_registers.unit = "registers"  # type: ignore[attr-defined]
    track_spill_bytes.unit = "bytes"  # type: ignore[attr-defined]
    track_narrow_accesses.unit = "accesses"  # type: ignore[attr-defined]
