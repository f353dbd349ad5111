#!/usr/bin/env python3
"""Whole jobs on Beamline beside its peers, in turn, in the same run.

    python benches/run.py --beamline target/release/beamline [--prism PATH] [--floor PATH] [--job NAME] [--rounds N]

Each job is submitted by this process with LOOPBACK workers, as the Python SDK's users do. A round
runs it once on every runner, in an order drawn anew, so that what else the machine does hits all of them
alike. The figure is the wall time from `run()` to DONE as the client sees it; the tables give medians, and
the ratio to each peer. The servers are fresh for each job, and the peak of their memory is counted
anew in each run. Peers: Prism (`--prism`, or `prism` on the PATH), the SDK's own in-process FnApiRunner,
which needs no server, and with `--flink HOST:PORT` a job server of Beam's for Flink that runs already.

`--floor target/release/floor` adds two rows that are no runners. "Floor": the bundles that Beamline
gave the worker in a run that is not counted are replayed to it from memory, without a runner, so that
what is above it is Beamline's own time. "Client alone" (smallest job only): a job server for which a
job is DONE when it is run, and no worker is ever started.

A second table has Beamline on the SDK's worker pool (EXTERNAL), with as many worker processes as it starts if
nobody says how many: one for each core. They stand by since the job before, as for users who run one job after
another; beside it is the same with workers that are started with the job.

The tables are printed, and written to the file that `--output` names.
"""

import argparse
import contextlib
import dataclasses
import datetime
import logging
import os
import pathlib
import platform
import random
import shutil
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'scripts'))

from beamline_server import BeamlineServer  # pylint: disable=wrong-import-position

import jobs  # pylint: disable=wrong-import-position
import measured  # pylint: disable=wrong-import-position

# What is below this line in the file of results is written by people.
NOTES = '## What the figures say'

BEAMLINE = 'Beamline'
POOL = 'Beamline, worker pool'
COLD_POOL = 'Beamline, worker pool, none standing by'
PRISM = 'Prism'


@dataclasses.dataclass
class Runner:
  """arguments: of the pipeline. server: the process that runs the job; None if it is this one, or not ours.
  pool: a process that starts workers."""
  arguments: list
  server: object = None
  pool: object = None


@dataclasses.dataclass
class Figures:
  """Of one run. client_cpu: of this process and of worker processes."""
  wall: float
  client_cpu: float
  server_cpu: float
  server_peak: float


def portable(endpoint, environment=('LOOPBACK', None)):
  kind, config = environment
  arguments = [
      '--runner=PortableRunner', '--job_endpoint=' + endpoint, '--environment_type=' + kind
  ]
  return arguments + (['--environment_config=' + config] if config else [])


def measure(job, runner, quiet_seconds):
  measured.settle(quiet_seconds)
  server, pool = runner.server, runner.pool
  if server:
    measured.reset_peak(server)
  server_before = measured.cpu_seconds(server) if server else 0.0
  pool_before = measured.cpu_seconds(pool, children=True) if pool else 0.0
  own_before = time.process_time()
  started = time.monotonic()
  own = job.run(runner.arguments)
  wall = own or time.monotonic() - started
  client = time.process_time() - own_before
  if pool:
    client += measured.cpu_seconds(pool, children=True) - pool_before
  if not server:
    return Figures(wall, client, float('nan'), float('nan'))
  server_cpu = measured.cpu_seconds(server) - server_before
  return Figures(wall, client, server_cpu, measured.peak_megabytes(server))


@contextlib.contextmanager
def runners_of(job, args):
  """The runners of one job, their servers fresh."""
  with contextlib.ExitStack() as servers:
    start = servers.enter_context
    # Between two runs on the worker pool are all the others of the round, which a user would not wait for.
    beamline = start(BeamlineServer(args.beamline, ['--standby-worker-timeout=1h']))
    runners = {BEAMLINE: Runner(portable(beamline.endpoint), beamline.process)}
    if job.pool:
      pool = start(measured.WorkerPool())
      arguments = portable(beamline.endpoint, ('EXTERNAL', pool.endpoint))
      runners[POOL] = Runner(arguments, beamline.process, pool.process)
      cold = start(BeamlineServer(args.beamline, ['--standby-worker-timeout=0']))
      arguments = portable(cold.endpoint, ('EXTERNAL', pool.endpoint))
      runners[COLD_POOL] = Runner(arguments, cold.process, pool.process)
    if args.prism:
      prism = start(measured.Prism(args.prism))
      runners[PRISM] = Runner(portable(prism.endpoint), prism.process)
    if job.one_process:
      runners['FnApiRunner (in process)'] = Runner(['--runner=FnApiRunner'])
      if args.flink:
        runners['Flink'] = Runner(portable(args.flink))
      if args.floor:
        floor = start(measured.Floor(args.floor, beamline.endpoint))
        runners['Floor'] = Runner(portable(floor.endpoint), floor.process)
        if job.small:
          alone = start(measured.Floor(args.floor))
          runners['Client alone'] = Runner(portable(alone.endpoint), alone.process)
    yield runners


