"""reduce-vocab: which tokens a vocabulary keeps, by the user's own text.

Goldens, and everything else against `reference`, a slow and obvious reading of the rules; what a corpus may look like;
what is refused; and that an export takes what comes out."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import checkpoints
import numpy as np
import onnx
import pytest
from checkpoints import Tensor, read_safetensors, write_safetensors
from conftest import SANITIZER, Program, tree
from onnx import numpy_helper
from tokenizers import Tokenizer

WITH_TOKENIZERS = {"WEIGHBRIDGE_PYTHON": sys.executable}
SPECIAL = ("eos_token", "pad_token", "bos_token", "unk_token")


@pytest.fixture(scope="session")
def program(weighbridge):
    """The program, whose helper runs in the Python of the tests."""
    class WithTokenizers(Program):
        def __call__(self, *args, env=None, **kwargs):
            return super().__call__(*args, env={**WITH_TOKENIZERS, **(env or {})}, **kwargs)
    return WithTokenizers(weighbridge.path)


@pytest.fixture(scope="session")
def reduce(program):
    """reduce(model, out, size, corpus, *options) -> the ids kept"""
    def run(model, out, size, corpus, *options):
        program.ok("reduce-vocab", model, out, "--size", size, "--corpus", corpus, *options)
        return ids_of(out)
    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return checkpoints.make(tmp_path_factory.mktemp("vocab") / "model").path  # 272 rows, 259 tokens


@pytest.fixture(scope="session")
def llama(golden):
    return golden / "checkpoints" / "llama"


@pytest.fixture(scope="session")
def data(golden):
    return golden / "checkpoints" / "reduce_vocab_data.json"


def ids_of(out):
    t = read_safetensors(out / "vocab_map.safetensors")["vocab_map"]
    assert t.dtype == "I32"
    return np.frombuffer(t.data, np.int32).tolist()


def write_lines(path, records):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def write_d2t(path, d2t, dtype="I64", name="d2t", shape=None):
    a = np.array(d2t, {"I32": np.int32, "I64": np.int64, "F32": np.float32}[dtype])
    write_safetensors(path, {name: Tensor(dtype, a.shape if shape is None else shape, a.tobytes())})
    return path


# ---------------------------------------------------------------------------------------------------- the rules


def counted(tokenizer, texts):
    """Counter.most_common is stable: of equal counts the token that appeared first."""
    ids = Counter()
    for text in texts:
        ids.update(tokenizer.encode(text, add_special_tokens=False).ids)
    return ids


def reference(model, size, method, inputs, outputs, d2t=()):
    """-> required ids, the core, the tolerance ids; None where there are too few"""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    config = json.loads((model / "tokenizer_config.json").read_text())
    vocab = json.loads((model / "config.json").read_text())["vocab_size"]
    required = {tokenizer.token_to_id(config[name]) for name in SPECIAL if config.get(name)}
    required |= {i + d for i, d in enumerate(d2t)}
    n = size - len(required)
    if method == "frequency":
        core = [i for i, _ in counted(tokenizer, inputs).most_common() if i not in required][:n]
        return (required, core, []) if len(core) == n else None
    tolerance = int(0.1 * n)
    counts = counted(tokenizer, outputs)
    shared = counts.keys() & counted(tokenizer, inputs).keys()
    core = []
    for i, _ in counts.most_common():
        if i not in required and len(core) < n - tolerance and (i in shared or len(core) >= len(shared)):
            core.append(i)
    near = []
    for i in core:
        for j in range(i - 5, i + 6):
            if 0 <= j < vocab and j not in core and j not in required and j not in near and len(near) < tolerance:
                near.append(j)
    return (required, core, near) if len(required) + len(core) + len(near) == size else None


# ---------------------------------------------------------------------------------------------------- goldens


@pytest.mark.parametrize("case, size, options", [("frequency", 60, []),
                                                 ("d2t", 160, ["--d2t", "edgellm-0.5/llama_eagle3/d2t.safetensors"])])
def test_golden(case, size, options, program, golden, data, tmp_path):
    program.ok("reduce-vocab", "checkpoints/llama", tmp_path / "out", "--size", size, "--corpus", data, "--method",
               "frequency", *options, cwd=golden)
    name = "vocab_map.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (golden / "edgellm-0.5" / f"llama__reduce_vocab_{case}" / name).read_bytes()
    assert json.loads((tmp_path / "out" / "reduced_vocab.json").read_text()) == {
        "vocab_size": 320, "reduced_vocab_size": size, "method": "frequency", "dataset": data.name, "max_samples": 5,
        **({"d2t_tensor_size": 136} if options else {})}
    assert sorted(tree(tmp_path / "out")) == ["reduced_vocab.json", name]


def test_golden_input_aware(reduce, llama, golden, data, tmp_path):
    """The reference walks the core as a Python set lists it: the ids beside the core may differ."""
    records = json.loads(data.read_text())
    required, core, near = reference(llama, 48, "input_aware", [r["article"] for r in records],
                                     [r["highlights"] for r in records])
    theirs = ids_of(golden / "edgellm-0.5" / "llama__reduce_vocab_input_aware")
    ours = reduce(llama, tmp_path / "out", 48, data)
    assert len(near) == 4 and ours == sorted({*required, *core, *near})
    assert {*required, *core} <= set(theirs) and len(set(theirs) - set(ours)) <= len(near)


WORDS = ["the", " of", "and ", "Zürich", "東京", "<|im_end|>", "\n", "a", "bb", "  ", "é", "€", "0", "12", "🙂", "ß", "!"]


def random_records(rng):
    alphabet = rng.sample(WORDS + [chr(c) for c in range(33, 127)], rng.randrange(8, 60))
    def text(most):
        return "".join(rng.choice(alphabet) for _ in range(rng.randrange(most)))
    return [{"article": text(60), "highlights": text(40)} for _ in range(rng.randrange(1, 12))]


@pytest.mark.parametrize("seed", range(8))
def test_same_as_the_reference(seed, program, model, tmp_path):
    rng = random.Random(seed)
    records = random_records(rng)
    corpus = write_lines(tmp_path / "c.jsonl", records)
    inputs, outputs = ([r[key] for r in records] for key in ("article", "highlights"))
    for method in ("frequency", "input_aware"):
        d2t = sorted(rng.sample(range(272), 6)) if seed % 2 else []
        d2t = [t - i for i, t in enumerate(d2t)]
        options = ["--d2t", write_d2t(tmp_path / "d2t.safetensors", d2t, rng.choice(["I32", "I64"]))] if d2t else []
        size = rng.randrange(10, 45)
        want = reference(model, size, method, inputs, outputs, d2t)
        r = program("reduce-vocab", model, tmp_path / "out", "--size", size, "--corpus", corpus, "--method",
                    method.replace("_", "-"), "--overwrite", *options)
        assert r.status == (0 if want else 1), (method, size, r.stderr)
        if want:
            assert ids_of(tmp_path / "out") == sorted(sum(map(list, want), []))
        else:
            assert "tokens only, fewer than the" in r.stderr and str(corpus) in r.stderr


# ---------------------------------------------------------------------------------------------------- the corpus

PAIRS = [("a question about Zürich", "about Zürich: 東京, an answer"), ("", "yes"), ("another one?", "no, never another one: vvvvvvvv"),
         ("quiz", "")]


def conversation(question, answer):
    return {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": question},
                         {"role": "assistant", "content": None, "tool_calls": []},
                         {"role": "assistant", "content": answer}]}


def in_parts(question, answer):
    image = {"type": "image", "url": "i.png", "text": "@@@@@"}
    return {"messages": [{"role": "user", "content": [image, {"type": "text", "text": question}]},
                         {"role": "assistant", "content": [{"type": "text", "text": answer}]}], "id": 7}


def test_forms_of_records(reduce, model, tmp_path):
    forms = {"summary": [{"article": q, "highlights": a, "id": 3} for q, a in PAIRS],
             "conversation": [conversation(*p) for p in PAIRS], "parts": [in_parts(*p) for p in PAIRS]}
    seen = {}
    for name, records in forms.items():
        seen[name] = reduce(model, tmp_path / name, 19, write_lines(tmp_path / f"{name}.jsonl", records))
    required, core, near = reference(model, 19, "input_aware", *zip(*PAIRS))
    assert seen == {name: sorted({*required, *core, *near}) for name in forms}
    assert len(near) == 1

    def frequency(name, records):
        return reduce(model, tmp_path / f"{name}-f", 15, write_lines(tmp_path / f"{name}.jsonl", records), "--method",
                      "frequency")
    both = [text for pair in PAIRS for text in pair]
    want = sorted(sum(map(list, reference(model, 15, "frequency", both, [])), []))
    assert frequency("conversation", forms["conversation"]) == frequency("parts", forms["parts"]) == want
    assert frequency("text", [{"text": t} for t in both]) == want
    articles = sorted(sum(map(list, reference(model, 15, "frequency", [q for q, _ in PAIRS], [])), []))
    assert frequency("summary", forms["summary"]) == articles != want
    assert frequency("article", [{"article": q} for q, _ in PAIRS]) == articles
    mixed = [{"article": both[0]}, {"text": both[1]}, conversation(*both[2:4]), *({"text": t} for t in both[4:])]
    assert frequency("mixed", mixed) == want
    text = reduce(model, tmp_path / "text", 15, write_lines(tmp_path / "t.jsonl", [{"text": t} for t in both]))
    assert text == sorted(sum(map(list, reference(model, 15, "input_aware", both, both)), []))


def test_forms_of_files(reduce, model, tmp_path):
    """The same records as lines and as lists, however they are laid out."""
    records = [{"text": t, "deep": {"a": ["}{", "]\\\"", {}]}} for pair in PAIRS for t in pair]
    lines = [json.dumps(r) for r in records]
    files = {
        "lines": "\n".join(lines), "blank lines": "\n\n  \n" + "\r\n\n".join(lines) + "\n\n",
        "list": json.dumps(records), "pretty": "\n " + json.dumps(records, indent=3, ensure_ascii=False) + "\n\n",
        "tight": json.dumps(records, separators=(",", ":")), "list of lines": "[" + "\n,".join(lines) + "]\n",
    }
    maps = set()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        maps.add(tuple(reduce(model, tmp_path / "out", 15, tmp_path / name, "--overwrite")))
        assert json.loads((tmp_path / "out" / "reduced_vocab.json").read_text())["max_samples"] == len(records)
    assert len(maps) == 1


def test_max_samples(program, reduce, model, tmp_path):
    """What stands behind them is not even looked at."""
    records = [{"text": t} for t in ("aaabbbccc", "ddddd", "eeeee")]
    first = write_lines(tmp_path / "first", records[:2])
    long = write_lines(tmp_path / "long", records)
    long.write_text(long.read_text() + "no record\n")
    assert reduce(model, tmp_path / "a", 6, long, "--max-samples", 2) == reduce(model, tmp_path / "b", 6, first)
    a, b = (json.loads((tmp_path / x / "reduced_vocab.json").read_text()) for x in "ab")
    assert a["max_samples"] == b["max_samples"] == 2
    assert "no record" not in program.refuses("reduce-vocab", model, tmp_path / "c", "--size", 6, "--corpus", long)


BROKEN = {
    "line": ('{"text": "a"}\n\n{"text": \n{"text": "b"}\n', "the record at line 3: not valid JSON"),
    "no JSON": ("text\n", "the record at line 1: not valid JSON"),
    "number": ('{"text": "a"}\n7\n', "the record at line 2: not valid JSON"),
    "list in lines": ('{"text": "a"}\n["b"]\n', "the record at line 2 is a list, expected an object"),
    "twice": ('{"text": "a", "text": "b"}\n', 'line 1: key "text" is there twice'),
    "nothing to count": ('{"text": "a"}\n{"content": "b"}\n', 'line 2 has none of "article", "text" and "messages"'),
    "no highlights": ('[{"article": "a", "highlights": "b"},\n\n {"article": "b"}]',
                      'line 3: "highlights" is missing, expected a string'),
    "null": ('{"article": null, "highlights": "b"}', 'line 1: "article" is null, expected a string'),
    "messages": ('{"messages": "a"}', 'line 1: "messages" is a string, expected a list'),
    "no role": ('{"messages": [{"content": "a"}]}', 'line 1: "role" of a message is missing'),
    "no message": ('{"messages": ["a"]}', 'line 1: "role" of a message is missing'),
    "no content": ('{"messages": [{"role": "user"}]}', 'line 1: "content" of a message is missing'),
    "part": ('{"messages": [{"role": "user", "content": ["a"]}]}', "line 1: \"type\" of a message's part is missing"),
    "part without text": ('{"messages": [{"role": "user", "content": [{"type": "text"}]}]}',
                          "\"text\" of a message's part is missing"),
    "empty": ("", "holds no record"), "blank": (" \n\n", "holds no record"), "empty list": ("[\n]", "holds no record"),
    "list of texts": ('["a"]', 'has " at line 1, expected a record in { }'),
    "comma": ('[{"text": "a"}\n{"text": "b"}]', "has { at line 2, expected a comma or ]"),
    "last comma": ('[{"text": "a"},\n]', "has ] at line 2, expected a record"),
    "first comma": ('[,{"text": "a"}]', "has , at line 1, expected a record"),
    "cut": ('[{"text": "a"},\n{"text": "b', "ends within the record that begins at line 2"),
    "cut list": ('[{"text": "a"}', "has its end at line 1, expected a comma or ]"),
    "more": ('[{"text": "a"}]\n{"text": "b"}', "has { at line 2, expected nothing behind the list"),
    "binary": (b"\x1f\x8b\x08\x00\x00", "the record at line 1: not valid JSON"),
    "Latin-1": ('{"text": "é"}'.encode("latin-1"), "the record at line 1: not valid JSON"),
    "huge": ('{"text": "' + "a" * (5 << 20) + '"}', "line 1 has more than 4194304 bytes"),
}


def test_broken_corpora(program, model, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    for name, (text, _) in BROKEN.items():
        (files / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    (files / "directory").mkdir()
    before = tree(tmp_path)
    for name, said in {**{k: v for k, (_, v) in BROKEN.items()}, "none": "cannot be opened",
                       "directory": "is not a regular file"}.items():
        r = program.refuses("reduce-vocab", model, tmp_path / "out", "--size", 5, "--corpus", files / name)
        assert said in r and f"{files / name}: " in r and r.count("\n") == 1, (name, r)
    assert tree(tmp_path) == before


# ---------------------------------------------------------------------------------------------------- model and tokenizer


def spoil(model, tmp_path, **files):
    """A copy whose JSON files are changed: {"config": {key: value}}; ...: without it."""
    copy = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
    shutil.copytree(model, copy)
    for name, change in files.items():
        path = copy / f"{name}.json"
        if change is ...:
            path.unlink()
        elif isinstance(change, str):
            path.write_text(change)
        else:
            merged = {**json.loads(path.read_text()), **change}
            path.write_text(json.dumps({k: v for k, v in merged.items() if v is not ...}))
    return copy


def test_what_is_refused_of_a_model(program, model, tmp_path):
    corpus = write_lines(tmp_path / "c", [{"text": "abcdefgh <|im_start|>"}])
    no_end = {"eos_token": ..., "pad_token": ...}
    cases = [
        (dict(config=...), "config.json: cannot be opened", 5),
        (dict(config="["), "config.json: not valid JSON", 5),
        (dict(config={"vocab_size": ...}), 'config.json: has no "vocab_size"', 5),
        (dict(config={"vocab_size": "big"}), '"vocab_size"', 5),
        (dict(config={"vocab_size": 0}), '"vocab_size" is 0', 5),
        (dict(), "--size 272 does not reduce the vocabulary of 272 tokens", 272),
        (dict(), "--size 500 does not reduce the vocabulary of 272 tokens", 500),
        (dict(), "a vocabulary of 1 has no room for the 2 tokens that are always kept", 1),
        (dict(tokenizer=...), "tokenizer.json: is not there", 5),
        (dict(tokenizer='{"version": "1.0"'), "tokenizer.json: the tokenizers package cannot use it", 5),
        (dict(tokenizer="{}"), "tokenizer.json: the tokenizers package cannot use it", 5),
        (dict(tokenizer={"model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "none"}, "pre_tokenizer": None}),
         "tokenizer.json: the tokenizers package cannot use it", 5),
        (dict(tokenizer_config=no_end, special_tokens_map=no_end), "neither an eos_token nor a pad_token", 5),
        (dict(tokenizer_config={"eos_token": "<none>", "pad_token": ...}, special_tokens_map=...), "neither an eos_token", 5),
        (dict(tokenizer_config="[]"), "tokenizer_config.json", 5),
        (dict(config={"vocab_size": 257}), '"<|im_end|>" has token id 257, but', 5),
        (dict(config={"vocab_size": 258}), "a piece of the corpus has token id 258, but", 5),
    ]
    for files, said, size in cases:
        spoiled = spoil(model, tmp_path, **files)
        if files.get("config") == {"vocab_size": 257}:
            corpus.write_text(json.dumps({"text": "abcdefgh"}))
        before = tree(tmp_path)
        r = program.refuses("reduce-vocab", spoiled, tmp_path / "out", "--size", size, "--corpus", corpus)
        assert said in r and r.count("\n") == 1, (files, r)
        assert tree(tmp_path) == before
        corpus.write_text(json.dumps({"text": "abcdefgh <|im_start|>"}))


def test_special_tokens(program, reduce, model, tmp_path):
    corpus = write_lines(tmp_path / "c", [{"text": "aaaa bb"}])
    def kept(size, **files):
        return reduce(spoil(model, tmp_path, **files), tmp_path / "out", size, corpus, "--overwrite")
    a = 97
    assert kept(3) == [a, 256, 257]
    assert kept(2, tokenizer_config={"eos_token": ..., "bos_token": ...}, special_tokens_map=...) == [a, 256]  # pad instead
    assert kept(4, tokenizer_config={"unk_token": {"content": "<|im_start|>"}}, special_tokens_map=...) == [a, 256, 257, 258]
    assert kept(2, special_tokens_map={"eos_token": "<|im_start|>", "bos_token": None, "pad_token": None}) == [a, 258]
    assert kept(2, special_tokens_map={"eos_token": "<|im_start|>", "bos_token": None, "pad_token": None},
                tokenizer_config={"added_tokens_decoder": {}, "pad_token": ..., "bos_token": ...}) != [a, 258]
    r = program.ok("reduce-vocab", spoil(model, tmp_path, tokenizer_config={"unk_token": "<unk>"}, special_tokens_map=...),
                   tmp_path / "out", "--size", 3, "--corpus", corpus, "--overwrite")
    assert 'unk_token is "<unk>"' in r.stderr and "warning" in r.stderr


def test_tokenizer_settings_that_would_change_the_count(reduce, model, tmp_path):
    """Truncation, padding and dropout are for other uses; a post-processor's special tokens are not counted."""
    bos = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                                                   {"Sequence": {"id": "A", "type_id": 0}}],
           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
           "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [258], "tokens": ["<|im_start|>"]}}}
    plain = json.loads((model / "tokenizer.json").read_text())
    vocab = {"aa" if i == 0 else letter: i for letter, i in plain["model"]["vocab"].items()}
    merged = {**plain["model"], "dropout": 0.5, "merges": [["a", "a"]], "vocab": vocab}
    corpus = write_lines(tmp_path / "c", [{"text": "a" * 2000 + "b"}] + [{"text": ""}] * 20)
    changed = spoil(model, tmp_path, tokenizer={
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 9000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
                    "pad_type_id": 0, "pad_token": "!"},
        "post_processor": bos, "model": merged})
    for _ in range(2):
        assert reduce(changed, tmp_path / "out", 4, corpus, "--overwrite", "--method", "frequency") == [0, 98, 256, 257]


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5", "phi4mm", "internvl3"])
def test_size_of_the_vocabulary_of_a_text_model(name, program, golden, tmp_path):
    config = json.loads((golden / "checkpoints" / name / "config.json").read_text())
    vocab = config.get("text_config", config).get("vocab_size", config.get("vocab_size"))
    corpus = write_lines(tmp_path / "c", [{"text": "the weather is fine and other words"}])
    r = program.ok("reduce-vocab", golden / "checkpoints" / name, tmp_path / "out", "--size", 12, "--corpus", corpus, "--json")
    assert r.json["vocab_size"] == vocab and len(ids_of(tmp_path / "out")) == 12


