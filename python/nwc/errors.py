"""The exceptions of the package: one class for each status of the C library, all below :class:`Error`.

Their text is the library's: what is wrong, where, and what to do. Where Python has an exception of the same meaning, the
class is one of these, too: ``except KeyError`` catches :class:`NotFound`.
"""
from __future__ import annotations


class Error(Exception):
    """Base of all. ``status`` is the C API's number (``nwc_status`` in nwc.h), or None if Python found the error."""

    status: int | None = None

    def __str__(self) -> str:  # KeyError would quote the text, OSError reorder it
        return str(self.args[0]) if self.args else ""


class InvalidFile(Error, ValueError):
    """The file is none of ours, or damaged."""


class Unrecognized(InvalidFile):
    """Not an .nwc model file."""


class Corrupt(InvalidFile):
    """A field has an impossible value."""


class Truncated(InvalidFile):
    """The file ends too early."""


class ChecksumMismatch(InvalidFile):
    """A checksum, or the final state of an entropy coder, is wrong."""


class Unsupported(Error, ValueError):
    """Well formed, but this build, or this model, cannot do it."""


class UnsupportedVersion(Unsupported):
    """Written by an incompatible version."""


class InvalidArgument(Error, ValueError):
    """A value, a shape or a type that the call does not take."""


class Closed(InvalidArgument):
    """The model, or the session, was closed."""


class StateDictMismatch(InvalidArgument):
    """Names or shapes of the file and of a torch.nn.Module differ; nothing was loaded."""


class NotFound(Error, KeyError):
    """There is no such tensor, key or device."""


class BufferTooSmall(Error):
    """A buffer has no room for the result."""


class Cancelled(Error):
    """A progress callback asked to stop."""


class OutOfMemory(Error, MemoryError):
    """The system gave no memory."""


class LimitExceeded(Error):
    """A limit of the format, of the implementation or of a session's context is exceeded."""


class BudgetExceeded(Error):
    """Does not fit the memory budget; the text says what would."""


class DeviceError(Error):
    """A Vulkan device failed."""


class NoDevice(DeviceError):
    """There is no usable Vulkan device."""


class DeviceLost(DeviceError):
    """The Vulkan device was lost."""


class InputOutputError(Error, OSError):
    """Reading or writing failed."""


class InternalError(Error):
    """A defect of the library: please report it."""


class MissingLibrary(Error, ImportError):
    """This installation of the package lacks its library or its command."""


BY_STATUS: dict[int, type[Error]] = {
    10: Unrecognized, 11: Unsupported, 12: UnsupportedVersion,
    20: Corrupt, 21: Truncated, 22: ChecksumMismatch,
    40: InvalidArgument, 41: NotFound, 42: BufferTooSmall, 43: Cancelled,
    60: OutOfMemory, 61: LimitExceeded, 62: BudgetExceeded,
    70: DeviceError, 71: NoDevice, 72: DeviceLost,
    80: InputOutputError, 100: InternalError,
}


def make(status: int, text: str) -> Error:
    """The exception for a status of the library."""
    error = BY_STATUS.get(status, InternalError)(text)
    error.status = status
    return error
