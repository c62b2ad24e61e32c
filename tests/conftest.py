"""Settings of all tests."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Wall time depends on what else the machine does, so no property is failed for being slow.
# Continuous integration tries the same examples every time; elsewhere every run tries new ones.
settings.register_profile("sotopia_env", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("sotopia_env")

# A shell has what it runs in the background ignore Ctrl-C, and programs hand that on to the programs that they start.
# Tests that press Ctrl-C in another process would then wait for nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
