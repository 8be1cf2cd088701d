"""Decisions and parsing: bytes and values in, values out. No clock, no socket, no task."""
