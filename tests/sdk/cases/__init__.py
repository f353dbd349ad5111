"""The pipelines. Importing this package registers all of them in harness.CASES."""

from . import (
    combining, elements, grouping, live_side_inputs, map_state, requirements, results, side_inputs,
    sources, state, triggers, windows)
