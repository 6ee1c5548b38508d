"""Scripts for developers of this repository; never installed with ropekern.

bootstrap and all that it imports need the standard library alone: they run before anything is installed.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - any Python may start the Makefile; it gets one line, not a traceback
    raise SystemExit(f"error: Python 3.11 or newer is wanted, this is {sys.version.split()[0]}: make PYTHON=python3.11")
