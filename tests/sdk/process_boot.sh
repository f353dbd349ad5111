#!/bin/sh
# Command of a PROCESS environment: plays the part of the container's boot program.
exec "${BEAMLINE_TEST_PYTHON:-python3}" "$(dirname "$0")/process_boot.py" "$@"
