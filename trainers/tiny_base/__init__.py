"""The tiny base of the preset `quick` with seed 0, made by `python -m sotopia_env.trainers.tiny`."""
