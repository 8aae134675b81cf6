"""Tokenizer files and the chat template: what arrives in OUT, what is refused, with which words, and that a refusal
writes nothing."""
import json
import os
import sys

import checkpoints
import pytest
from conftest import tree

WAYS_OUT = ["--chat-template FILE", "--no-chat-template"]
RAISES = ("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
          "{{ m.content }}{% endfor %}")


def says(word):
    return "{% for m in messages %}<" + word + " {{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture()
def made(tmp_path):
    """made(files) -> a checkpoint whose side files are overridden; without a template of its own."""
    def make(files):
        model = checkpoints.build(template=None)
        config = model.files["tokenizer_config.json"]
        for name, value in files.items():
            model.files[name] = {**config, **value} if name == "tokenizer_config.json" and isinstance(value, dict) else value
        return model.write(tmp_path / "model").path
    return make


def processed(out):
    return json.loads((out / "processed_chat_template.json").read_text())


def refused(weighbridge, tmp_path, model, words, *options, command="export", env=None):
    before = tree(tmp_path)
    said = weighbridge.refuses(command, model, tmp_path / "out", *options, env=env)
    assert all(word in said for word in words), said
    assert tree(tmp_path) == before
    return said


# ---------------------------------------------------------------------------------------------------- TMPL-01


@pytest.mark.parametrize("sources", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]])
def test_template_sources_in_order(weighbridge, made, tmp_path, sources):  # TMPL-01
    files = [("chat_template.jinja", says("jinja")), ("chat_template.json", {"chat_template": says("json")}),
             ("tokenizer_config.json", {"chat_template": says("config")})]
    model = made(dict(files[i] for i in sources))
    r = weighbridge.ok("export", model, tmp_path / "out")
    word = ["jinja", "json", "config"][sources[0]]
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == says(word)
    assert processed(tmp_path / "out")["roles"]["user"]["prefix"] == f"<{word} user>"
    assert processed(tmp_path / "out")["model_path"] == str(model)
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert not (tmp_path / "out" / "chat_template.json").exists()
    assert r.stderr.count("has another chat template than") == len(sources) - 1
    weighbridge.ok("verify", tmp_path / "out", model)


# ---------------------------------------------------------------------------------------------------- TMPL-04


def test_list_of_templates(weighbridge, made, tmp_path):  # TMPL-04
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": says("list")}]
    model = made({"tokenizer_config.json": {"chat_template": named}})
    weighbridge.ok("export", model, tmp_path / "out")
    assert processed(tmp_path / "out")["roles"]["system"]["prefix"] == "<list system>"
    weighbridge.ok("verify", tmp_path / "out", model)


def test_list_without_default(weighbridge, made, tmp_path):  # TMPL-04
    model = made({"tokenizer_config.json": {"chat_template": [{"name": "tool_use", "template": "x"}]}})
    refused(weighbridge, tmp_path, model, ["tokenizer_config.json", '"default"', '"tool_use"', *WAYS_OUT])
    weighbridge.ok("export", model, tmp_path / "out", "--no-chat-template")
    assert (tmp_path / "out" / "tokenizer_config.json").read_bytes() == (model / "tokenizer_config.json").read_bytes()


# ---------------------------------------------------------------------------------------------------- TMPL-05


