"""Policies that plug into the environment."""
