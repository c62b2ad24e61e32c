"""Scenes in which one character is tempted to harm and the other is to prevent it, in either seat."""
