# What a runtime without Jinja needs to know of a chat template: the text around each role's content, found by
# rendering conversations of placeholders and cutting the results at them.
#
# Request (JSON on stdin): template, special_tokens, multimodal, now (seconds since 1970).
# Answer (JSON on stdout), either
#   result      {roles, content_types, generation_prompt, default_system_prompt, maybe generation_prompt_thinking}
#   uses_clock  whether the template asked for the date
#   lost        roles whose text the template did not show on its own
#   leaked      placeholders that ended up in the result
# or
#   failed      "jinja2": the module cannot be imported; "syntax": the template does not compile;
#               "template": it fails on a conversation that is needed
#   message     the reason
#   conversation  of which roles
# The template is a stranger's: it runs in Jinja's immutable sandbox, in a process that is confined by its parent, and
# after confine() can open nothing. Modules that Jinja and Python load when they first need them are loaded before.
import json
import re
import sys

RENDERED_MOST = 1 << 20  # characters; a prompt's frame has a few hundred

SYSTEM = "<placeholder_system_prompt>"
USER = "<placeholder_user_text>"
ASSISTANT = "<placeholder_assistant_text>"
PLACEHOLDER = re.compile("<placeholder_[a-z_]+>")


def answer(**what):
    sys.stdout.buffer.write(json.dumps(what, ensure_ascii=False).encode())
    sys.stdout.buffer.flush()
    raise SystemExit(0)


try:
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox
except ImportError as e:
    sys.stdin.buffer.read()
    answer(failed="jinja2", message=f"{sys.executable}: {e}")

import datetime
import resource
import time


class Failed(Exception):
    """The template failed; the message is for people."""


class Generation(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %} marks what an assistant wrote; here it only stands for its content."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


class Template:
    """The model's template as Hugging Face transformers would render it."""

    def __init__(self, text, special_tokens, now):
        self.uses_clock = False
        self.now = datetime.datetime.fromtimestamp(now)
        self.variables = {**special_tokens, "tools": None, "documents": None}
        env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                           extensions=[Generation, jinja2.ext.loopcontrols])
        env.filters["tojson"] = tojson
        env.globals["raise_exception"] = raise_exception
        env.globals["strftime_now"] = self.strftime_now
        self.compiled = env.from_string(text)

    def strftime_now(self, format):
        self.uses_clock = True
        return self.now.strftime(format)

    def render_once(self, messages, variables):
        parts, length = [], 0
        for part in self.compiled.generate({**self.variables, **variables, "messages": messages}):
            parts.append(part)
            length += len(part)
            if length > RENDERED_MOST:
                raise Failed(f"it writes more than {RENDERED_MOST} characters")
        text = "".join(parts)
        if not is_text(text):
            raise Failed("it writes what is not Unicode text")
        return text

    def render(self, messages, **variables):
        variables.setdefault("add_generation_prompt", False)
        try:
            return self.render_once(messages, variables)
        except Exception as first:
            plain = [{**m, "content": first_text(m["content"])} for m in messages]
            if plain == messages:
                raise failure(first, messages) from None
        try:
            return self.render_once(plain, variables)
        except Exception as e:
            raise failure(e, messages) from None


def is_text(s):
    """No NUL, no half of a surrogate pair: what JSON readers take."""
    return "\0" not in s and s == s.encode(errors="replace").decode()


def first_text(content):
    if isinstance(content, str):
        return content
    return next((part["text"] for part in content if part["type"] == "text"), "")


def failure(e, messages):
    said = {MemoryError: "it needs too much memory", RecursionError: "it nests too deeply"}.get(type(e))
    if isinstance(e, (jinja2.exceptions.TemplateError, Failed)):
        said = said or str(e)
    said = said or f"{type(e).__name__}: {e}"
    failed = Failed(said.encode(errors="replace").decode().replace("\0", " "))
    failed.conversation = " and ".join(m["role"] for m in messages)
    return failed


class Cut:
    """A rendered conversation's last turn, cut at its placeholder."""

    def __init__(self, before, whole, placeholder):
        prefix, found, suffix = whole[len(before):].partition(placeholder)
        self.found = bool(found)
        self.prefix, self.suffix = (prefix, suffix) if found else ("", "")

    def role(self):
        return {"prefix": self.prefix, "suffix": self.suffix}


def content_format(template, with_system, user, kind):
    parts = [{"type": "text", "text": USER}, {"type": kind, kind: f"<placeholder_{kind}_path>"}]
    whole = template.render([{"role": "system", "content": SYSTEM}, {"role": "user", "content": parts}])
    text = Cut(with_system, whole, USER).suffix
    if user.suffix and text.endswith(user.suffix):
        text = text[:-len(user.suffix)]
    return re.sub(r"^(Image|Video) \d+: ", "", text)


def default_system_prompt(template, system):
    text = template.render([{"role": "user", "content": USER}])
    begin = text.find(system.prefix)
    end = text.find(system.suffix, begin + len(system.prefix))
    prompt = text[begin + len(system.prefix):end] if begin >= 0 and end >= 0 else ""
    return "" if PLACEHOLDER.search(prompt) else prompt


def process(template, multimodal):
    conversation = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER},
                    {"role": "assistant", "content": ASSISTANT}]
    with_system, with_user, with_assistant = (template.render(conversation[:n]) for n in (1, 2, 3))
    roles = {"system": Cut("", with_system, SYSTEM), "user": Cut(with_system, with_user, USER),
             "assistant": Cut(with_user, with_assistant, ASSISTANT)}
    formats = {kind: content_format(template, with_system, roles["user"], kind)
               for kind in ("image", "video")} if multimodal else {}
    plain = template.render(conversation[:2], add_generation_prompt=True, enable_thinking=False)[len(with_user):]
    thinking = template.render(conversation[:2], add_generation_prompt=True)[len(with_user):]
    result = {"roles": {name: cut.role() for name, cut in roles.items()},
              "content_types": {kind: {"format": text} for kind, text in formats.items() if text},
              "generation_prompt": plain,
              "default_system_prompt": default_system_prompt(template, roles["system"])}
    if thinking != plain:
        result["generation_prompt_thinking"] = thinking
    return {"result": result, "uses_clock": template.uses_clock,
            "lost": [name for name, cut in roles.items() if not cut.found],
            "leaked": sorted(set(PLACEHOLDER.findall(json.dumps(result))))}


WARM_UP = """{% macro m(x) %}{{ x ~ 'a\\n' }}{% endmacro %}
{{- lipsum(1) | wordwrap | urlize | pprint | tojson ~ m('x') ~ strftime_now('%d %B %Y') }}{{ raise_exception('done') }}"""


def confine():
    time.tzset()
    try:
        Template(WARM_UP, {}, 0).render([])
    except Failed:
        pass
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def main():
    request = json.loads(sys.stdin.buffer.read())
    confine()
    try:
        template = Template(request["template"], request["special_tokens"], request["now"])
    except jinja2.exceptions.TemplateSyntaxError as e:
        answer(failed="syntax", message=f"{e.message} (line {e.lineno})")
    except Exception as e:
        answer(failed="syntax", message=str(failure(e, [])))
    try:
        answer(**process(template, request["multimodal"]))
    except Failed as e:
        answer(failed="template", message=str(e), conversation=e.conversation)


main()
