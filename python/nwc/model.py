"""Open files: a mapping of names to tensors, which are decoded when they are asked for."""
from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from . import _dtypes, _nwc, errors
from .session import Generation, Session

if TYPE_CHECKING:
    import torch

#: Called with (done, total) tiles of a tensor; returning False stops, and so does an exception, which is passed on.
Progress = Callable[[int, int], Any]
_BACKENDS = {"auto": 0, "cpu": 1, "vulkan": 2}
_STORAGE = ("raw", "deflated", "coded")


def _backend(name: str) -> int:
    if name not in _BACKENDS:
        raise errors.InvalidArgument(f"backend {name!r}: auto, cpu or vulkan")
    return _BACKENDS[name]


class Tensor:
    """A tensor of an open file. Nothing is decoded before one of its methods, or a slice, asks for it.

    shape: tuple of int, the outermost dimension first.
    dtype: name of the type that the original tensor had: "f32", "f16", "bf16", "i64", ...
    bits_per_weight: stored bits, side information included, by elements.
    stored_bytes, storage: bytes in the file, and "coded", "raw" or "deflated".
    """

    def __init__(self, model: Model, index: int, entry: dict[str, Any]) -> None:
        self._model = model
        self._index = index
        self.name: str = entry["name"]
        self.shape: tuple[int, ...] = entry["shape"]
        self.dtype: str = _dtypes.name_of(entry["dtype"])
        self.storage: str = _STORAGE[entry["storage"]]
        self.stored_bytes: int = entry["stored_bytes"]
        self.bits_per_weight: float = entry["bits_per_weight"]
        self._dtype: int = entry["dtype"]
        self._rows: int = entry["rows"]
        self._cols: int = entry["cols"]

    def __repr__(self) -> str:
        return f"<nwc.Tensor {self.name!r} {list(self.shape)} {self.dtype}, {self.bits_per_weight:.2f} bits per weight>"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._rows * self._cols

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self.name} is a scalar and has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[numpy.ndarray[Any, Any]]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> numpy.ndarray[Any, Any]:
        if copy is False:
            raise ValueError(f"{self.name} is stored compressed: an array of it is always a copy")
        array = self.to_numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def to_numpy(self, dtype: Any = "f32", *, out: numpy.ndarray[Any, Any] | None = None,
                 progress: Progress | None = None) -> numpy.ndarray[Any, Any]:
        """Decodes the whole tensor.

        dtype: "f32", "f16", "bf16" (or numpy's types of these), or "own": the original's type, for tensors that are not
            coded any type, bit for bit. numpy has no bf16: the array is uint16 with the same bits, or ml_dtypes.bfloat16
            where ml_dtypes is installed. Types below a byte come packed, as uint8 of one dimension.
        out: array to decode into, C-contiguous, of the tensor's shape and that type. Returned.
        Returns an array of the tensor's shape. Decodes straight into it.
        Errors: Unsupported (a type that is not converted; "own" gives it), InvalidArgument (out), ChecksumMismatch,
            Corrupt, Truncated, InputOutputError, OutOfMemory, Cancelled (progress returned False), Closed.
        """
        if dtype == "own":
            if self.storage != "coded":
                return self._raw(out)
            dtype = self.dtype
        number = _dtypes.decoded(dtype)
        array = self._array(self.shape, _dtypes.numpy_type(_dtypes.NAMES[number]), out)
        self._decode(0, self._rows, number, array.ctypes.data, array.nbytes, progress)
        return array

    def rows(self, begin: int, end: int, dtype: Any = "f32", *, out: numpy.ndarray[Any, Any] | None = None,
             progress: Progress | None = None) -> numpy.ndarray[Any, Any]:
        """Decodes [begin, end) of the first dimension: an array [end - begin, *shape[1:]]. Only the tiles that hold them
        are read. Arguments and errors otherwise as with to_numpy; InvalidArgument for a range beyond the tensor."""
        number = _dtypes.decoded(dtype)
        if not self.shape:
            raise errors.InvalidArgument(f"{self.name} is a scalar and has no rows")
        if not 0 <= begin <= end <= self.shape[0]:
            raise errors.InvalidArgument(f"{self.name}: rows {begin} to {end} of {self.shape[0]}")
        shape = (end - begin, *self.shape[1:])
        array = self._array(shape, _dtypes.numpy_type(_dtypes.NAMES[number]), out)
        inner = self._rows // self.shape[0] if self.shape[0] else 0
        self._decode(begin * inner, end * inner, number, array.ctypes.data, array.nbytes, progress)
        return array

    def __getitem__(self, key: Any) -> Any:
        """numpy's slices, in f32; those of the first dimension decide what is decoded. t[3], t[2:5], t[2:5, ::2], t[...]"""
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
        if isinstance(first, slice) and self.shape:
            begin, end, step = first.indices(self.shape[0])
            if step < 0:
                begin, end = (end + 1, begin + 1) if end < begin else (0, 0)
            rows = self.rows(begin, max(begin, end))[::step]
            return rows[(slice(None), *rest)] if rest else rows
        if hasattr(first, "__index__") and not isinstance(first, bool) and self.shape:
            index = operator.index(first)
            row = index + self.shape[0] if index < 0 else index
            if not 0 <= row < self.shape[0]:
                raise IndexError(f"{self.name}: row {index} of {self.shape[0]}")
            array = self.rows(row, row + 1)[0]
            return array[rest] if rest else array
        return self.to_numpy()[key]

    def to_torch(self, dtype: Any = None, device: Any = "cpu", *, out: torch.Tensor | None = None,
                 progress: Progress | None = None) -> torch.Tensor:
        """Decodes to a torch.Tensor.

        dtype: torch's type or a name, f32, f16 or bf16; None: the original's type, or f32 where it is no type of torch.
        device: the tensor is decoded in host memory, straight into the result if that is where it is to be.
        out: tensor to decode into; its type and device count. One that is not contiguous, or is on a device, is copied to.
        Errors: as with to_numpy; ImportError without torch.
        """
        from . import _torch

        return _torch.decode(self, dtype, device, out, progress)

    def _array(self, shape: tuple[int, ...], dtype: numpy.dtype[Any],
               out: numpy.ndarray[Any, Any] | None) -> numpy.ndarray[Any, Any]:
        if out is None:
            return numpy.empty(shape, dtype)
        if not isinstance(out, numpy.ndarray) or out.shape != shape or out.dtype != dtype:
            found = f"{out.dtype} {list(out.shape)}" if isinstance(out, numpy.ndarray) else type(out).__name__
            raise errors.InvalidArgument(f"{self.name}: out has to be an array of {dtype} {list(shape)}, not {found}")
        if not out.flags.c_contiguous or not out.flags.writeable or not out.flags.aligned:
            raise errors.InvalidArgument(f"{self.name}: out has to be C-contiguous, aligned and writeable")
        return out

    def _raw(self, out: numpy.ndarray[Any, Any] | None) -> numpy.ndarray[Any, Any]:
        bits = _nwc.dtype_bits(self._dtype)
        packed = bits % 8 != 0
        shape = ((self.size * bits + 7) // 8,) if packed else self.shape
        array = self._array(shape, _dtypes.numpy_type(self.dtype), out)
        self._model._open().read_raw(self._index, array.ctypes.data, array.nbytes)
        return array

    def _decode(self, begin: int, end: int, dtype: int, address: int, size_bytes: int, progress: Progress | None) -> None:
        self._model._decoder().decode_rows(self._index, begin, end, dtype, address, size_bytes, progress)


class Model(Mapping[str, Tensor]):
    """An open .nwc file, as :func:`open` returns it: a mapping of names to :class:`Tensor`, in execution order.

    Threads: any number of them may use a model; tensors are decoded one after the other, each on all of `threads`. The
    default session (generate, logits, embed, chat) is shared as well, and calls take turns.
    Arrays and tensors have memory of their own: they stay valid after close().
    """

    def __init__(self, handle: _nwc.Model, path: bytes | None, data: Any, backend: int, device: str, threads: int,
                 checksums: bool) -> None:
        self._handle: _nwc.Model | None = handle
        self._path = path
        self._data = data
        self._options = (backend, device, threads, checksums)
        self._lock = threading.RLock()
        self._decoder_handle: _nwc.Decoder | None = None
        self._session: Session | None = None
        self._info = handle.info()
        self._tensors: dict[str, Tensor] = {}
        for index in range(self._info["tensors"]):
            tensor = Tensor(self, index, handle.tensor(index))
            self._tensors[tensor.name] = tensor

    def __getitem__(self, name: str) -> Tensor:
        self._open()
        try:
            return self._tensors[name]
        except (KeyError, TypeError):
            raise errors.NotFound(f"there is no tensor {name!r}") from None

    def __iter__(self) -> Iterator[str]:
        self._open()
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        state = "closed" if self._handle is None else f"{self._info['bits_per_weight']:.2f} bits per weight"
        return f"<nwc.Model of {len(self)} tensors, {state}>"

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __enter__(self) -> Model:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. May be called twice, and while other threads decode: their calls finish. Later calls raise
        Closed; arrays that were made stay."""
        with self._lock:
            self._handle = self._decoder_handle = self._session = self._data = None

    @property
    def closed(self) -> bool:
        return self._handle is None

    def _open(self) -> _nwc.Model:
        handle = self._handle
        if handle is None:
            raise errors.Closed("the model was closed")
        return handle

    def _decoder(self) -> _nwc.Decoder:
        with self._lock:
            if self._decoder_handle is None:
                self._decoder_handle = _nwc.Decoder(self._open(), *self._options)
            return self._decoder_handle

    @property
    def info(self) -> dict[str, Any]:
        """Sizes (file_bytes, stored_bytes), counts (tensors, weights, coded_weights), bits_per_weight of the whole file and
        bits_per_coded_weight, vocab_size, and what the codec is."""
        self._open()
        return dict(self._info)

    @property
    def properties(self) -> dict[str, Any]:
        """What the file says of network and tokenizer: architecture, hidden_size, num_layers, chat_template, ... nwc.h lists
        the keys at nwc_model_get_u64; those that do not apply are absent."""
        return self._open().properties()

    @property
    def provenance(self) -> dict[str, str]:
        """The program that made the file, its inputs and settings."""
        return self._open().metadata(0)

    @property
    def quality_card(self) -> dict[str, str]:
        """How far the model is from its original: bits per weight, perplexity, KL divergence and the text, as texts; empty
        if it was not measured (compress(..., card=text))."""
        return self._open().metadata(1)

    @property
    def encoder(self) -> dict[str, Any]:
        """What the model takes and gives: kind ("none": it predicts tokens, "text", "image"), hidden_size, embedding_size,
        max_tokens, channels, image_height, image_width, normalized."""
        return self._open().encoder()

    # -- tokens --------------------------------------------------------------------------------------------------------

    def tokenize(self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False,
                 add_end: bool = False) -> list[int]:
        """The text's tokens. add_special: with BOS in front where the tokenizer says so; add_end: with EOS behind;
        parse_special: control tokens that are written out become their ids (not for text from strangers).
        Errors: Unsupported (no tokenizer), LimitExceeded, Corrupt, Closed."""
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
        return self._open().tokenize(data, int(add_special) | 2 * int(parse_special) | 4 * int(add_end))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The tokens' text; bytes that are no UTF-8 are replaced. Errors: Unsupported, InvalidArgument (id), Closed."""
        return self._open().detokenize(_token_list(tokens)).decode("utf-8", "replace")

    def format_chat(self, messages: Sequence[Mapping[str, str]], *, date: str | None = None) -> str:
        """The text that an instruct model was trained on for a conversation, up to what opens the answer.
        messages: {"role": "system" | "user" | "assistant", "content": text} each. date: as 2026-11-26, for the few formats that
        write it; None: today. Errors: Unsupported (no chat template, or an unknown one), InvalidArgument (roles), Closed."""
        return self._format_chat(messages, date)[0]

    def _format_chat(self, messages: Sequence[Mapping[str, str]], date: str | None) -> tuple[str, int]:
        roles = {"system": 0, "user": 1, "assistant": 2}
        pairs = []
        for message in messages:
            if message.get("role") not in roles or not isinstance(message.get("content"), str):
                raise errors.InvalidArgument(f"{message!r}: a message has role (system, user, assistant) and content")
            pairs.append((roles[message["role"]], message["content"]))
        text, flags = self._open().format_chat(pairs, 0, date)
        return text.decode("utf-8", "replace"), flags

    # -- what the engine runs ------------------------------------------------------------------------------------------

    def session(self, *, context: int = 0, memory: int = 0, mode: str = "auto", weights: str = "auto",
                backend: str = "auto", device: str = "", threads: int = 0, progress: Progress | None = None) -> Session:
        """Makes a session of its own, which evaluates the model.

        context: tokens that the KV cache holds; 0: the model's maximum, at most 8192.
        memory: upper limit in bytes for weights, buffers and cache; 0: none. mode: "auto", "resident", "streamed", "cached"
            or "fused". weights: "auto", "f32", "f16", "bf16", "q8" or "packed". threads: 0: one per core.
        progress: called with (done, total) layers.
        Errors: BudgetExceeded, Unsupported (the model cannot be run; the text says why), Corrupt, NoDevice, Closed.
        """
        return Session(self, context=context, memory=memory, mode=mode, weights=weights, backend=_backend(backend),
                       device=device, threads=threads, progress=progress)

    def _shared_session(self) -> Session:
        with self._lock:
            if self._session is None:
                self._session = self.session(backend="cpu", threads=self._options[2])
            return self._session

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Generation:
        """Goes on from the prompt, in the model's default session (on the CPU, the whole model in memory), emptied before.
        Options and errors are those of Session.generate, and of session()."""
        return self._shared_session().generate(prompt, fresh=True, **options)

    def logits(self, text: str | Sequence[int]) -> numpy.ndarray[Any, Any]:
        """Logits after each token of a text, or of a list of tokens: f32 [tokens, vocab_size]. Errors: those of session(),
        and LimitExceeded (more tokens than the context)."""
        return self._shared_session().logits(text, fresh=True)

    def embed(self, texts: str | Sequence[str]) -> numpy.ndarray[Any, Any]:
        """Embeddings of texts by an encoder: f32 [texts, embedding_size], or [embedding_size] of a single text.
        Errors: Unsupported (no encoder of texts), LimitExceeded (more tokens than the model takes)."""
        return self._shared_session().embed(texts)

    def embed_image(self, pixels: Any) -> numpy.ndarray[Any, Any]:
        """Embedding of an image by an encoder of images: f32 [embedding_size]. pixels: [channels, image_height, image_width],
        resized and normalized as the model was trained. Errors: Unsupported, InvalidArgument (shape, not finite)."""
        return self._shared_session().embed_image(pixels)

    def chat(self, messages: str | Sequence[Mapping[str, str]], *, date: str | None = None, **options: Any) -> Generation:
        """The model's answer to a conversation (as in format_chat; a text alone is the user's). Options: of generate.
        Errors: those of format_chat and generate."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        text, flags = self._format_chat(messages, date)
        properties = self.properties
        stops = [properties[f"chat_stop.{i}"] for i in range(properties.get("num_chat_stops", 0))]
        tokens = self._open().tokenize(text.encode(), flags)
        options["stop"] = [*stops, *options.get("stop", ())]
        return self.generate(tokens, **options)

    # -- torch ---------------------------------------------------------------------------------------------------------

    def state_dict(self, dtype: Any = None, device: Any = "cpu") -> dict[str, torch.Tensor]:
        """All tensors as torch.Tensor, under the names and in the form that the model's checkpoint has: ready for
        module.load_state_dict, which takes twice the memory of nwc.load_state_dict. dtype: None: each tensor's own. device,
        errors: as in Tensor.to_torch, and MissingLibrary."""
        from . import _torch

        return _torch.state_dict(self, dtype, device)


def _token_list(tokens: Sequence[int]) -> list[int]:
    values = [operator.index(token) for token in tokens]
    if any(not 0 <= value < 2**32 for value in values):
        raise errors.InvalidArgument("token ids are from 0 to 2**32 - 1")
    return values


def open(source: str | bytes | bytearray | memoryview | os.PathLike[Any], *, backend: str = "cpu", device: str = "",
         threads: int = 0, checksums: bool = True) -> Model:
    """Opens a .nwc file and reads its metadata; tensors are read when they are decoded.

    source: a path (str or pathlib.Path; of any bytes that the system takes, see os.fsencode), or the file's bytes as bytes,
        bytearray or memoryview, which are not copied and must not change while the model is open.
    backend: what decodes tensors, "cpu" (the same weights on every machine with the same instructions), "vulkan", or "auto".
        device: a part of a Vulkan device's name.
    threads: that decode; 0: one per core. checksums: False leaves out CRC-32.
    Errors: InputOutputError, InvalidFile (Unrecognized, Corrupt, Truncated, ChecksumMismatch), Unsupported,
        UnsupportedVersion, LimitExceeded, OutOfMemory; InvalidArgument (backend, threads, NUL in a path).
    """
    number = _backend(backend)
    if not 0 <= threads <= 256:
        raise errors.InvalidArgument(f"threads={threads}: 0 to 256")
    if isinstance(source, (bytes, bytearray, memoryview)):
        if isinstance(source, memoryview) and not source.contiguous:
            raise errors.InvalidArgument("the memory of a file has to be contiguous")
        return Model(_nwc.open_buffer(source), None, source, number, device, threads, checksums)
    path = os.fsencode(source)
    if b"\0" in path:
        raise errors.InvalidArgument(f"{source!r}: a path has no NUL")
    return Model(_nwc.open_path(path), os.path.abspath(path), None, number, device, threads, checksums)
