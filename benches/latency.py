#!/usr/bin/env python3
"""How long an element takes through a streaming job, on Beamline beside Prism, in turn, in the same run.

    python benches/latency.py --beamline target/release/beamline [--prism PATH] [--rounds N] [--seconds S]

PeriodicImpulse makes elements at a fixed rate; each is the time at which it was due. They pass a Map and
a Reshuffle, and the DoFn behind that takes the time. So the figure holds all there is between: the
worker's two stages, and twice the way through the runner. LOOPBACK workers, one process. The table
gives the medians over the rounds of each round's p50 and p99, and the ratio to Prism.
"""

import argparse
import datetime
import logging
import os
import pathlib
import platform
import shutil
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / 'scripts'), str(HERE)]

import apache_beam as beam  # pylint: disable=wrong-import-position
from apache_beam.options.pipeline_options import PipelineOptions  # pylint: disable=wrong-import-position
from apache_beam.transforms.periodicsequence import PeriodicImpulse  # pylint: disable=wrong-import-position
from apache_beam.utils.timestamp import Timestamp  # pylint: disable=wrong-import-position
from beamline_server import BeamlineServer  # pylint: disable=wrong-import-position
import latency_taken  # pylint: disable=wrong-import-position
import measured as machine  # pylint: disable=wrong-import-position
import run  # pylint: disable=wrong-import-position

RATES = (100, 1000)
# Before the first element is due: the job is submitted, and its worker set up.
HEAD_START_SECONDS = 1.5


class TakeLatency(beam.DoFn):
  """Notes how late an element is. A LOOPBACK worker is a thread of this process."""
  def process(self, due):
    latency_taken.SECONDS.append(time.time() - due)
    yield due


def job(endpoint, rate, seconds):
  """Latencies in seconds, of every element, shortest first."""
  latency_taken.SECONDS.clear()
  arguments = run.portable(endpoint) + [
      '--streaming', '--experiments=disable_logging_submission_environment'
  ]
  start = time.time() + HEAD_START_SECONDS
  with beam.Pipeline(options=PipelineOptions(arguments)) as p:
    impulses = PeriodicImpulse(
        start_timestamp=Timestamp(start), stop_timestamp=Timestamp(start + seconds),
        fire_interval=1 / rate)
    (p | impulses | beam.Map(lambda at: Timestamp.of(at).micros / 1e6) | beam.Reshuffle()
     | beam.ParDo(TakeLatency()))
  taken = sorted(latency_taken.SECONDS)
  if abs(len(taken) - rate * seconds) > 1:
    raise SystemExit('%d elements instead of %d' % (len(taken), rate * seconds))
  return taken


def quantiles(taken):
  return taken[len(taken) // 2], taken[int(len(taken) * 0.99)]


def measure(endpoints, rounds, seconds):
  """(rate, runner) -> the (p50, p99) of each round."""
  measured = {}
  for rate in RATES:
    for _ in range(rounds):
      for name, endpoint in endpoints.items():
        machine.settle(10)
        measured.setdefault((rate, name), []).append(quantiles(job(endpoint, rate, seconds)))
  return measured


def table(measured, arguments):
  lines = [
      '# Latency of streaming jobs', '',
      'Machine: %d cores, %s. Date: %s. Medians of %d rounds of %d s. Command: `python benches/latency.py '
      '--beamline target/release/beamline`,' % (
          os.cpu_count(), platform.machine(), datetime.date.today().isoformat(), arguments.rounds,
          arguments.seconds),
      'with Prism 2.77 on the PATH. From the time at which PeriodicImpulse owes an element to the DoFn behind a '
      'Reshuffle.', '',
      '| elements/s | runner | p50 ms | p99 ms | Beamline ÷ runner, p50 | p99 |', '|--:|---|--:|--:|--:|--:|'
  ]
  for rate in RATES:
    own = [statistics.median(column) for column in zip(*measured[rate, 'Beamline'])]
    for (of, name), rounds in measured.items():
      if of == rate:
        p50, p99 = [statistics.median(column) for column in zip(*rounds)]
        lines.append('| %d | %s | %.1f | %.1f | %.2f | %.2f |' % (
            rate, name, p50 * 1000, p99 * 1000, own[0] / p50, own[1] / p99))
  return '\n'.join(lines) + '\n'


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', required=True)
  parser.add_argument('--prism', default=shutil.which('prism'), help='its program, if it is not on the PATH')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--seconds', type=int, default=10)
  parser.add_argument('--output', type=pathlib.Path, help='file to write the table to')
  arguments = parser.parse_args()
  if not arguments.prism:
    parser.error('no Prism to measure beside: put it on the PATH, or give its program with --prism')
  logging.getLogger().setLevel(logging.ERROR)
  prism = machine.Prism(arguments.prism)
  try:
    with BeamlineServer(arguments.beamline) as server:
      endpoints = {'Beamline': server.endpoint, 'Prism 2.77': prism.endpoint}
      text = table(measure(endpoints, arguments.rounds, arguments.seconds), arguments)
  finally:
    prism.stop()
  print(text)
  if arguments.output:
    arguments.output.write_text(text)


if __name__ == '__main__':
  main()
