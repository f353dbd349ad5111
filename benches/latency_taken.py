"""Where the worker of latency.py, a thread of the same process, leaves what it has taken.

A module of its own: what the main module defines is copied when it is pickled.
"""

SECONDS = []
