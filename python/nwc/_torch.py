"""Weights into torch. torch is imported only when something here is called."""
from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from . import _dtypes, errors

if TYPE_CHECKING:
    import torch

    from .model import Model, Progress, Tensor


class LoadResult(NamedTuple):
    """What load_state_dict found: names that the module has and the file lacks, and the other way round."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def _types() -> dict[Any, int]:
    import torch

    return {torch.float32: _dtypes.F32, torch.float16: _dtypes.F16, torch.bfloat16: _dtypes.BF16}


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """torch.empty, but large tensors lie in memory of numpy, which asks the system for huge pages: the first writing of
    pages of 4 KiB would take as long as decoding."""
    import torch

    size = math.prod(shape) * dtype.itemsize
    if size < 1 << 20:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(numpy.empty(size, numpy.uint8)).view(dtype).reshape(shape)


def _own_type(tensor: Tensor) -> torch.dtype:
    """The original's type as torch has it; f32 for those that it lacks."""
    import torch

    names = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64", "i8": "int8", "u8": "uint8",
             "i16": "int16", "u16": "uint16", "i32": "int32", "u32": "uint32", "i64": "int64", "u64": "uint64", "bool": "bool",
             "c64": "complex64"}
    dtype = getattr(torch, names.get(tensor.dtype, "float32"), torch.float32)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _fill(tensor: Tensor, out: torch.Tensor, progress: Progress | None) -> None:
    """Decodes into `out`, of the tensor's shape: straight where out is contiguous, in host memory and of a type that is
    decoded to; else by way of one tensor in host memory."""
    import torch

    number = _types().get(out.dtype)
    if number is not None and out.device.type == "cpu" and out.is_contiguous() and type(out.data) is torch.Tensor:
        tensor._decode(0, tensor._rows, number, out.data_ptr(), out.numel() * out.element_size(), progress)
        return
    if number is None and tensor.storage != "coded" and out.dtype == _own_type(tensor):
        source = torch.from_numpy(tensor.to_numpy("own"))
    else:
        source = _empty(tensor.shape, out.dtype if number is not None else torch.float32)
        _fill(tensor, source, progress)
    with torch.no_grad():
        out.copy_(source)


def decode(tensor: Tensor, dtype: Any, device: Any, out: torch.Tensor | None, progress: Progress | None) -> torch.Tensor:
    """Tensor.to_torch."""
    import torch

    if out is not None:
        if not isinstance(out, torch.Tensor) or tuple(out.shape) != tensor.shape:
            found = list(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise errors.InvalidArgument(f"{tensor.name}: out has to be a tensor {list(tensor.shape)}, not {found}")
        if out.is_meta:
            raise errors.InvalidArgument(f"{tensor.name}: out is on the device meta, which has no memory")
        with torch.no_grad():
            _fill(tensor, out, progress)
        return out
    result = _empty(tensor.shape, _chosen(_own_type(tensor), dtype))
    _fill(tensor, result, progress)
    return result.to(device)


def _chosen(own: torch.dtype, dtype: Any) -> torch.dtype:
    if dtype is None:
        return own
    number = _dtypes.decoded(dtype)
    return next(known for known, value in _types().items() if value == number)


def state_dict(model: Model, dtype: Any, device: Any) -> dict[str, torch.Tensor]:
    """Model.state_dict."""
    import torch

    from . import _checkpoint

    made = {}
    for name, tensor in _checkpoint.tensors_of(model).items():
        own = tensor.dtype
        out = _empty(tensor.shape, _chosen(own, dtype) if own.is_floating_point else own)
        tensor.fill(out)
        made[name] = out.to(device)
    return made


def _targets(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by the names of state_dict()."""
    return {name: value for name, value in module.state_dict(keep_vars=True).items() if hasattr(value, "data_ptr")}


def _materialize(module: torch.nn.Module, name: str, old: torch.Tensor) -> torch.Tensor:
    """Memory for a parameter or buffer on the device meta, wherever the module holds it."""
    import torch

    new = _empty(tuple(old.shape), old.dtype)
    if isinstance(old, torch.nn.Parameter):
        new = torch.nn.Parameter(new, requires_grad=old.requires_grad)
    for owner in module.modules():
        for table in (owner._parameters, owner._buffers):
            for key, value in table.items():
                if value is old:
                    table[key] = new
    return new


def load_state_dict(source: str | bytes | os.PathLike[Any] | Model, module: torch.nn.Module,
                    strict: bool = True) -> LoadResult:
    """Decodes a file into a torch.nn.Module, tensor by tensor: straight into parameters and buffers in host memory, by way of
    one tensor elsewhere. Parameters keep their type and device; those on the device meta get host memory. Names and forms are
    those of the model's checkpoint (Hugging Face), also for a file that was made from a GGUF.

    source: as of nwc.open, or an open model. strict: names have to match; a tied parameter that the file has under another
    name counts as there. Returns (missing_keys, unexpected_keys), which strict makes empty.
    Errors: StateDictMismatch, which names what differs, before anything is written; those of decoding.
    """
    import torch

    from . import _checkpoint
    from . import model as models

    if not isinstance(source, models.Model):
        with models.open(source) as opened:
            return load_state_dict(opened, module, strict)
    tensors = _checkpoint.tensors_of(source)
    targets = _targets(module)
    there = {id(targets[name]) for name in tensors if name in targets}
    there |= {targets[name].data_ptr() for name in tensors if name in targets and not targets[name].is_meta}
    missing = [name for name, value in targets.items()
               if name not in tensors and id(value) not in there and (value.is_meta or value.data_ptr() not in there)]
    unexpected = [name for name in tensors if name not in targets]
    wrong = [f"{name} is {list(tensor.shape)} in the file and {list(targets[name].shape)} in the module"
             for name, tensor in tensors.items() if name in targets and tuple(targets[name].shape) != tensor.shape]
    if strict:
        wrong += [f"{name} is missing in the file" for name in missing]
        wrong += [f"{name} is not in the module" for name in unexpected]
    if wrong:
        more = f", and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise errors.StateDictMismatch("the file does not fit the module: " + "; ".join(wrong[:8]) + more)
    with torch.no_grad():
        for name, tensor in tensors.items():
            target = targets.get(name)
            if target is None:
                continue
            if target.is_meta:
                target = _materialize(module, name, target)
            tensor.fill(target)
    return LoadResult(missing, unexpected)
