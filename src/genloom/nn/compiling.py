"""Compilation of networks, which needs a compiler on the machine."""

import os
import shutil
import sys

from genloom.core.errors import ConfigError

COMPILERS = {"darwin": "clang++", "win32": "cl"}
"""Of C++, that torch uses by platform, g++ elsewhere; CXX may name another."""


def need_compiler() -> None:
    """Make sure that there is a compiler of C++.

    Raises:
        ConfigError: there is none.
    """
    name = os.environ.get("CXX", COMPILERS.get(sys.platform, "g++"))
    if shutil.which(name) is None:
        raise ConfigError(f"compiling takes {name}, which is not here: install it, or do not compile")
