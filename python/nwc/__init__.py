"""nwc: language-model weights at a few bits each.

    model = nwc.open("model.nwc")                 a mapping of names to tensors, decoded when they are asked for
    model["name"].to_numpy("f16"), model["name"][0:16], model["name"].to_torch()
    model.generate("Once upon a time"), model.logits(...), model.embed(...), model.chat(...)
    nwc.load_state_dict("model.nwc", module)      into a torch.nn.Module, tensor by tensor
    nwc.compress("path/to/model", "model.nwc", bits=3)
    import nwc.transformers                       AutoModel.from_pretrained on folders with .nwc files

Errors are the classes of nwc.errors, all below nwc.Error, with the library's text.
"""
from __future__ import annotations

from . import errors

try:
    from . import _nwc
except ImportError as error:
    raise errors.MissingLibrary(f"nwc's library cannot be loaded ({error}): this installation of nwc is not complete, or for "
                                "another Python or system; install the wheel again (pip install --force-reinstall nwc)"
                                ) from error

from ._compress import compress
from ._torch import LoadResult, load_state_dict
from .errors import (BudgetExceeded, BufferTooSmall, Cancelled, ChecksumMismatch, Closed, Corrupt, DeviceError, DeviceLost,
                     Error, InputOutputError, InternalError, InvalidArgument, InvalidFile, LimitExceeded, MissingLibrary,
                     NoDevice, NotFound, OutOfMemory, StateDictMismatch, Truncated, Unrecognized, Unsupported,
                     UnsupportedVersion)
from .model import Model, Tensor, open
from .session import Generation, Session

_nwc.set_exception_maker(errors.make)

__version__: str = _nwc.version
#: The newest version of the file format that this build reads, as major * 1000 + minor.
format_version: int = _nwc.format_version
vulkan_devices = _nwc.vulkan_devices

__all__ = [
    "BudgetExceeded", "BufferTooSmall", "Cancelled", "ChecksumMismatch", "Closed", "Corrupt", "DeviceError", "DeviceLost",
    "Error", "Generation", "InputOutputError", "InternalError", "InvalidArgument", "InvalidFile", "LimitExceeded",
    "LoadResult", "MissingLibrary", "Model", "NoDevice", "NotFound", "OutOfMemory", "Session", "StateDictMismatch", "Tensor",
    "Truncated", "Unrecognized", "Unsupported", "UnsupportedVersion", "compress", "format_version", "load_state_dict", "open",
    "vulkan_devices",
]