def test_all_known_files_are_copied(weighbridge, made, tmp_path):  # TMPL-05
    known = ["vocab.json", "added_tokens.json", "preprocessor_config.json", "video_preprocessor_config.json",
             "processor_config.json"]
    model = made({**{n: {"file": n} for n in known}, "merges.txt": "#version: 0.2\n\u0120 t\n", "tokenizer.model": b"\0\xff"})
    for name in ["generation_config.json", "quantize_config.json"]:
        (model / name).write_text("{}")
    (model / "modeling_x.py").write_text("")
    weighbridge.ok("export", model, tmp_path / "out")
    for name in known + ["merges.txt", "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]:
        assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes()
    assert not {"generation_config.json", "quantize_config.json", "modeling_x.py"} & set(os.listdir(tmp_path / "out"))
    weighbridge.ok("verify", tmp_path / "out", model)


def test_missing_tokenizer_is_named(weighbridge, made, tmp_path):
    model = made({"tokenizer.json": None, "tokenizer.model": b"x"})
    refused(weighbridge, tmp_path, model, ["no tokenizer.json, only tokenizer.model"], "--strict")
    r = weighbridge.ok("export", model, tmp_path / "out")
    assert "no tokenizer.json, only tokenizer.model" in r.stderr


def test_numbers_of_the_config_survive(weighbridge, made, tmp_path):
    text = '{"model_max_length": 1000000000000000019884624838656,\n\t"chat_template": "{{ messages }}", "x": 1E+2}'
    model = made({"tokenizer_config.json": text})
    weighbridge.ok("export", model, tmp_path / "out", "--no-chat-template")
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == text.replace('"chat_template": "{{ messages }}", ', "")


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("files, words", [
    ({"chat_template.jinja": RAISES}, ["chat_template.jinja", "conversation of system", '"System role not supported"', *WAYS_OUT]),
    ({"chat_template.jinja": "{% if %}"}, ["does not compile", *WAYS_OUT]),
    ({"chat_template.jinja": "{{ cycler.__init__.__globals__.os.system('touch /tmp/x') }}"}, ["unsafe", *WAYS_OUT]),
    ({"chat_template.jinja": "{{ 'x' * 10**10 }}"}, ["too much memory", *WAYS_OUT]),
    ({"chat_template.jinja": "{% include '/etc/passwd' %}"}, ["no loader", *WAYS_OUT]),
    ({"chat_template.jinja": b"\xff"}, ["chat_template.jinja", "not UTF-8"]),
    ({"tokenizer_config.json": '{"a": 1,'}, ["tokenizer_config.json", "cut short"]),
    ({"tokenizer_config.json": '{"a": 1, "a": 2}'}, ["tokenizer_config.json", '"a" is there twice']),
    ({"tokenizer_config.json": b"\xef\xbb\xbf{}"}, ["tokenizer_config.json"]),
    ({"tokenizer.json": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"}, ["tokenizer.json", "Git LFS pointer"]),
])
def test_refusals(weighbridge, made, tmp_path, files, words):
    refused(weighbridge, tmp_path, made(files), words)


def test_refused_template_and_the_ways_out(weighbridge, made, golden, tmp_path):
    model, given = made({"chat_template.jinja": RAISES}), golden / "checkpoints" / "custom_chat_template.json"
    weighbridge.ok("export", model, tmp_path / "a", "--no-chat-template")
    assert not (tmp_path / "a" / "processed_chat_template.json").exists()
    assert (tmp_path / "a" / "chat_template.jinja").read_text() == RAISES
    weighbridge.ok("verify", tmp_path / "a", model)
    weighbridge.ok("export", model, tmp_path / "b", "--chat-template", given)
    assert (tmp_path / "b" / "processed_chat_template.json").read_bytes() == given.read_bytes()
    weighbridge.ok("verify", tmp_path / "b", model, "--chat-template", given)


def test_existing_export_survives_a_refusal(weighbridge, made, tmp_path):
    model = made({"chat_template.jinja": says("a")})
    weighbridge.ok("export", model, tmp_path / "out")
    (model / "chat_template.jinja").write_text(RAISES)
    refused(weighbridge, tmp_path, model, ["System role not supported"], "--overwrite")


def test_without_python_or_jinja2(weighbridge, made, tmp_path):
    """The bare interpreter is a virtual environment of this one, with nothing in it."""
    model, real = made({"chat_template.jinja": says("a")}), os.path.realpath(sys.executable)
    refused(weighbridge, tmp_path, model, ["/no/such/python", *WAYS_OUT], env={"WEIGHBRIDGE_PYTHON": "/no/such/python"})
    refused(weighbridge, tmp_path, model, ["python3 on PATH", *WAYS_OUT], env={"WEIGHBRIDGE_PYTHON": "", "PATH": str(tmp_path)})
    (tmp_path / "bare" / "bin").mkdir(parents=True)
    (tmp_path / "bare" / "pyvenv.cfg").write_text(f"home = {os.path.dirname(real)}\ninclude-system-site-packages = false\n")
    (tmp_path / "bare" / "bin" / "python3").symlink_to(real)
    refused(weighbridge, tmp_path, model, ["python3-jinja2", *WAYS_OUT],
            env={"WEIGHBRIDGE_PYTHON": str(tmp_path / "bare" / "bin" / "python3")})
    weighbridge.ok("export", model, tmp_path / "out", "--no-chat-template", env={"WEIGHBRIDGE_PYTHON": "/no/such/python"})


@pytest.mark.parametrize("text, words", [
    ("{}", ['"roles" is missing']),
    ('{"roles": {"system": {"prefix": 1}}}', ['"roles.system.prefix" is an integer']),
    ('{"roles": 1, "roles": 2}', ['"roles" is there twice']),
    ("\ufeff{}", ["byte order mark"]),
    (" " * (1 << 20) + "{}", ["1048576"]),
])
def test_given_template_is_checked(weighbridge, made, tmp_path, text, words):
    model = made({})
    (tmp_path / "given.json").write_text(text, encoding="utf-8")
    refused(weighbridge, tmp_path, model, ["--chat-template", "given.json", *words], "--chat-template", tmp_path / "given.json")


# ---------------------------------------------------------------------------------------------------- what cannot be said


def test_template_with_the_date(weighbridge, made, tmp_path):
    model = made({"chat_template.jinja": "{{ strftime_now('%d %b %Y') }}" + says("a")})
    r = weighbridge.ok("export", model, tmp_path / "out")
    assert "writes the current date" in r.stderr
    os.utime(tmp_path / "out" / "processed_chat_template.json", (10**9, 10**9))  # then it would have had another date in it
    assert "processed_chat_template.json" in weighbridge("verify", tmp_path / "out", model, "--json").stdout
    os.utime(tmp_path / "out" / "processed_chat_template.json")
    weighbridge.ok("verify", tmp_path / "out", model)


def test_template_that_mixes_roles(weighbridge, made, tmp_path):
    model = made({"chat_template.jinja": "{% for m in messages %}{{ m.content }}{{ messages[0].content }}{% endfor %}"})
    refused(weighbridge, tmp_path, model, ["<placeholder_system_prompt>", "--chat-template FILE"], "--strict")
    assert "<placeholder_system_prompt>" in weighbridge.ok("export", model, tmp_path / "out").stderr


def test_model_without_a_template(weighbridge, made, tmp_path):
    weighbridge.ok("export", made({}), tmp_path / "out", "--strict")
    assert not {"chat_template.jinja", "processed_chat_template.json"} & set(os.listdir(tmp_path / "out"))
