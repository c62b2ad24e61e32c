"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# Wall time depends on what else the machine does, so no property is failed for being slow.
# Continuous integration tries the same examples every time; elsewhere every run tries new ones.
settings.register_profile("sotopia_env", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("sotopia_env")
