#!/usr/bin/env python3
"""Whole jobs on Beamline beside its peers, in turn, in the same run.

    python benches/run.py --beamline target/release/beamline [--prism PATH] [--floor PATH] [--job NAME] [--rounds N]

Each job is submitted by this process with LOOPBACK workers, as the Python SDK's users do. A round
runs it once on every runner, so that what else the machine does hits all of them alike. The figure
is the wall time from `run()` to DONE as the client sees it; the table gives medians, and the ratio to
each peer. Peers: Prism (`--prism`, or `prism` on the PATH) and the SDK's own in-process FnApiRunner,
which needs no server.

`--floor target/release/floor` adds two rows that are no runners. "Floor": the bundles that Beamline
gave the worker in the round for warming up are replayed to it from memory, without a runner, so that
what is above it is Beamline's own time. "Client alone" (smallest job only): a job server for which a
job is DONE when it is run, and no worker is ever started.

The table is printed, and written to the file that `--output` names.
"""

import argparse
import contextlib
import datetime
import logging
import os
import pathlib
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'scripts'))

from beamline_server import BeamlineServer  # pylint: disable=wrong-import-position

import jobs  # pylint: disable=wrong-import-position


# What is below this line in the file of results is written by people.
NOTES = '## What the figures say'

# Between two jobs: threads of the last one end, and must not be counted to the next one.
SETTLE_SECONDS = 0.1
# Of all cores, before a job is begun on a shared machine.
QUIET_SHARE = 0.9

