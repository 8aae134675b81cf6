"""What inspect says a directory is: checkpoint, EAGLE3 draft, LoRA adapter or export, and what an export would refuse."""
import json

import checkpoints
import numpy as np
import pytest
import torch_file
from checkpoints import tensor
from test_drafts import Draft


def inspect(weighbridge, path, status=0):
    """-> what it says as JSON; its text says the same"""
    r = weighbridge("inspect", path, "--json")
    assert r.status == status, r.stdout + r.stderr
    text = weighbridge("inspect", path)
    assert text.status == status and text.stderr == ""
    assert text.stdout.startswith(f"{path}: {r.json['kind']}, {r.json['container']}, ")
    assert len(r.json["problems"]) == text.stdout.count("\nproblem: ") == status
    return r.json, text.stdout


# ---------------------------------------------------------------------------------------------------- linears


@pytest.mark.parametrize("family, config, expected", [("llama", {}, 15), ("llama3", {}, 14), ("qwen3", {"num_hidden_layers": 3}, 22)])
def test_plain_linears_are_counted(family, config, expected, weighbridge, tmp_path):
    """Norms, biases and the embedding are none; nor is a tied head, which has no tensor."""
    ckpt = checkpoints.build(family, config=config)
    ckpt.tensors["vision.patch.weight"] = tensor(np.zeros((2, 2)), "BF16")  # not of the decoder
    said, text = inspect(weighbridge, ckpt.write(tmp_path / "model").path)
    assert said["linears"] == [{"stored": "plain", "linears": expected}] and f"\nlinears: {expected} plain\n" in text


@pytest.mark.parametrize("name", ["llama_gptq_g128", "llama_gptq_asym", "llama_gptq_v2", "qwen2_gptq_g32_desc"])
def test_each_stored_format_is_named(name, weighbridge, golden):
    model = golden / "checkpoints" / name
    tensors = {}
    for file in model.glob("*.safetensors"):
        tensors |= checkpoints.read_safetensors(file)
    packed, plain = (sum(n.endswith(end) for n in tensors) for end in (".qweight", "lm_head.weight"))
    said, text = inspect(weighbridge, model)
    assert said["config"]["stored"] == "GPTQ INT4" and packed > 0
    assert said["linears"] == [{"stored": "GPTQ INT4", "linears": packed}] + [{"stored": "plain", "linears": 1}] * plain
    assert f"\nlinears: {packed} GPTQ INT4{', 1 plain' * plain}\n" in text


# ---------------------------------------------------------------------------------------------------- drafts


@pytest.mark.parametrize("name, container", [("llama_eagle3", "safetensors"), ("llama_eagle3_2l", "safetensors"),
                                             ("qwen2_eagle3_mrope", "safetensors"), ("llama_eagle3_bin", "PyTorch zip"),
                                             ("qwen2_eagle3_bin", "PyTorch zip")])
def test_drafts(name, container, weighbridge, golden):
    model = golden / "checkpoints" / name
    said, text = inspect(weighbridge, model)
    config = json.loads((model / "config.json").read_text())
    assert said["kind"] == "draft" and said["container"] == container and said["family"] == config["model_type"]
    assert said["config"]["draft_vocab"] == config["draft_vocab_size"] and "tied" not in said["config"]
    assert f"draft_vocab {config['draft_vocab_size']}" in text


def test_a_draft_is_read_from_the_file_that_its_export_reads(weighbridge, tmp_path):
    draft = Draft(tmp_path)
    draft.write()
    torch_file.write(draft.path / "pytorch_model.bin", draft.tensors)
    said, _ = inspect(weighbridge, draft.path)
    assert said["kind"] == "draft" and said["container"] == "PyTorch zip"
    assert [f["name"] for f in said["files"]] == ["pytorch_model.bin"]
    assert sum("model.safetensors" in n["text"] for n in said["notes"]) == 1


@pytest.mark.parametrize("spoil, word", [
    (lambda d: d.tensors.pop("fc.weight"), "fc.weight"),
    (lambda d: d.tensors.pop("midlayer.hidden_norm.weight"), "hidden_norm.weight is missing"),
    (lambda d: d.tensors.update({"extra_norm.weight": tensor(np.ones(64), "BF16")}), "extra_norm.weight"),
    (lambda d: d.d2t(np.full(40, 300)), "d2t[0]"),
    (lambda d: d.config.pop("draft_vocab_size"), "draft_vocab_size"),
    (lambda d: d.config.update(model_type="gemma2"), '"gemma2"'),
])
def test_what_an_export_of_a_draft_would_refuse(spoil, word, weighbridge, tmp_path):
    draft = Draft(tmp_path)
    spoil(draft)
    said, text = inspect(weighbridge, draft.write(), status=1)
    assert said["kind"] == "draft" and word in said["problems"][0] and word in text
    refused = weighbridge.refuses("export-draft", draft.path, tmp_path / "out")
    assert said["problems"][0].splitlines()[0] == refused.splitlines()[0].removeprefix("weighbridge: error: ")


# ---------------------------------------------------------------------------------------------------- exports


