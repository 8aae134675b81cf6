"""Every golden of TensorRT Edge-LLM 0.5.0 that a text model covers: same graph, same weights, same numbers, same side files."""
import pytest

OPTIONS = {"llama_bias__chat_template": ["--chat-template", "checkpoints/custom_chat_template.json"]}
CASES = ["llama", "llama3_tied", "llama_bias", "llama_bias__chat_template", "llama_cast_edge", "llama_threshold",
         "llama_threshold2", "qwen2", "qwen2_5", "deepseek_qwen", "qwen3", "mistral"]


@pytest.mark.parametrize("case", CASES)
def test_golden(case, weighbridge, golden, compare, tmp_path):
    model, out = f"checkpoints/{case.split('__')[0]}", tmp_path / "out"
    options = OPTIONS.get(case, [])
    weighbridge.ok("export", model, out, *options, cwd=golden)
    said = compare(golden / "edgellm-0.5" / case, out, "--loose-json", "--execute")
    assert "0 differences" in said and "--execute decode" in said
    weighbridge.ok("verify", out, model, *options, cwd=golden)