class Prism:
  """One Prism server for all rounds."""
  def __init__(self, binary):
    with socket.socket() as s:
      s.bind(('127.0.0.1', 0))
      port = s.getsockname()[1]
    self.endpoint = 'localhost:%d' % port
    self.process = subprocess.Popen(
        [binary, '--job_port=%d' % port, '--serve_http=false'],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while True:
      try:
        socket.create_connection(('127.0.0.1', port), timeout=1).close()
        return
      except OSError:
        if time.monotonic() > deadline or self.process.poll() is not None:
          raise SystemExit('Prism did not start')
        time.sleep(0.05)

  def stop(self):
    self.process.terminate()
    self.process.wait()


class Floor:
  """A job server that replays the first job it is given, run by `upstream`; see benches/src/floor."""
  def __init__(self, binary, upstream=None):
    self.folder = tempfile.TemporaryDirectory(prefix='beamline-floor-')
    ready = pathlib.Path(self.folder.name, 'ready')
    command = [binary, '--ready-file', str(ready)]
    self.process = subprocess.Popen(
        command + (['--upstream', upstream] if upstream else []), stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (ready.exists() and ready.read_text()):
      if time.monotonic() > deadline or self.process.poll() is not None:
        raise SystemExit('%s did not start' % binary)
      time.sleep(0.01)
    self.endpoint = ready.read_text()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.process.terminate()
    self.process.wait()
    self.folder.cleanup()


def portable(endpoint):
  return [
      '--runner=PortableRunner', '--job_endpoint=' + endpoint, '--environment_type=LOOPBACK'
  ]


def cpu_seconds(process):
  """User and system time of a process so far."""
  fields = pathlib.Path('/proc/%d/stat' % process.pid).read_text().rsplit(')', 1)[1].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def peak_megabytes(process):
  for line in pathlib.Path('/proc/%d/status' % process.pid).read_text().splitlines():
    if line.startswith('VmHWM:'):
      return int(line.split()[1]) / 1024
  return float('nan')


def idle_share(seconds):
  """How much of the machine nobody used while we slept."""
  def times():
    fields = [int(f) for f in pathlib.Path('/proc/stat').read_text().split('\n', 1)[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4]

  (all_before, idle_before), _, (all_after, idle_after) = times(), time.sleep(seconds), times()
  return (idle_after - idle_before) / max(1, all_after - all_before)


def settle(quiet_seconds):
  """Lets the last job's threads end, and waits at most so long for other people's processes."""
  deadline = time.monotonic() + quiet_seconds
  while idle_share(SETTLE_SECONDS) < QUIET_SHARE and time.monotonic() < deadline:
    pass


def measure(job, arguments, process, quiet_seconds):
  """Wall time, CPU time of this process (the client and its worker), CPU time of the server."""
  settle(quiet_seconds)
  before = cpu_seconds(process) if process else 0.0
  own_before = time.process_time()
  started = time.monotonic()
  own = job(arguments)
  wall = own or time.monotonic() - started
  client = time.process_time() - own_before
  return wall, client, (cpu_seconds(process) - before) if process else float('nan')


def run_job(name, job, runners, rounds, quiet_seconds):
  """Rows of the table: runner, median wall, median CPU of client and server, the server's peak memory, ratio."""
  figures = {runner: [] for runner in runners}
  for number in range(rounds + 1):
    for runner, (arguments, process) in runners.items():
      figure = measure(job, arguments, process, quiet_seconds)
      # The first round warms up imports, connections and caches, and is what the floor records.
      if number:
        figures[runner].append(figure)
    print('%s: round %d of %d' % (name, number, rounds), file=sys.stderr)
  medians = {
      runner: [statistics.median(column) for column in zip(*figures[runner])]
      for runner in runners
  }
  rows = []
  for runner, (_, process) in runners.items():
    wall, client, server = medians[runner]
    peak = peak_megabytes(process) if process else float('nan')
    if wall < 0.001:
      continue  # It has no such part.
    rows.append((runner, wall, client, server, peak, medians['Beamline'][0] / wall))
  return rows


def table(results, rounds, command):
  def number(value, form):
    return '–' if value != value else form % value

  lines = [
      'Machine: %d cores, %s. Date: %s. Medians of %s rounds. Command: `%s`.' % (
          os.cpu_count(), platform.machine(), datetime.date.today().isoformat(), rounds, command),
      '',
      '| job | runner | wall s | client and worker CPU s | server CPU s | server peak MB (over all jobs so far) '
      '| Beamline ÷ runner |',
      '|---|---|--:|--:|--:|--:|--:|',
  ]
  for job, rows in results.items():
    for runner, wall, client, server, peak, ratio in rows:
      lines.append('| %s | %s | %.3f | %.3f | %s | %s | %.2f |' % (
          job, runner, wall, client, number(server, '%.3f'), number(peak, '%.0f'), ratio))
  return '\n'.join(lines) + '\n'


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', required=True)
  parser.add_argument('--prism', default=shutil.which('prism'))
  parser.add_argument('--floor', help='the program that replays jobs')
  parser.add_argument('--job', action='append', choices=sorted(jobs.JOBS))
  parser.add_argument('--rounds', type=int, default=0, help='0: each job\'s own number')
  parser.add_argument(
      '--quiet', type=float, default=0, metavar='SECONDS',
      help='on a shared machine: wait that long at most before each job for others to leave it alone')
  parser.add_argument('--output', help='a Markdown file to write the table to')
  args = parser.parse_args()
  logging.disable(logging.WARNING)

  results = {}
  with BeamlineServer(args.beamline) as server:
    prism = Prism(args.prism) if args.prism else None
    if not prism:
      print('no Prism: give its path with --prism', file=sys.stderr)
    try:
      for name in args.job or jobs.JOBS:
        job, rounds = jobs.JOBS[name]
        runners = {'Beamline': (portable(server.endpoint), server.process)}
        if prism:
          runners['Prism'] = (portable(prism.endpoint), prism.process)
        runners['FnApiRunner (in process)'] = (['--runner=FnApiRunner'], None)
        with contextlib.ExitStack() as floors:
          if args.floor and name not in jobs.NOT_REPLAYED:
            floor = floors.enter_context(Floor(args.floor, server.endpoint))
            runners['Floor'] = (portable(floor.endpoint), floor.process)
            if name in jobs.SMALLEST:
              alone = floors.enter_context(Floor(args.floor))
              runners['Client alone'] = (portable(alone.endpoint), alone.process)
          results[name] = run_job(name, job, runners, args.rounds or rounds, args.quiet)
    finally:
      if prism:
        prism.stop()
  command = 'make bench' + (' ARGS="--job %s"' % ' --job '.join(args.job) if args.job else '')
  text = table(results, args.rounds or 'each job\'s own number of', command)
  print(text)
  if args.output:
    output = pathlib.Path(args.output)
    # What people wrote below the table stays; it has to be looked at with every new one.
    old = output.read_text() if output.exists() else ''
    notes = old.partition(NOTES)[2]
    output.write_text('# Benchmarks\n\n' + text + '\n' + NOTES + notes)


if __name__ == '__main__':
  main()
