"""Rivals rotate what they are given, or say why they cannot; a wrong one would be measured for nothing."""

import contextlib
import sys
import types
from dataclasses import replace

import pytest
import torch

from benchmarks import check, rivals, subject
from benchmarks.presets import shard
from benchmarks.providers import PROVIDERS
from benchmarks.workload import Provider, Workload

CHUNKED = Workload.of(shard("Qwen/Qwen2-VL-7B-Instruct", 4), 3, dtype=torch.float32)
INTERLEAVED = Workload.of(shard("Qwen/Qwen3-VL-8B-Instruct", 8), 3, dtype=torch.float32)
PLAIN = Workload.of(shard("meta-llama/Llama-3.1-8B", 8), 3, dtype=torch.float32)
GLM = Workload.of(shard("zai-org/GLM-4.1V-9B-Thinking", 8), 3, dtype=torch.float32)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    "workload", [CHUNKED, INTERLEAVED, replace(CHUNKED, num_tokens=1)], ids=["chunked", "interleaved", "one token"]
)
def test_vllm_mrope(workload):
    check.check("vllm-like", PROVIDERS["vllm-like"], workload, "cpu")


@pytest.mark.parametrize("workload", [PLAIN, GLM, replace(CHUNKED, is_packed=True)])
def test_vllm_mrope_says_what_it_cannot(workload):
    with pytest.raises(NotImplementedError, match="contiguous mRoPE with NeoX pairing"):
        check.check("vllm-like", PROVIDERS["vllm-like"], workload, "cpu")


@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
@pytest.mark.parametrize("workload", [CHUNKED, INTERLEAVED, PLAIN], ids=["chunked", "interleaved", "plain"])
def test_torch_compile_serves_token_counts_with_one_compilation(workload):
    from torch._dynamo.utils import counters

    counters.clear()
    for num_tokens in (2, 3, 5, 9):
        check.check("torch.compile", PROVIDERS["torch.compile"], replace(workload, num_tokens=num_tokens), "cpu")
    assert counters["stats"]["unique_graphs"] <= 2, "a compilation for each token count would hit the recompile limit"


@pytest.mark.parametrize("is_packed", [False, True], ids=["apart", "packed"])
@pytest.mark.parametrize("workload", [CHUNKED, INTERLEAVED, PLAIN, GLM, replace(PLAIN, rotary_dim=32)])
def test_plain_formula(workload, is_packed):
    formula = rivals.plain_formula(workload)

    def make_call(workload, inputs):
        table = subject.cos_sin_cache(workload, inputs.query.device)
        return lambda: formula(inputs.positions, inputs.query, inputs.key, table)

    check.check("formula", Provider(make_call), replace(workload, is_packed=is_packed), "cpu")


@pytest.fixture
def fake_vllm(monkeypatch):
    """vllm's modules as far as the provider uses them: a layer with a table of its dtype."""
    made = []

    class Layer:
        def __init__(self, **arguments):
            made.append(arguments)
            self.arguments = arguments

        def to(self, device):
            self.table = subject.cos_sin_cache(replace(PLAIN, **self.of()), device).to(self.arguments["dtype"])
            return self

        def of(self):
            given = self.arguments
            rotary_dim = int(given["head_size"] * given["rope_parameters"]["partial_rotary_factor"])
            parameters = {k: v for k, v in given["rope_parameters"].items() if k != "partial_rotary_factor"}
            return {"table_rows": given["max_position"], "rotary_dim": rotary_dim, "rope_parameters": parameters}

        def forward_cuda(self, positions, query, key):
            formula = rivals.plain_formula(replace(PLAIN, is_neox_style=self.arguments["is_neox_style"], **self.of()))
            heads = [x.unflatten(1, (-1, self.arguments["head_size"])) for x in (query, key)]
            for x, y in zip(heads, formula(positions, *heads, self.table), strict=True):
                x.copy_(y)
            return query, key

    package = {
        "vllm": {},
        "vllm.config": {"VllmConfig": object, "set_current_vllm_config": contextlib.nullcontext},
        "vllm.model_executor": {},
        "vllm.model_executor.layers": {},
        "vllm.model_executor.layers.rotary_embedding": {"get_rope": Layer},
    }
    for name, contents in package.items():
        module = types.ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    rivals._vllm_layer.cache_clear()
    yield made
    rivals._vllm_layer.cache_clear()


@pytest.mark.parametrize("workload", [PLAIN, CHUNKED, INTERLEAVED, GLM, replace(PLAIN, is_packed=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vllm(fake_vllm, workload, dtype):
    """Its table is rounded to bfloat16, which its provider is forgiven and another would not be."""
    workload = replace(workload, dtype=dtype, num_tokens=64)
    check.check("vllm", PROVIDERS["vllm"], workload, "cpu")
    assert fake_vllm[0]["rope_parameters"].get("mrope_section") == (
        None if workload.mrope_section is None else list(workload.mrope_section)
    )
    if dtype == torch.bfloat16:
        with pytest.raises(check.CheckError):
            check.check("vllm", Provider(rivals.vllm), workload, "cpu")


def test_vllm_is_forgiven_roundings_only(fake_vllm, monkeypatch):
    monkeypatch.setattr(rivals, "plain_formula", lambda workload: lambda positions, query, key, table: (query, key))
    with pytest.raises(check.CheckError, match="differs from the float64 oracle"):
        check.check("vllm", PROVIDERS["vllm"], replace(PLAIN, dtype=torch.bfloat16), "cpu")


@pytest.mark.parametrize("name", ["vllm", "vllm-like", "liger"])
def test_in_place_only(name):
    workload = replace(CHUNKED, in_place=False)
    with pytest.raises((NotImplementedError, ImportError), match=r"in place only|No module named"):
        PROVIDERS[name].make_call(workload, check.make_inputs(workload, 1, "cpu")[0])


@pytest.mark.parametrize("in_place", [True, False])
def test_native_where_it_is_told(in_place):
    workload = replace(CHUNKED, in_place=in_place)
    (inputs,) = check.make_inputs(workload, 1, "cpu")
    before = inputs.query.clone()
    result = PROVIDERS["native"].make_call(workload, inputs)()
    assert (result is None) == in_place
    assert torch.equal(before, inputs.query) != in_place


def test_liger():
    pytest.importorskip("liger_kernel")
    with pytest.raises(NotImplementedError, match="chunked axes only"):
        rivals.liger(INTERLEAVED, check.make_inputs(INTERLEAVED, 1, "cpu")[0])


def test_one_table_serves_all_token_counts():
    few, many = (subject.cos_sin_cache(replace(PLAIN, num_tokens=n), torch.device("cpu")) for n in (1, 1024))
    assert few is many
    assert few is not subject.cos_sin_cache(CHUNKED, torch.device("cpu"))
