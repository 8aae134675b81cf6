# Which tokens a corpus has, and how often: by the tokenizers package, as the model's own tokenizer.json says.
#
# Request on stdin: frames, each one byte of kind, four bytes of length (little-endian), and that many bytes of UTF-8:
#   t  tokenizer.json, first
#   q  a token whose id is asked for
#   c  a text whose tokens are counted
#   s  a text of which it is noted which tokens it has
#   b  both
# Answer (JSON on stdout), either
#   counted    [id, how often, id, how often, ...], in the order in which they first appeared
#   seen       [id, ...]
#   asked      the ids asked for, in their order; null: there is no such token
# or
#   failed     "tokenizers": the module cannot be imported; "tokenizer": tokenizer.json is none, or fails on a text
#   message    the reason
# tokenizer.json is a stranger's, and native code works on it: this process is confined by its parent, and opens nothing
# once its modules are loaded and the threads of the tokenizer stand.
import collections
import json
import os
import resource
import sys

BATCH = 1 << 20  # bytes of text that are tokenized at once; a text is never divided
THREADS = 8

SMALL = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
         "pre_tokenizer": None, "post_processor": None, "decoder": None,
         "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}


def answer(**what):
    sys.stdout.buffer.write(json.dumps(what).encode())
    sys.stdout.buffer.flush()
    os._exit(0)  # leaves threads alone


os.environ["RAYON_NUM_THREADS"] = str(min(THREADS, len(os.sched_getaffinity(0))))
try:
    from tokenizers import Tokenizer
except ImportError as e:
    answer(failed="tokenizers", message=f"{sys.executable}: {e}")


def confine():
    Tokenizer.from_str(json.dumps(SMALL)).encode_batch(["a"] * 64)  # starts the threads
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def frames(f):
    while head := f.read(5):
        yield head[:1], f.read(int.from_bytes(head[1:], "little")).decode()


def load(text):
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None  # would choose at random
    return tokenizer


class Texts:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.counted, self.seen = collections.Counter(), set()  # which keeps the order of first appearance
        self.batch, self.bytes = [], 0

    def add(self, kind, text):
        self.batch.append((kind, text))
        self.bytes += len(text)
        if self.bytes > BATCH:
            self.count()

    def count(self):
        encoded = self.tokenizer.encode_batch([text for _, text in self.batch], add_special_tokens=False)
        for (kind, _), tokens in zip(self.batch, encoded):
            if kind != b"s":
                self.counted.update(tokens.ids)
            if kind != b"c":
                self.seen.update(tokens.ids)
        self.batch, self.bytes = [], 0


def main():
    requests = frames(sys.stdin.buffer)
    confine()
    asked = []
    texts = Texts(load(next(requests)[1]))
    for kind, text in requests:
        if kind == b"q":
            asked.append(texts.tokenizer.token_to_id(text))
        else:
            texts.add(kind, text)
    texts.count()
    answer(counted=[n for pair in texts.counted.items() for n in pair], seen=sorted(texts.seen), asked=asked)


try:
    main()
except BaseException as e:  # a panic of native code is not an Exception
    answer(failed="tokenizer", message=f"{type(e).__name__}: {e}".encode(errors="replace").decode())