def test_d2t_that_is_wrong(program, model, tmp_path):
    corpus = write_lines(tmp_path / "c", [{"text": "abcdefghijklmnopqrstuvw"}])
    cases = [
        (dict(d2t=[0, 1], dtype="F32"), "d2t is [2] F32"), (dict(d2t=[0, 1], shape=(2, 1)), "d2t is [2, 1] I64"),
        (dict(d2t=[]), "d2t is [0] I64"), (dict(d2t=[0, 1], name="t2d"), "has no tensor d2t"),
        (dict(d2t=[0, 271]), "d2t[1] is 271, which leads to token 272: expected 0 to 271"),
        (dict(d2t=[0, -2]), "d2t[1] is -2, which leads to token -1"),
        (dict(d2t=[0, 2**40]), "d2t[1] is 1099511627776"),
        (dict(d2t=[0] * 20), "--size 20 has no room for the draft's 20 tokens"),
        (dict(d2t=[0] * 19), "a vocabulary of 20 has no room for the 21 tokens that are always kept"),
    ]
    for i, (arguments, said) in enumerate(cases):
        d2t = write_d2t(tmp_path / f"{i}.safetensors", **arguments)
        before = tree(tmp_path)
        r = program.refuses("reduce-vocab", model, tmp_path / "out", "--size", 20, "--corpus", corpus, "--d2t", d2t)
        assert said in r and r.count("\n") == 1, r
        assert tree(tmp_path) == before
    (tmp_path / "noise").write_bytes(random.Random(1).randbytes(99))
    for name in ("noise", "none"):
        assert name in program.refuses("reduce-vocab", model, tmp_path / "out", "--size", 20, "--corpus", corpus, "--d2t",
                                       tmp_path / name)


