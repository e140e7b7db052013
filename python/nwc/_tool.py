"""The command `nwc` inside the wheel."""
from __future__ import annotations

import os
import pathlib
import sys

from . import errors


def path() -> pathlib.Path:
    """Where the command is. Errors: MissingLibrary."""
    tool = pathlib.Path(__file__).parent / "install" / "bin" / "nwc"
    if not os.access(tool, os.X_OK):
        raise errors.MissingLibrary(f"{tool} is missing: this installation of nwc is not complete; install the wheel again "
                                    "(pip install --force-reinstall nwc)")
    return tool


def main() -> None:
    """The console script: becomes the command."""
    try:
        tool = str(path())
        os.execv(tool, [tool, *sys.argv[1:]])
    except (errors.MissingLibrary, OSError) as error:
        sys.exit(f"nwc: {error}")
