"""The Python reference of INT4 (int4.py) against the goldens and itself: these tests need no program."""
import json

import checkpoints
import int4
import numpy as np
import pytest

GOLDENS = ["llama_gptq_g128", "llama_gptq_g128_desc", "llama_gptq_gm1", "llama_gptq_v2", "llama_gptq_fold", "qwen2_gptq_g32_desc",
           "qwen2_gptq_g64"]


@pytest.mark.parametrize("case", GOLDENS)
def test_goldens_bit_for_bit(case, golden):
    """Constants that are made from the checkpoint's tensors are those of the reference's export, and nothing is left over."""
    model, export = golden / "checkpoints" / case, int4.Export(golden / "edgellm-0.5" / case)
    tensors = checkpoints.read_safetensors(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    modules = {name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")}
    assert modules == set(export.plugins) and len(modules) == 7 * config["num_hidden_layers"]
    for module in modules:
        linear = int4.read_gptq(tensors, module, config["quantization_config"]["checkpoint_format"] == "gptq_v2")
        assert linear.folds() and not linear.expected().same(export.linear(module)), module


def test_order_of_a_block_of_32():
    """Written out by hand from the layout: pairs first, then even before odd places of each eight."""
    assert int4.OF_32[:8] == [0, 8, 16, 24, 1, 9, 17, 25] and sorted(int4.OF_32) == list(range(32))
    row = np.zeros((4, 64), np.uint8)
    row[0, [0, 8, 16, 24]] = 1, 2, 3, 4
    row[1, 1] = 15  # its first place is 4: the second word of the row's 16
    words = int4.pack_plugin(row).view("<u2").ravel()
    assert words[0] == 0x4321 and words[17] == 0x000F and np.count_nonzero(words) == 2


@pytest.mark.parametrize("rows, cols", [(4, 64), (20, 192), (128, 256)])
def test_unpacking_is_the_inverse(rows, cols):
    nibbles = np.random.RandomState(rows).randint(0, 16, (rows, cols)).astype(np.uint8)
    packed = int4.pack_plugin(nibbles)
    assert packed.shape == (rows // 2, cols) and packed.dtype == np.int8
    assert (int4.unpack_plugin(packed) == nibbles).all()


@pytest.mark.parametrize("positions", [range(8), int4.AWQ_ORDER])
@pytest.mark.parametrize("axis", [0, 1])
def test_int32_words(axis, positions):
    values = np.random.RandomState(axis).randint(0, 16, (24, 16)).astype(np.uint8)
    words = int4.pack_int32(values, axis, positions)
    assert words.dtype == np.int32 and (int4.unpack_int32(words, axis, positions) == values).all()
    word = int(words.view(np.uint32)[0, 0])
    assert [word >> 4 * p & 15 for p in range(8)] == [(values[i, 0] if axis == 0 else values[0, i]) for i in positions]


@pytest.mark.parametrize("v2", [False, True])
def test_gptq_is_read_as_it_was_written(v2):
    rng = np.random.RandomState(7)
    linear = int4.round_to_int4(rng.standard_normal((24, 64)), int4.random_order(rng, 64, 4), False, rng)
    linear.zeros[0, :2] = (0, 15) if v2 else (1, 16)
    tensors = {f"m.{part}": t for part, t in int4.gptq(linear, v2).items()}
    back = int4.read_gptq(tensors, "m", v2)
    assert (back.zeros == linear.zeros).all() and (back.nibbles == linear.nibbles).all() and (back.g_idx == linear.g_idx).all()


def test_the_refbug_is_seen(golden):
    """The asymmetric checkpoint has zero points that don't fold, or its tests would say nothing."""
    tensors = checkpoints.read_safetensors(golden / "checkpoints" / "llama_gptq_asym" / "model.safetensors")
    modules = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    assert modules and not any(int4.read_gptq(tensors, m).folds() for m in modules)
