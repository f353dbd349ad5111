#!/usr/bin/env python3
"""A GroupByKey of more data than memory: how much the server has resident, and how its time grows.

    python benches/past_memory.py --beamline target/release/beamline [--limit-mib 512] [--times 1 2 4 8 10]

For each of `--times`, a fresh server with `--memory-limit` groups that many times the limit in pairs of 1,000
bytes that do not compress, under 200,000 keys, for one LOOPBACK worker; the values are counted. No peer is
beside it: those that hold everything in memory need as much of it as there is data.
"""

import argparse
import datetime
import logging
import os
import pathlib
import platform
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / 'scripts'), str(HERE)]

import apache_beam as beam  # pylint: disable=wrong-import-position
from apache_beam.options.pipeline_options import PipelineOptions  # pylint: disable=wrong-import-position
from apache_beam.testing.util import assert_that, equal_to  # pylint: disable=wrong-import-position
from beamline_server import BeamlineServer  # pylint: disable=wrong-import-position
import measured  # pylint: disable=wrong-import-position
import run  # pylint: disable=wrong-import-position

VALUE_BYTES = 1_000
KEYS = 200_000
SHARE = 1_000
NOISE = os.urandom(1 << 20)


def pairs(first):
  for number in range(first, first + SHARE):
    start = number * 7919 % (len(NOISE) - VALUE_BYTES)
    yield number * 2654435761 % KEYS, NOISE[start:start + VALUE_BYTES]


def group(endpoint, count):
  """Seconds for `count` pairs, a multiple of SHARE."""
  arguments = run.portable(endpoint) + ['--experiments=disable_logging_submission_environment']
  started = time.monotonic()
  with beam.Pipeline(options=PipelineOptions(arguments)) as p:
    counted = (
        p | beam.Create(range(0, count, SHARE)) | beam.Reshuffle() | beam.FlatMap(pairs)
        | beam.GroupByKey() | beam.Map(lambda group: sum(1 for _ in group[1]))
        | beam.CombineGlobally(sum))
    assert_that(counted, equal_to([count]))
  return time.monotonic() - started


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', required=True)
  parser.add_argument('--limit-mib', type=int, default=512)
  parser.add_argument('--times', type=int, nargs='+', default=[1, 2, 4, 8, 10])
  args = parser.parse_args()
  logging.disable(logging.WARNING)
  limit = args.limit_mib << 20
  print('Machine: %d cores, %s. Date: %s. Load average %.1f before. Command: `make bench-memory`.\n' % (
      os.cpu_count(), platform.machine(), datetime.date.today().isoformat(), os.getloadavg()[0]))
  print('| data ÷ limit | data GB | wall s | s per GB | runner CPU s | peak resident MiB | ÷ limit |')
  print('|--:|--:|--:|--:|--:|--:|--:|')
  for times in args.times:
    count = times * limit // VALUE_BYTES // SHARE * SHARE
    with BeamlineServer(args.beamline, ['--memory-limit', '%dMiB' % args.limit_mib]) as server:
      wall = group(server.endpoint, count)
      peak, cpu = measured.peak_megabytes(server.process), measured.cpu_seconds(server.process)
    data = count * VALUE_BYTES / 1e9
    print('| %d | %.1f | %.1f | %.1f | %.1f | %.0f | %.2f |' % (
        times, data, wall, wall / data, cpu, peak, peak / args.limit_mib), flush=True)


if __name__ == '__main__':
  main()
