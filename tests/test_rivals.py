"""Rivals rotate what they are given, or say why they cannot; a wrong one would be measured for nothing."""

from dataclasses import replace

import pytest
import torch

from benchmarks import check, rivals, subject
from benchmarks.presets import shard
from benchmarks.workload import Workload

CHUNKED = Workload.of(shard("Qwen/Qwen2-VL-7B-Instruct", 4), 3, dtype=torch.float32)
INTERLEAVED = Workload.of(shard("Qwen/Qwen3-VL-8B-Instruct", 8), 3, dtype=torch.float32)
PLAIN = Workload.of(shard("meta-llama/Llama-3.1-8B", 8), 3, dtype=torch.float32)
GLM = Workload.of(shard("zai-org/GLM-4.1V-9B-Thinking", 8), 3, dtype=torch.float32)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    "workload", [CHUNKED, INTERLEAVED, replace(CHUNKED, num_tokens=1)], ids=["chunked", "interleaved", "one token"]
)
def test_vllm_mrope(workload):
    check.check("vllm-like", rivals.vllm_mrope, workload, "cpu")


@pytest.mark.parametrize("workload", [PLAIN, GLM, replace(CHUNKED, is_packed=True)])
def test_vllm_mrope_says_what_it_cannot(workload):
    with pytest.raises(NotImplementedError, match="contiguous mRoPE with NeoX pairing"):
        check.check("vllm-like", rivals.vllm_mrope, workload, "cpu")


@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
@pytest.mark.parametrize("workload", [CHUNKED, INTERLEAVED, PLAIN], ids=["chunked", "interleaved", "plain"])
def test_torch_compile_serves_token_counts_with_one_compilation(workload):
    from torch._dynamo.utils import counters

    counters.clear()
    for num_tokens in (2, 3, 5, 9):
        check.check("torch.compile", rivals.torch_compile, replace(workload, num_tokens=num_tokens), "cpu")
    assert counters["stats"]["unique_graphs"] <= 2, "a compilation for each token count would hit the recompile limit"


@pytest.mark.parametrize("is_packed", [False, True], ids=["apart", "packed"])
@pytest.mark.parametrize("workload", [CHUNKED, INTERLEAVED, PLAIN, GLM, replace(PLAIN, rotary_dim=32)])
def test_plain_formula(workload, is_packed):
    formula = rivals.plain_formula(workload)

    def make_call(workload, inputs):
        table = subject.cos_sin_cache(workload, inputs.query.device)
        return lambda: formula(inputs.positions, inputs.query, inputs.key, table)

    check.check("formula", make_call, replace(workload, is_packed=is_packed), "cpu")


def test_liger():
    pytest.importorskip("liger_kernel")
    with pytest.raises(NotImplementedError, match="chunked axes only"):
        rivals.liger(INTERLEAVED, check.make_inputs(INTERLEAVED, 1, "cpu")[0])


def test_one_table_serves_all_token_counts():
    few, many = (subject.cos_sin_cache(replace(PLAIN, num_tokens=n), torch.device("cpu")) for n in (1, 1024))
    assert few is many
    assert few is not subject.cos_sin_cache(CHUNKED, torch.device("cpu"))
