"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# Wall time depends on what else the machine does, so no property is failed for being slow.
settings.register_profile("sotopia_env", deadline=None)
settings.load_profile("sotopia_env")