def test_what_is_not_whole_is_named(weighbridge, tmp_path):
    out, partial, mark = tmp_path / "out", tmp_path / "out.partial", ".weighbridge-partial"
    weighbridge.ok("export", checkpoints.make(tmp_path / "model").path, out, "-q")
    (out / mark).write_bytes(b"")  # of a publication that was killed before its end: the export is whole
    assert inspect(weighbridge, out)[0]["problems"] == []
    (out / mark).write_text("older export, to be removed\n")
    said, _ = inspect(weighbridge, out, status=1)
    assert said["problems"][0].startswith(f"{out}: is an older export, of which a run has begun to remove the files")
    (out / mark).write_bytes(b"")
    out.rename(partial)
    said, _ = inspect(weighbridge, partial, status=1)
    assert said["kind"] == "export" and said["problems"][0].startswith(f"{partial}: was left by an interrupted run")
    for file in partial.iterdir():
        if file.name != mark:
            file.unlink()
    assert "was left by an interrupted run" in weighbridge.refuses("inspect", partial)
    (partial / mark).unlink()
    assert "was left" not in weighbridge.refuses("inspect", partial)


# ---------------------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("name", ["lora_llama", "lora_qwen2_bf16"])
def test_adapters(name, weighbridge, golden):
    path = golden / "checkpoints" / name
    config = json.loads((path / "adapter_config.json").read_text())
    said, text = inspect(weighbridge, path)
    assert said["kind"] == "adapter" and said["adapter"]["rank"] == config["r"]
    assert said["adapter"]["alpha"] == config["lora_alpha"] and said["adapter"]["rslora"] is False
    names = checkpoints.read_safetensors(path / "adapter_model.safetensors")
    assert set(said["adapter"]["targets"]) == {n.split(".")[-3] for n in names}
    assert said["adapter"]["modules"] * 2 == len(said["tensors"]) == len(names)
    assert f"rank {config['r']}, alpha {config['lora_alpha']}" in text and "adapter: " in text


Q = "base_model.model.model.layers.0.self_attn.q_proj"
ADAPTER = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["q_proj"],
           "base_model_name_or_path": "base/Model-7B"}


def adapter(path, **config):
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({**ADAPTER, **config}))
    tensors = {}
    for i, rank in enumerate([4, 2]):
        module = Q.replace("layers.0", f"layers.{i}")
        tensors |= {f"{module}.lora_A.weight": tensor(np.ones((rank, 64)), "F32"),
                    f"{module}.lora_B.weight": tensor(np.ones((64, rank)), "F32")}
    checkpoints.write_safetensors(path / "adapter_model.safetensors", tensors)
    return path


def test_several_ranks(weighbridge, tmp_path):
    path = adapter(tmp_path / "a", rank_pattern={"layers.1.self_attn.q_proj": 2}, use_rslora=True)
    said, text = inspect(weighbridge, path)
    assert said["adapter"] == {"processed": False, "base_model": "base/Model-7B", "rank": [2, 4], "alpha": 8, "rslora": True,
                               "targets": ["q_proj"], "modules": 2}
    assert "base_model base/Model-7B, rank 2, 4, alpha 8, rslora yes, targets q_proj, modules 2" in text


def test_processed_adapters(weighbridge, golden, tmp_path):
    weighbridge.ok("lora", "process", golden / "checkpoints" / "lora_llama", tmp_path / "out", "-q")
    before, _ = inspect(weighbridge, golden / "checkpoints" / "lora_llama")
    said, text = inspect(weighbridge, tmp_path / "out")
    targets = set(before["adapter"]["targets"]) - {"lm_head"}  # which the runtime does not take
    assert said["kind"] == "adapter" and set(said["adapter"]["targets"]) == targets
    assert {**said["adapter"], "targets": 0} == {**before["adapter"], "processed": True, "modules": 28, "targets": 0}
    assert "adapter: processed yes, " in text
    (tmp_path / "out" / "config.json").write_text("[]")
    assert "config.json" in weighbridge.refuses("inspect", tmp_path / "out")
    checkpoints.make(tmp_path / "out")
    assert inspect(weighbridge, tmp_path / "out")[0]["kind"] == "checkpoint"


def test_an_adapter_that_is_refused_is_still_named_as_one(weighbridge, tmp_path):
    path = adapter(tmp_path / "a", use_dora=True)
    said, _ = inspect(weighbridge, path, status=1)
    assert said["kind"] == "adapter" and "use_dora" in said["problems"][0] and len(said["tensors"]) == 4


def test_an_adapter_with_the_config_of_its_base(weighbridge, tmp_path):
    path = adapter(tmp_path / "a", rank_pattern={"layers.1.self_attn.q_proj": 2})
    (path / "config.json").write_text(json.dumps(checkpoints.build().config))
    assert inspect(weighbridge, path)[0]["kind"] == "adapter"


def test_a_model_with_an_adapter_beside_it_is_a_model(weighbridge, tmp_path):
    path = adapter(tmp_path / "a")
    checkpoints.make(path)
    assert inspect(weighbridge, path)[0]["kind"] == "checkpoint"


def test_an_adapter_without_weights(weighbridge, tmp_path):
    path = adapter(tmp_path / "a")
    (path / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in weighbridge.refuses("inspect", path)
    (path / "adapter_model.bin").write_bytes(b"PK")
    assert "adapter_model.bin" in weighbridge.refuses("inspect", path)