def test_without_the_tokenizers_package(program, model, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    corpus = write_lines(tmp_path / "c", [{"text": "a"}] * 100000)  # more than a pipe holds
    r = program.refuses("reduce-vocab", model, tmp_path / "out", "--size", 5, "--corpus", corpus,
                        env={"WEIGHBRIDGE_PYTHON": str(tmp_path / "bare" / "bin" / "python")})
    assert "Python package tokenizers" in r and "pip install tokenizers" in r and r.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------- the output


def test_same_bytes_whatever_the_processors(program, llama, data, tmp_path):
    records = json.loads(data.read_text()) * 300
    corpus = write_lines(tmp_path / "c", records)
    for name, prefix in (("all", []), ("one", ["taskset", "-c", str(min(os.sched_getaffinity(0)))])):
        program.ok("reduce-vocab", llama, tmp_path / name, "--size", 60, "--corpus", corpus, prefix=prefix)
    assert tree(tmp_path / "all") == tree(tmp_path / "one")


def test_out_appears_whole_or_not_at_all(program, model, tmp_path):
    corpus, out = write_lines(tmp_path / "c", [{"text": "abcdefg"}]), tmp_path / "out"
    line = ["reduce-vocab", model, out, "--corpus", corpus, "--size"]
    out.mkdir()
    program.ok(*line, 5)  # an empty directory
    older = tree(tmp_path)
    assert "--overwrite" in program.refuses(*line, 6)
    program.refuses(*line, 100, "--overwrite")  # too few different tokens
    assert tree(tmp_path) == older
    program.ok(*line, 6, "--overwrite")
    assert len(ids_of(out)) == 6 and sorted(os.listdir(tmp_path)) == ["c", "out"]
    (out / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    assert "is not an export" in program.refuses(*line, 5, "--overwrite")
    assert tree(tmp_path) == before
    for place in (model, model / "map", tmp_path / "none" / "out"):
        program.refuses("reduce-vocab", model, place, "--corpus", corpus, "--size", 5, "--overwrite")
    assert tree(tmp_path) == before


def test_interrupted(weighbridge, model, tmp_path):
    corpus, out = write_lines(tmp_path / "c", [{"text": "abcdefg" * 1000}] * 10000), tmp_path / "out"  # 70 MB
    run = subprocess.Popen([weighbridge.path, "reduce-vocab", model, out, "--size", "5", "--corpus", corpus, "--progress",
                            "always"], stderr=subprocess.PIPE, env={**os.environ, **SANITIZER, **WITH_TOKENIZERS})
    shown = run.stderr.read(20)  # the bar: texts are on their way
    time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    rest = run.communicate(timeout=60)[1]
    assert run.returncode == 1 and shown.startswith(b"\r")
    assert rest.endswith(b"interrupted; nothing was published\n") and sorted(os.listdir(tmp_path)) == ["c"]


def test_memory_does_not_follow_the_corpus(weighbridge_release, model, tmp_path):
    peak = []
    for megabytes in (2, 12):
        corpus = write_lines(tmp_path / "c", [{"text": "abcdefghi " * 400}] * (250 * megabytes))
        # Of the larger of the two: the program, its helper. In between a small process, for a child begins with the peak
        # of whoever it was forked from.
        measure = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); " \
                  "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        run = subprocess.run([sys.executable, "-c", measure, weighbridge_release.path, "reduce-vocab", model,
                              tmp_path / str(megabytes), "--size", "9", "--corpus", corpus, "-q"],
                             env={**os.environ, **SANITIZER, **WITH_TOKENIZERS}, capture_output=True, text=True, check=True)
        peak.append(int(run.stdout))
    assert peak[1] < 1.3 * peak[0] and peak[1] < 600 << 10


def test_report(program, llama, data, tmp_path):
    r = program.ok("reduce-vocab", llama, tmp_path / "out", "--size", 60, "--corpus", data, "--method", "frequency", "--json")
    required, core, _ = reference(llama, 60, "frequency", texts := [x["article"] for x in json.loads(data.read_text())], [])
    counts = counted(Tokenizer.from_file(str(llama / "tokenizer.json")), texts)
    assert r.json["tokens"] == counts.total() and r.json["different_tokens"] == len(counts) and r.json["records"] == 5
    assert r.json["tokens_kept"] == sum(counts[i] for i in {*required, *core}) and r.json["notes"] == []
    text = program.ok("reduce-vocab", llama, tmp_path / "b", "--size", 60, "--corpus", data, "--method", "frequency").stdout
    share = 100 * r.json["tokens_kept"] / r.json["tokens"]
    assert text == (f"{tmp_path / 'b'}/vocab_map.safetensors: 60 of 320 tokens kept, {share:.2f} % of what was counted "
                    f"(5 records, {len(counts)} different tokens)\n")


def test_drop_in(program, llama, data, tmp_path):
    name = tmp_path / "tensorrt-edgellm-reduce-vocab"
    name.symlink_to(program.path)
    stand_in = type(program)(name)
    line = ["--model_dir", llama, "--output_dir", tmp_path / "o", "--reduced_vocab_size", 48]
    said = stand_in.refuses(*line, status=2)
    assert said.count("\n") == 1 and "--corpus FILE is needed" in said and "downloads nothing" in said
    for options, ours in (([], []), (["--method", "frequency"], ["--method", "frequency"])):
        stand_in.ok(*line, "--corpus", data, *options)
        program.ok("reduce-vocab", llama, tmp_path / "p", "--size", 48, "--corpus", data, "--max-samples", 50000,
                   "--overwrite", *ours)
        assert tree(tmp_path / "o") == tree(tmp_path / "p")
        assert json.loads((tmp_path / "o" / "reduced_vocab.json").read_text())["max_samples"] == 50000


# ---------------------------------------------------------------------------------------------------- with export


def head_of(out):
    m = onnx.load(out / "model.onnx")
    name = next(n.input[1] for n in m.graph.node if n.name == "/lm_head/MatMul")
    return next(numpy_helper.to_array(t) for t in m.graph.initializer if t.name == name)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("vocab", [259, 261, 283])
def test_export_takes_the_map(family, vocab, program, reduce, tmp_path):
    """An odd vocabulary, as large as the tokenizer's 259 or larger (VOCAB-01, VOCAB-04); 17 tokens stay."""
    model = checkpoints.make(tmp_path / "model", family, config={"vocab_size": vocab, "hidden_size": 72}).path
    corpus = write_lines(tmp_path / "c", [conversation(*p) for p in PAIRS])
    d2t = write_d2t(tmp_path / "d2t.safetensors", [0, vocab - 2])  # a row of the padding
    ids = reduce(model, tmp_path / "map", 17, corpus, "--d2t", d2t, "--method", "frequency")
    assert vocab - 1 in ids and len(set(ids)) == 17
    program.ok("export", model, tmp_path / "whole")
    program.ok("export", model, tmp_path / "out", "--reduced-vocab", tmp_path / "map")
    program.ok("verify", tmp_path / "out", model, "--reduced-vocab", tmp_path / "map")
    np.testing.assert_array_equal(head_of(tmp_path / "out"), head_of(tmp_path / "whole")[:, ids])
