"""The built-in tasks: `everyday` (written by hand, judged) and `outcome` (generated, computed)."""