def run_job(name, job, rounds, args):
  """The medians of each runner: Figures, by its name."""
  figures = {}
  with runners_of(job, args) as runners:
    # What is recorded first, and what warms up imports, connections and caches, is not counted.
    for warming in [it for it in runners if job.small or it == 'Floor'] or [BEAMLINE]:
      job.run(runners[warming].arguments)
    if POOL in runners:
      job.run(runners[POOL].arguments)
    for number in range(1, rounds + 1):
      for runner in random.sample(list(runners), len(runners)):
        if POOL in runners:
          measured.wait_for_children(runners[POOL].pool)
        figures.setdefault(runner, []).append(measure(job, runners[runner], args.quiet))
      print('%s: round %d of %d' % (name, number, rounds), file=sys.stderr)
  fields = [field.name for field in dataclasses.fields(Figures)]
  return {
      runner: Figures(*(statistics.median(getattr(run, field) for run in runs) for field in fields))
      for runner, runs in figures.items()
  }


def number(value, form):
  return '–' if value != value else form % value


def ratio(ours, theirs):
  return '%.2f' % (ours / theirs) if ours == ours and theirs == theirs and theirs > 0 else '–'


def peers_table(results):
  lines = [
      '| job | runner | wall s | client and worker CPU s | runner CPU s | runner peak MB '
      '| Beamline ÷ runner: wall | CPU | peak |',
      '|---|---|--:|--:|--:|--:|--:|--:|--:|',
  ]
  for job, medians in results.items():
    ours = medians[BEAMLINE]
    for runner in runners_in_order(medians):
      its = medians[runner]
      if runner in (POOL, COLD_POOL) or its.wall < 0.001:
        continue  # It has a table of its own; or the client has it done before the job is submitted.
      lines.append('| %s | %s | %.3f | %.3f | %s | %s | %s | %s | %s |' % (
          job, runner, its.wall, its.client_cpu, number(its.server_cpu, '%.2f'),
          number(its.server_peak, '%.0f'), ratio(ours.wall, its.wall),
          ratio(ours.server_cpu, its.server_cpu), ratio(ours.server_peak, its.server_peak)))
  return lines


def runners_in_order(medians):
  order = [BEAMLINE, POOL, PRISM, 'FnApiRunner (in process)', 'Flink', 'Floor', 'Client alone']
  return [runner for runner in order if runner in medians]


def pool_table(results):
  lines = [
      '| job | wall s | worker processes\' and client\'s CPU s | runner CPU s | runner peak MB '
      '| ÷ one process | ÷ Prism | wall s, none standing by | ÷ one process |',
      '|---|--:|--:|--:|--:|--:|--:|--:|--:|',
  ]
  nothing = Figures(*[float('nan')] * 4)
  for job, medians in results.items():
    if POOL in medians:
      its, one, cold = medians[POOL], medians[BEAMLINE].wall, medians[COLD_POOL].wall
      lines.append('| %s | %.3f | %.3f | %.2f | %.0f | %s | %s | %.3f | %s |' % (
          job, its.wall, its.client_cpu, its.server_cpu, its.server_peak, ratio(its.wall, one),
          ratio(its.wall, medians.get(PRISM, nothing).wall), cold, ratio(cold, one)))
  return lines if len(lines) > 2 else []


def tables(results, args, load_before, seconds):
  rounds = args.rounds or 'each job\'s own number of'
  command = 'make bench' + (' ARGS="--job %s"' % ' --job '.join(args.job) if args.job else '')
  lines = [
      'Machine: %d cores, %s. Date: %s. Load average %.1f before, %.1f after. Medians of %s rounds (5; 20 of the '
      'smallest job, 3 of the largest), in all %d minutes. Command: `%s`.' % (
          os.cpu_count(), platform.machine(), datetime.date.today().isoformat(), load_before,
          os.getloadavg()[0], rounds, round(seconds / 60), command),
      '',
      *peers_table(results),
      '',
  ]
  pool = pool_table(results)
  if pool:
    lines += [
        'Beamline on the SDK\'s worker pool: one worker process for each core. They stand by since the job before; what '
        'their start cost is in the CPU, not in the wall time. The last columns have them started with the job. In '
        'the same rounds as above, and beside the same job with the one process that LOOPBACK has.',
        '',
        *pool,
        '',
    ]
  return '\n'.join(lines)


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', required=True)
  parser.add_argument('--prism', default=shutil.which('prism'))
  parser.add_argument('--floor', help='the program that replays jobs')
  parser.add_argument('--flink', metavar='HOST:PORT', help='of a Flink job server, to be measured too')
  parser.add_argument('--job', action='append', choices=sorted(jobs.JOBS))
  parser.add_argument('--rounds', type=int, default=0, help='0: each job\'s own number')
  parser.add_argument(
      '--quiet', type=float, default=0, metavar='SECONDS',
      help='on a shared machine: wait that long at most before each job for others to leave it alone')
  parser.add_argument('--output', help='a Markdown file to write the table to')
  args = parser.parse_args()
  logging.disable(logging.WARNING)
  if not args.prism:
    print('no Prism: give its path with --prism', file=sys.stderr)

  load_before, started = os.getloadavg()[0], time.monotonic()
  results = {}
  for name in args.job or jobs.JOBS:
    job = jobs.JOBS[name]
    results[name] = run_job(name, job, args.rounds or job.rounds, args)
  text = tables(results, args, load_before, time.monotonic() - started)
  print(text)
  if args.output:
    output = pathlib.Path(args.output)
    # What people wrote below the table stays; it has to be looked at with every new one.
    old = output.read_text() if output.exists() else ''
    notes = old.partition(NOTES)[2]
    output.write_text('# Benchmarks\n\n' + text + '\n' + NOTES + notes)


if __name__ == '__main__':
  main()
