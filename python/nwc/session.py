"""Sessions: evaluation of a model within a memory budget."""
from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy

from . import _nwc, errors

if TYPE_CHECKING:
    from .model import Model

_MODES = {"auto": 0, "resident": 1, "streamed": 2, "cached": 3, "fused": 4}
_WEIGHTS = {"auto": 0, "f32": 1, "f16": 2, "bf16": 3, "q8": 4, "packed": 5}
_STOPS = ("max_tokens", "eos", "context_full", "callback", "stop")


@dataclass(frozen=True)
class Generation:
    """What a model wrote. stop_reason: "max_tokens", "eos", "context_full", "callback" or "stop" (a stop string)."""

    text: str
    tokens: list[int]
    stop_reason: str


class Session:
    """Evaluates a model, as Model.session() makes it: a sequence of tokens whose keys and values are kept.

    Threads: calls take turns. A session keeps what it needs of the model, and goes on after Model.close().
    """

    def __init__(self, model: Model, *, context: int, memory: int, mode: str, weights: str, backend: int, device: str,
                 threads: int, progress: Callable[[int, int], Any] | None) -> None:
        for what, value, known in (("mode", mode, _MODES), ("weights", weights, _WEIGHTS)):
            if value not in known:
                raise errors.InvalidArgument(f"{what}={value!r}: one of {', '.join(known)}")
        for what, number, most in (("context", context, 2**32), ("memory", memory, 2**64), ("threads", threads, 257)):
            if not 0 <= number < most:
                raise errors.InvalidArgument(f"{what}={number}: 0 to {most - 1}")
        self._model: _nwc.Model | None = model._open()
        self._vocabulary: int = model.info["vocab_size"]
        self._encoder: dict[str, Any] | None = None
        self._lock = threading.RLock()
        options = {"context": context, "memory": memory, "mode": _MODES[mode], "weights": _WEIGHTS[weights],
                   "backend": backend, "device": device, "threads": threads}
        self._handle: _nwc.Session | None = _nwc.Session(self._model, options, progress)

    def close(self) -> None:
        """Frees the session's memory once running calls have ended. Later calls raise Closed."""
        self._handle = self._model = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> tuple[_nwc.Session, _nwc.Model]:
        handle, model = self._handle, self._model
        if handle is None or model is None:
            raise errors.Closed("the session was closed")
        return handle, model

    @property
    def name(self) -> str:
        """What decodes: "cpu avx2" or "vulkan <device>"."""
        return self._open()[0].name

    @property
    def position(self) -> int:
        """Tokens of the sequence."""
        return self._open()[0].position

    @property
    def plan(self) -> dict[str, Any]:
        """What was chosen: mode, context, batch, weights, and total_bytes of memory."""
        plan = self._open()[0].plan()
        plan["mode"] = list(_MODES)[plan["mode"]]
        return plan

    def truncate(self, position: int) -> None:
        """Forgets all tokens from `position` on. Errors: InvalidArgument (beyond the sequence)."""
        if not 0 <= position < 2**32:
            raise errors.InvalidArgument(f"position {position} is not in the sequence")
        self._open()[0].truncate(position)

    def _tokens(self, text: str | Sequence[int], special: bool = False) -> list[int]:
        if isinstance(text, str):
            return self._open()[1].tokenize(text.encode("utf-8", "surrogateescape"), 1 | 2 * int(special))
        tokens = [operator.index(token) for token in text]
        if any(not 0 <= token < 2**32 for token in tokens):
            raise errors.InvalidArgument("token ids are from 0 to 2**32 - 1")
        return tokens

    def logits(self, text: str | Sequence[int], *, last: bool = False, fresh: bool = False) -> numpy.ndarray[Any, Any]:
        """Appends a text, or tokens, and evaluates them. Returns f32 [tokens, vocab_size]; with last=True [vocab_size], those
        after the last token. fresh: forgets the sequence first. Errors: LimitExceeded (context), InvalidArgument (ids, no
        tokens), Unsupported (an encoder)."""
        handle, _ = self._open()
        tokens = self._tokens(text)
        out = numpy.empty(self._vocabulary if last else (len(tokens), self._vocabulary), numpy.float32)
        with self._lock:
            if fresh:
                handle.truncate(0)
            handle.eval(tokens, 1 if last else 2, out.ctypes.data, out.size)
        return out

    def generate(self, prompt: str | Sequence[int], *, max_tokens: int = 0, temperature: float = 0.0, top_k: int = 0,
                 top_p: float = 0.0, min_p: float = 0.0, seed: int = 0, repetition_penalty: float = 0.0,
                 presence_penalty: float = 0.0, frequency_penalty: float = 0.0, stop: Sequence[str] = (),
                 ignore_eos: bool = False, special: bool = False, fresh: bool = False,
                 on_token: Callable[[int, str], Any] | None = None) -> Generation:
        """Appends the prompt (a text, or tokens) and writes on, token by token.

        max_tokens: 0: until the context is full. temperature: 0: always the likeliest token. top_k, top_p, min_p: which tokens
            are drawn from, 0: all. The penalties look at what this call has drawn. stop: at most 64 texts that end it.
        special: control tokens that are written out in the prompt become their ids. fresh: forgets the sequence first.
        on_token: called with (token, text) for each; the text holds whole characters, so it may be empty. Returning False
            stops. Exceptions, also KeyboardInterrupt, end the generation and are passed on.
        Errors: InvalidArgument, LimitExceeded (the prompt does not fit), Unsupported (an encoder).
        """
        import codecs

        handle, _ = self._open()
        if isinstance(stop, str):
            stop = (stop,)
        for what, value in (("max_tokens", max_tokens), ("top_k", top_k)):
            if not 0 <= value < 2**32:
                raise errors.InvalidArgument(f"{what}={value}: 0 to {2**32 - 1}")
        options = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
                   "seed": seed % 2**64, "repetition_penalty": repetition_penalty, "presence_penalty": presence_penalty,
                   "frequency_penalty": frequency_penalty, "stop": list(stop), "ignore_eos": ignore_eos}
        tokens: list[int] = []
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        parts: list[str] = []

        def listen(token: int, data: bytes) -> bool:
            tokens.append(token)
            text = decoder.decode(data)
            parts.append(text)
            return on_token is None or on_token(token, text) is not False

        with self._lock:
            if fresh:
                handle.truncate(0)
            reason = handle.generate(self._tokens(prompt, special), options, listen)
        parts.append(decoder.decode(b"", True))
        return Generation("".join(parts), tokens, _STOPS[reason])

    def _encoder_info(self) -> dict[str, Any]:
        if self._encoder is None:
            self._encoder = self._open()[1].encoder()
        return self._encoder

    def embed(self, texts: str | Sequence[str]) -> numpy.ndarray[Any, Any]:
        """Embeddings of texts: f32 [texts, embedding_size], or [embedding_size] of one text. Errors: Unsupported (no encoder
        of texts), LimitExceeded (more tokens than the model takes)."""
        handle, model = self._open()
        encoder = self._encoder_info()
        if encoder["kind"] != "text":
            raise errors.Unsupported("the model is no encoder of texts")
        single = isinstance(texts, str)
        items = [texts] if isinstance(texts, str) else list(texts)
        out = numpy.empty((len(items), encoder["embedding_size"]), numpy.float32)
        for row, text in zip(out, items):
            handle.embed(model.tokenize(text.encode("utf-8", "surrogateescape"), 5), row.ctypes.data, row.size)
        return out[0] if single else out

    def embed_image(self, pixels: Any) -> numpy.ndarray[Any, Any]:
        """Embedding of an image: f32 [embedding_size]. pixels: [channels, image_height, image_width]. Errors: Unsupported (no
        encoder of images), InvalidArgument (another shape, or a number that is not finite)."""
        handle, _ = self._open()
        encoder = self._encoder_info()
        if encoder["kind"] != "image":
            raise errors.Unsupported("the model is no encoder of images")
        image = numpy.ascontiguousarray(pixels, numpy.float32)
        shape = (encoder["channels"], encoder["image_height"], encoder["image_width"])
        if image.shape != shape:
            raise errors.InvalidArgument(f"pixels are {list(image.shape)}, the model takes {list(shape)}")
        out = numpy.empty(encoder["embedding_size"], numpy.float32)
        handle.embed_image(image.ctypes.data, image.size, out.ctypes.data, out.size)
        return out
