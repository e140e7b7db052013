"""Compressing: the command `nwc compress`, which the wheel holds, as a child process.

A child, because what compress does is that command: choosing codec and calibration, the caches of calibrations, searching a
KL divergence, the quality card. A second way into the encoder would have to repeat all of it. It also gives the encoder's
memory back when it is done, can be interrupted at any time without leaving half a file, and a machine whose processor lacks
the encoder's instructions (AVX2) can still open files.
"""
from __future__ import annotations

import json
import os
import pathlib
import struct
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy

from . import _nwc, _tool, errors

#: Called with (stage, fraction): what is done, and how much of the whole is, 0 to 1. Returning False stops.
CompressProgress = Callable[[str, float], Any]

_SAFETENSORS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int8": "I8", "uint8": "U8",
                "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32", "int64": "I64", "uint64": "U64", "bool": "BOOL",
                "complex64": "C64"}
_EXIT_STATUS = {2: 40, 3: 11, 4: 71}


def compress(source: Any, output: str | os.PathLike[str], bits: float | None = None, *, size: str | int | None = None,
             kld: float | None = None, calib: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
             effort: int | None = None, threads: int = 0, tokenizer: Any = None, progress: CompressProgress | None = None,
             **options: Any) -> dict[str, Any]:
    """Compresses a model into one .nwc file.

    source: a path (Hugging Face folder, .gguf or .safetensors file); a torch.nn.Module, of transformers or any other; or a
        mapping of names to arrays or tensors. What is not a path is written to a temporary folder first, tensor by tensor.
    output: the file to write, named .nwc. It appears when it is complete, or not at all.
    bits: per coded weight, 0.1 to 16 (default: 4). In its place: size, of the whole file ("600M", or bytes), or kld, the KL
        divergence from the original in nats per token, which is searched for.
    calib: on what is measured what errors cost: "self", texts or folders of texts (of pictures for encoders of images), or
        "none". Default: "self" where the model can be run.
    effort: 1 (fastest) to 9. threads: 0: one per core. tokenizer: of transformers, for a module, so that text can be tokenized.
    progress: called with (stage, fraction); returning False, or an exception, stops the work and leaves no file.
    options: further options of the command by their names: card="text.txt", calib_cache="folder", imatrix="file", codec=...,
        True for a flag, False for its --no- form. `nwc compress --help` lists them.
    Returns the command's report: bits, bpw_coded, file_bytes, relative_error, tensors, seconds, quality, ...
    Errors: InvalidArgument, InvalidFile, Unsupported, InputOutputError, OutOfMemory, Cancelled, MissingLibrary; warnings of the
        command become Python's.
    """
    tool = _tool.path()
    arguments = ["--output", _name(output), "--threads", str(threads)]
    for name, value in (("bits", bits), ("size", size), ("kld", kld), ("effort", effort), *options.items()):
        arguments += _option(name, value)
    for word in [calib] if isinstance(calib, (str, os.PathLike)) else calib or ():
        arguments += ["--calib", _name(word)]
    if isinstance(source, (str, os.PathLike)):
        return _run([str(tool), "compress", *arguments, "--json", "--progress-json", "--", _name(source)], progress)
    with tempfile.TemporaryDirectory(prefix="nwc-") as folder:
        path = _write_source(source, tokenizer, pathlib.Path(folder))
        return _run([str(tool), "compress", *arguments, "--json", "--progress-json", "--", str(path)], progress)


def _name(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    if "\0" in name:
        raise errors.InvalidArgument(f"{name!r}: a path has no NUL")
    return name


def _option(name: str, value: Any) -> list[str]:
    key = "--" + name.replace("_", "-")
    if value is None:
        return []
    if value is True:
        return [key]
    if value is False:
        return ["--no-" + key[2:]]
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in _option(name, item)]
    return [f"{key}={os.fspath(value) if isinstance(value, os.PathLike) else value}"]


