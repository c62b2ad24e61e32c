"""Presets of `sotopia-env pi`: readable TOML files, each with every number that matters."""
