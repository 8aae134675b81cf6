"""An export says what its checkpoint says: model.onnx, evaluated from the exported files alone (scripts/onnx_run.py), against
an independent evaluation of the checkpoint itself (reference.py); real weights and tiny random ones of every family."""
import json
import os
import subprocess
import sys

import jinja2
import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer

import checkpoints
import reference
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import onnx_run  # noqa: E402

# ---------------------------------------------------------------------------------------------------- real weights

PROMPTS = ["What is the capital of France?", "Name three animals that live in the sea.", "Write one sentence about rain."]


@pytest.fixture(scope="module")
def smollm2():
    """The demo's checkpoint.  Without a network there is none: visibly skipped here, a failure in CI."""
    home = ROOT / ".cache" / "smollm2"
    r = subprocess.run([ROOT / "scripts" / "smollm2.sh"], env={**os.environ, "PYTHON": sys.executable},
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if r.returncode and not list(home.glob("*.gguf")) and not os.environ.get("CI"):
        pytest.skip("the weights of SmolLM2 could not be downloaded: " + r.stdout.strip()[-300:])
    assert r.returncode == 0, r.stdout
    return home / "checkpoint"


@pytest.fixture(scope="module")
def exported(smollm2, weighbridge_release, tmp_path_factory):
    out = tmp_path_factory.mktemp("smollm2") / "export"
    weighbridge_release.ok("export", smollm2, out)
    weighbridge_release.ok("verify", out, smollm2)
    onnx.checker.check_model(out / "model.onnx")
    return out


def rendered(checkpoint, prompt):
    """The checkpoint's own chat template, as transformers renders it."""
    config = json.loads((checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(config["chat_template"])
    return template.render(messages=[{"role": "user", "content": prompt}], add_generation_prompt=True)


def test_smollm2_tokenizer(smollm2):
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    assert tokenizer.encode("Hello world 123 4567").ids == [19556, 905, 216, 33, 34, 35, 216, 36, 37, 38, 39]
    assert tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n").ids == [1, 4093, 198, 6004, 2, 198]


def test_smollm2_greedy_ids(smollm2, exported):
    model, checkpoint = onnx_run.Model(exported), reference.Model(smollm2)
    tokenizer, eos = model.tokenizer()
    assert eos == 2
    for prompt in PROMPTS:
        assert model.chat(prompt) == rendered(smollm2, prompt)
        ids = tokenizer.encode(model.chat(prompt), add_special_tokens=False).ids
        answer = model.generate(ids, 60, {eos})
        assert len(answer) > 4 and checkpoint.follows(ids, answer, {eos}), tokenizer.decode(answer)


def test_smollm2_answers(exported):
    r = subprocess.run([sys.executable, ROOT / "scripts" / "onnx_run.py", exported, PROMPTS[0]], capture_output=True,
                       text=True, check=True)
    assert "Paris" in r.stdout


# ---------------------------------------------------------------------------------------------------- tiny random weights

TINY = [  # family, dtype, shards, changes to the configuration
    ("llama", "BF16", 1, {}),
    ("llama", "F16", 2, {"num_hidden_layers": 3, "head_dim": ..., "rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("llama", "F32", 3, {"num_key_value_heads": 4, "head_dim": 24, "intermediate_size": 104}),
    ("llama3", "BF16", 1, {}),
    ("llama3", "F32", 1, {"tie_word_embeddings": False}),
    ("llama_bias", "F16", 1, {}),
    ("mistral", "BF16", 1, {}),
    ("qwen2", "BF16", 1, {"num_attention_heads": 6, "hidden_size": 72, "head_dim": ...}),
    ("qwen2_5", "F16", 3, {}),
    ("qwen3", "BF16", 1, {}),
    ("qwen3", "F32", 2, {"tie_word_embeddings": True, "attention_bias": True}),
]
IDS = [f"{family}-{dtype}-{shards}" for family, dtype, shards, _ in TINY]


def agree(weighbridge, checkpoint, out):
    """Prefill, chunk and decode give the checkpoint's logits; greedy decoding gives its ids."""
    weighbridge.ok("export", checkpoint, out)
    model, want = onnx_run.Model(out), reference.Model(checkpoint, half=True)
    ids = np.random.RandomState(1).randint(0, 256, 32).tolist()
    logits, cache = want.logits(ids), model.start()
    for begin, end in ((0, 20), (20, 30), (30, 31), (31, 32)):
        got, cache = model.step(ids[begin:end], cache)
        np.testing.assert_allclose(got, logits[end - 1], rtol=0, atol=2e-5 * np.abs(logits).max(), err_msg=f"{begin}:{end}")
    assert want.follows(ids, model.generate(ids, 24), ())


@pytest.mark.parametrize("family, dtype, shards, config", TINY, ids=IDS)
def test_tiny(family, dtype, shards, config, weighbridge, tmp_path):
    agree(weighbridge, checkpoints.make(tmp_path / "model", family, dtype, shards, config).path, tmp_path / "out")


@pytest.mark.parametrize("family", ["llama", "llama3", "qwen2", "qwen3"])
def test_tiny_in_the_spelling_of_transformers_5(family, weighbridge, tmp_path):
    ckpt = checkpoints.build(family)
    ckpt.config = checkpoints.transformers5(ckpt.config)
    agree(weighbridge, ckpt.write(tmp_path / "model").path, tmp_path / "out")
