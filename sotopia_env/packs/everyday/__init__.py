"""Scenes and characters written by hand: `characters.jsonl` and `tasks.jsonl`."""
