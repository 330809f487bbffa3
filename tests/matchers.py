"""What guided decoding lets through: the two backends that vLLM uses, byte by byte (a token is a byte, END the end).

A matcher is made from a request's structure; `accepts` says whether a whole text is let through, `derive` draws one.
"""

import json
import random
from typing import Any, Protocol

import llguidance
import numpy as np
import xgrammar

END = 256
_CLOSING = b'")\n]:'


class Matcher(Protocol):
    def accepts(self, text: str) -> bool: ...
    def begin(self) -> None: ...
    def allowed(self) -> list[int]: ...
    def take(self, token: int) -> bool: ...


class Guidance:
    """llguidance, which the project's own engine uses, with its settings: JSON without white space."""

    def __init__(self, schema: Any = None, grammar: str | None = None) -> None:
        self._tokens = llguidance.LLTokenizer("byte")
        if grammar is not None:
            self._grammar = llguidance.grammar_from("grammar", grammar)
        else:
            compact: Any = {"whitespace_flexible": False}
            self._grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=compact)
        self.begin()

    def begin(self) -> None:
        self._matcher = llguidance.LLMatcher(self._tokens, self._grammar, log_level=0)
        assert not self._matcher.get_error(), self._matcher.get_error()

    def allowed(self) -> list[int]:
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        found = [int(token) for token in np.nonzero(bits[:END])[0]]
        return [*found, END] if bits[self._tokens.eos_token] else found

    def take(self, token: int) -> bool:
        return bool(self._matcher.consume_token(self._tokens.eos_token if token == END else token))

    def accepts(self, text: str) -> bool:
        self.begin()
        taken = list(text.encode())
        if self._matcher.validate_tokens(taken) < len(taken):
            return False
        return bool(self._matcher.consume_tokens(taken)) and bool(self._matcher.is_accepting())


class XGrammar:
    """xgrammar, which a vLLM server uses unless it is told otherwise."""

    def __init__(self, schema: Any = None, grammar: str | None = None) -> None:
        vocabulary = [bytes([byte]) for byte in range(END)] + [b"<end>"]
        info = xgrammar.TokenizerInfo(
            vocabulary, vocab_type=xgrammar.VocabType.RAW, vocab_size=END + 1, stop_token_ids=[END]
        )
        compiler = xgrammar.GrammarCompiler(info, max_threads=1)
        self._compiled = (
            compiler.compile_json_schema(json.dumps(schema)) if grammar is None else compiler.compile_grammar(grammar)
        )
        self._mask = xgrammar.allocate_token_bitmask(1, END + 1)
        self.begin()

    def begin(self) -> None:
        self._matcher = xgrammar.GrammarMatcher(self._compiled)

    def allowed(self) -> list[int]:
        self._matcher.fill_next_token_bitmask(self._mask, 0)
        bits = np.unpackbits(self._mask.numpy().view(np.uint8), bitorder="little")
        return [int(token) for token in np.nonzero(bits[: END + 1])[0]]

    def take(self, token: int) -> bool:
        return bool(self._matcher.accept_token(token))

    def accepts(self, text: str) -> bool:
        self.begin()
        return all(self.take(byte) for byte in text.encode()) and self.take(END)


def derive(matcher: Matcher, rng: random.Random, most: int = 3_500) -> str | None:
    """A text drawn from what is let through, brackets and quotes closed rather early; None for more than `most` bytes.

    Bytes that are no UTF-8 (xgrammar lets halves of surrogate pairs through) become what vLLM makes of them.
    """
    matcher.begin()
    drawn = bytearray()
    while len(drawn) <= most:
        allowed = matcher.allowed()
        assert allowed, bytes(drawn)
        closing = [token for token in allowed if token == END or token in _CLOSING]
        token = rng.choice(closing if closing and rng.random() < 0.3 else allowed)
        if token == END:
            return drawn.decode(errors="replace")
        assert matcher.take(token)
        drawn.append(token)
    return None