def _run(command: list[str], progress: CompressProgress | None) -> dict[str, Any]:
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise errors.InputOutputError(f"{command[0]}: {error.strerror}") from error
    assert child.stdout is not None and child.stderr is not None
    said: list[str] = []
    # A report of many tensors is larger than a pipe holds: it is read beside the progress.
    report = bytearray()
    reader = threading.Thread(target=_drain, args=(child.stdout, report), daemon=True)
    reader.start()
    stopped = False
    try:
        for raw in child.stderr:
            line = raw.decode("utf-8", "backslashreplace").rstrip("\n")
            if not line.startswith("{"):
                said.append(line)
                continue
            step = json.loads(line)
            if progress is not None and progress(step["stage"], step["fraction"]) is False:
                stopped = True
                child.terminate()
                break
    except BaseException:
        child.terminate()  # it removes what it has begun
        raise
    finally:
        for raw in child.stderr:  # so that it is not held up
            said.append(raw.decode("utf-8", "backslashreplace").rstrip("\n"))
        child.wait()
        reader.join()
        child.stdout.close()
        child.stderr.close()
    if stopped:
        raise errors.make(43, "compress: stopped by the progress callback")
    failures = [line for line in said if not line.startswith("nwc: warning: ") and not line.startswith("{")]
    for line in said:
        if line.startswith("nwc: warning: ") and "a bare safetensors file" not in line:  # whoever gives tensors knows
            warnings.warn(line.removeprefix("nwc: warning: "), stacklevel=3)
    if child.returncode == 0:
        if progress is not None:
            progress("done", 1.0)
        result = json.loads(report)
        assert isinstance(result, dict)
        return result
    raise _failure(child.returncode, "\n".join(failures))


def _drain(stream: Any, out: bytearray) -> None:
    out += stream.read()


def _failure(code: int, text: str) -> errors.Error:
    """The command's message begins with the name of the status."""
    text = text.removeprefix("nwc compress: ") or f"nwc compress ended with exit code {code}"
    for status in errors.BY_STATUS:
        name = _nwc.status_name(status)
        if text.startswith(name + ": ") or text == name:
            return errors.make(status, text.removeprefix(name + ": "))
    if code < 0:
        return errors.make(60 if code == -9 else 100, f"nwc compress was ended by signal {-code}: {text}")
    return errors.make(_EXIT_STATUS.get(code, 100), text)


def _write_source(source: Any, tokenizer: Any, folder: pathlib.Path) -> pathlib.Path:
    """A module or a mapping as files. Returns the path for the command."""
    if hasattr(source, "save_pretrained") and hasattr(source, "config"):
        source.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return folder
    if hasattr(source, "state_dict") and not isinstance(source, Mapping):
        source = source.state_dict()
    if not isinstance(source, Mapping):
        raise errors.InvalidArgument(f"source: a path, a torch.nn.Module or a mapping of names to arrays, not {type(source).__name__}")
    path = folder / "model.safetensors"
    with open(path, "wb") as file:
        write_safetensors(file, source)
    return path


def write_safetensors(file: BinaryIO, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Names and arrays (numpy's or torch's) as safetensors, one after the other. A tensor that shares its memory with one
    before it (tied weights) is left out. Errors: InvalidArgument (a type that safetensors lacks)."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    kept: list[Any] = []
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not hasattr(tensor, "dtype"):
            raise errors.InvalidArgument(f"{name!r}: names are texts and values arrays or tensors, not {type(tensor).__name__}")
        dtype = str(tensor.dtype).removeprefix("torch.") if hasattr(tensor, "data_ptr") else tensor.dtype.name
        if dtype not in _SAFETENSORS:
            raise errors.InvalidArgument(f"{name}: elements of type {dtype} have no place in safetensors")
        shape = [int(size) for size in tensor.shape]
        if hasattr(tensor, "data_ptr"):
            where = (tensor.device, tensor.data_ptr(), tuple(shape), tensor.stride())
            if tensor.numel() != 0 and where in seen:
                continue
            seen.add(where)
        size = int(numpy.prod(shape, dtype=numpy.int64)) * int(tensor.dtype.itemsize)
        header[name] = {"dtype": _SAFETENSORS[dtype], "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
        kept.append(tensor)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for tensor in kept:
        file.write(_bytes_of(tensor))


def _bytes_of(tensor: Any) -> memoryview | bytes:
    if hasattr(tensor, "data_ptr"):
        import torch

        flat = tensor.detach().cpu().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().data if flat.numel() else b""
    array = numpy.ascontiguousarray(tensor)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(numpy.uint8).data if array.size else b""
