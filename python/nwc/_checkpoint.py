"""The tensors of a model as its checkpoint holds them.

A file keeps matrices as [outputs][inputs] with rows in order, and every expert by itself. Checkpoints of some families hold
them otherwise (GPT-2 transposed, GPT-NeoX with q, k and v by heads, Granite and GPT-OSS all experts in one tensor), and the
names of a GGUF file are other names. What `nwc decompress` changes when it writes a folder, this does for one tensor at a time,
by the list that `nwc info --json` gives.
"""
from __future__ import annotations

import json
import os
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

from . import _tool, _torch, errors

if TYPE_CHECKING:
    import torch

    from .model import Model, Tensor

_PLAIN: dict[str, Any] = {"form": "plain", "heads": 0, "expert": 0, "part": 0, "minus_one": False}
_STACKED = ("stacked", "stacked_transposed", "stacked_pairs", "stacked_pair_rows")
_TURNED = ("transposed", "stacked_transposed", "stacked_pairs")


class CheckpointTensor:
    """A tensor of the checkpoint: one tensor of the file, or what several of it make."""

    def __init__(self, name: str, form: dict[str, Any]) -> None:
        self.name = name
        self.form: str = form["form"]
        self.heads: int = form["heads"]
        self.minus_one: bool = form["minus_one"]
        self.experts: list[list[Tensor]] = []
        self.shape: tuple[int, ...] = ()

    def finish(self, parts: list[tuple[dict[str, Any], Tensor]]) -> None:
        """parts: all that lie in it."""
        parts.sort(key=lambda part: (part[0]["expert"], part[0]["part"]))
        last = None
        for form, tensor in parts:
            if form["expert"] != last:
                self.experts.append([])
            last = form["expert"]
            self.experts[-1].append(tensor)
        shapes = set()
        for tensors in self.experts:
            inner = {tensor.shape[1:] for tensor in tensors}
            if len(inner) != 1 or (len(tensors) > 1 and not tensors[0].shape):
                raise errors.Corrupt(f"{tensors[0].name} has another shape than what lies beside it in {self.name}")
            first = tensors[0].shape
            shapes.add((sum(tensor.shape[0] for tensor in tensors), *first[1:]) if first else first)
        if len(shapes) != 1:
            raise errors.Corrupt(f"the experts in {self.name} have different shapes")
        shape = shapes.pop()
        if self.form in _TURNED:
            shape = (shape[1], shape[0])
        self.shape = (len(self.experts), *shape) if self.form in _STACKED else shape

    @property
    def plain(self) -> Tensor | None:
        """The tensor of the file that it is as it stands; None: it is made."""
        same = self.form == "plain" and not self.minus_one and len(self.experts) == 1 and len(self.experts[0]) == 1
        return self.experts[0][0] if same else None

    @property
    def dtype(self) -> torch.dtype:
        """The original's type."""
        return _torch._own_type(self.experts[0][0])

    def fill(self, out: torch.Tensor, progress: Any = None) -> None:
        """Decodes into `out`, of this shape; what is made goes by way of the one part that is at hand."""
        plain = self.plain
        if plain is not None:
            _torch._fill(plain, out, progress)
            return
        import torch

        with torch.no_grad():
            for number, tensors in enumerate(self.experts):
                made = self._matrix(tensors, out.dtype if out.dtype in _torch._types() else torch.float32)
                (out[number] if self.form in _STACKED else out).copy_(made)

    def _matrix(self, tensors: list[Tensor], dtype: torch.dtype) -> torch.Tensor:
        import torch

        if self.minus_one:  # rounded once, after the subtraction
            return torch.cat([tensor.to_torch(torch.float32) for tensor in tensors]).sub_(1).to(dtype)
        whole = torch.empty((sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:]), dtype=dtype)
        row = 0
        for tensor in tensors:
            _torch._fill(tensor, whole[row:row + tensor.shape[0]], None)
            row += tensor.shape[0]
        shape = whole.shape
        if self.form == "qkv_by_head":
            if self.heads == 0 or shape[0] % (3 * self.heads):
                raise errors.Unsupported(f"{self.name}: q, k and v of {self.heads} heads do not fit in {shape[0]} rows")
            return whole.reshape(3, self.heads, -1).transpose(0, 1).reshape(shape)
        if self.form == "pairs":  # outputs 2 i and 2 i + 1 are gate's and up's number i
            return whole.reshape(shape[0], 2, -1).transpose(1, 2).reshape(shape)
        if self.form in ("stacked_pairs", "stacked_pair_rows"):
            whole = whole.reshape(2, shape[0] // 2, -1).transpose(0, 1).reshape(shape)
        return whole.t() if self.form in _TURNED else whole


def tensors_of(model: Model) -> dict[str, CheckpointTensor]:
    """By name, in the file's order. Errors: MissingLibrary, InputOutputError, Corrupt."""
    forms = _forms(model)
    made: dict[str, CheckpointTensor] = {}
    parts: dict[str, list[tuple[dict[str, Any], Tensor]]] = {}
    for name, tensor in model.items():
        form = forms.get(name, _PLAIN)
        outer = form.get("name", name)
        made.setdefault(outer, CheckpointTensor(outer, form))
        parts.setdefault(outer, []).append((form, tensor))
    for outer, tensor_parts in parts.items():
        made[outer].finish(tensor_parts)
    return made


def _forms(model: Model) -> dict[str, dict[str, Any]]:
    if not model.info["has_architecture"]:
        return {}
    if model._path is not None:
        return _ask(model._path)
    with tempfile.NamedTemporaryFile(prefix="nwc-", suffix=".nwc") as file:
        file.write(model._data)
        file.flush()
        return _ask(os.fsencode(file.name))


def _ask(path: bytes) -> dict[str, dict[str, Any]]:
    command = [os.fsencode(_tool.path()), b"info", b"--json", b"--no-entropy", b"--", path]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise errors.InputOutputError(done.stderr.decode("utf-8", "backslashreplace").strip())
    forms = json.loads(done.stdout.decode("utf-8", "replace"))["checkpoint_forms"]
    assert isinstance(forms, dict)
    return forms
