#!/usr/bin/env python3
"""What a job costs on Flink through Beamline, beside Beam's own two ways, in turn, on the same cluster.

    python benches/flink.py --beamline target/release/beamline --home target/flink [--rounds N] [--output FILE]

The ways are Beamline, Beam's Java job server, and the Python SDK's own (`--runner=FlinkRunner
--flink_submit_uber_jar`), which has no server. Each runs the same small WordCount, from file to file, in LOOPBACK. All
servers are up and have run one job that is not counted. A job's time begins with the client's `run()`. When it is
RUNNING, and how long it ran, is told by Flink, so that it does not depend on how often anybody asks; its end is when
the client's `wait_until_finish()` returns. What the job counted is checked.
"""

import argparse
import collections
import datetime
import logging
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT / 'scripts'), str(ROOT / 'tests' / 'flink'), str(HERE)]

import apache_beam as beam  # pylint: disable=wrong-import-position
from apache_beam.options.pipeline_options import PipelineOptions  # pylint: disable=wrong-import-position
from beamline_server import BeamlineServer  # pylint: disable=wrong-import-position
import flink_cluster  # pylint: disable=wrong-import-position
import measured as machine  # pylint: disable=wrong-import-position
import wordcount  # pylint: disable=wrong-import-position

TEXT = str(ROOT / 'tests' / 'data' / 'kinglear.txt')
OURS, JOB_SERVER, UBER_JAR = 'Beamline', 'Java job server', 'Python uber jar'
WAYS = (OURS, JOB_SERVER, UBER_JAR)
# Times of one job, in seconds.
Times = collections.namedtuple('Times', 'running done in_flink')
# Memory of a server, in MB: now, and at most so far.
Memory = collections.namedtuple('Memory', 'now peak')
# Each job's classes stay in the TaskManager for a while.
CONFIG = {'taskmanager.memory.process.size': '3g', 'taskmanager.memory.jvm-metaspace.size': '1g'}


class JobServer(machine.Child):
  """Beam's own, on Java."""
  def __init__(self, jar, master, artifacts):
    port = machine.free_port()
    super().__init__(flink_cluster.job_server_command(jar, master, port, artifacts))
    self.endpoint = 'localhost:%d' % port
    self.wait_until(lambda: machine.listens(port))


def options_of(way, endpoints, cluster, jar):
  options = ['--environment_type=LOOPBACK']
  if way == UBER_JAR:
    return options + [
        '--runner=FlinkRunner', '--flink_master=' + cluster.master, '--flink_submit_uber_jar',
        '--flink_job_server_jar=' + jar
    ]
  return options + ['--runner=PortableRunner', '--job_endpoint=' + endpoints[way]]


def run_job(options, cluster, folder):
  """Runs WordCount, checks it, and returns its Times."""
  prefix = os.path.join(tempfile.mkdtemp(dir=folder), 'counts')
  pipeline = beam.Pipeline(options=PipelineOptions(options))
  words = pipeline | beam.io.ReadFromText(TEXT) | beam.FlatMap(wordcount.WORD.findall)
  lines = words | beam.combiners.Count.PerElement() | beam.MapTuple('{}: {}'.format).with_output_types(str)
  lines | beam.io.WriteToText(prefix)  # pylint: disable=expression-not-assigned
  known = {job['jid'] for job in cluster.get('/jobs/overview')['jobs']}
  began = time.time()
  result = pipeline.run()
  result.wait_until_finish()
  done = time.time()
  if result.state != 'DONE':
    raise SystemExit('the job is %s' % result.state)
  counts, files = wordcount.written_count(prefix)
  if not wordcount.compare(wordcount.plain_count(TEXT), counts, files):
    raise SystemExit('the counts are wrong')
  [job] = [job for job in cluster.get('/jobs/overview')['jobs'] if job['jid'] not in known]
  told = cluster.get('/jobs/' + job['jid'])
  return Times(
      running=told['timestamps']['RUNNING'] / 1000 - began, done=done - began,
      in_flink=(told['end-time'] - told['start-time']) / 1000)


def memory_of(process):
  for line in pathlib.Path('/proc/%d/status' % process.pid).read_text().splitlines():
    if line.startswith('VmRSS:'):
      return Memory(int(line.split()[1]) / 1024, machine.peak_megabytes(process))
  return Memory(float('nan'), float('nan'))


def measure(arguments, folder):
  """({way: [Times]}, {way: Memory of its server})."""
  jar = os.path.abspath(os.path.join(arguments.home, 'runner.jar'))
  cluster = flink_cluster.FlinkCluster(
      os.path.join(arguments.home, 'flink'), os.path.join(folder, 'flink'), config=CONFIG)
  times = {way: [] for way in WAYS}
  try:
    cluster.start(1)
    flags = ['--backend', 'flink', '--flink-master', cluster.master, '--flink-runner-jar', jar]
    with BeamlineServer(arguments.beamline, flags) as ours, \
        JobServer(jar, cluster.master, os.path.join(folder, 'theirs')) as theirs:
      endpoints = {OURS: ours.endpoint, JOB_SERVER: theirs.endpoint}
      for number in range(arguments.rounds + 1):
        # No way always comes after the same other.
        for way in WAYS[number % len(WAYS):] + WAYS[:number % len(WAYS)]:
          machine.settle(arguments.quiet)
          taken = run_job(options_of(way, endpoints, cluster, jar), cluster, folder)
          print('%s round %d: RUNNING after %.2f s, DONE after %.2f s, %.2f s of it in Flink' % (way, number, *taken))
          if number:
            times[way].append(taken)
      return times, {OURS: memory_of(ours.process), JOB_SERVER: memory_of(theirs.process)}
  finally:
    cluster.stop()


def page(arguments, times, memory, load):
  medians = {way: Times(*(statistics.median(column) for column in zip(*taken))) for way, taken in times.items()}
  lines = [
      '# What a job costs on Flink', '',
      'Machine: %d cores, %s; load average %.1f before and %.1f after. Date: %s. Medians of %d jobs each, in turn, after '
      'one that is not counted. Command: `make bench-flink`. The job is a WordCount of 160 kB on one TaskManager of Flink '
      '1.19.3; all three ways use the Flink runner of Beam 2.62.' % (
          os.cpu_count(), platform.machine(), *load, datetime.date.today().isoformat(), arguments.rounds), '',
      '*RUNNING* is by Flink\'s clock, *DONE* the client\'s; both count from the client\'s `run()`. In brackets: the '
      'least and the most. Memory is that of the server\'s process after its last job, and at most.', '',
      '| way | RUNNING s | DONE s | of it in Flink s | Beamline ÷ it, RUNNING | DONE | memory MB | at most | Beamline ÷ it |',
      '|---|---|---|--:|--:|--:|--:|--:|--:|'
  ]
  def spread(way, field):
    column = [getattr(taken, field) for taken in times[way]]
    return '%.2f (%.2f–%.2f)' % (getattr(medians[way], field), min(column), max(column))

  for way in WAYS:
    one = medians[way]
    cells = [way, spread(way, 'running'), spread(way, 'done'), '%.2f' % one.in_flink,
             '%.2f' % (medians[OURS].running / one.running), '%.2f' % (medians[OURS].done / one.done)]
    if way in memory:
      cells += ['%.0f' % memory[way].now, '%.0f' % memory[way].peak, '%.2f' % (memory[OURS].now / memory[way].now)]
    else:
      cells += ['no server', '', '']
    lines.append('| %s |' % ' | '.join(cells))
  return '\n'.join(lines) + '\n'


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', required=True, help='the beamline program')
  parser.add_argument('--home', required=True, help='the folder that tests/flink/get-flink has filled')
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--quiet', type=float, default=3, help='seconds that each job waits at most for a quiet machine')
  parser.add_argument('--output', help='file that takes the table')
  arguments = parser.parse_args()
  logging.getLogger().setLevel(logging.ERROR)
  before = os.getloadavg()[0]
  with tempfile.TemporaryDirectory(prefix='beamline-flink-') as folder:
    os.mkdir(os.path.join(folder, 'flink'))
    times, memory = measure(arguments, folder)
  text = page(arguments, times, memory, (before, os.getloadavg()[0]))
  if arguments.output:
    pathlib.Path(arguments.output).write_text(text, encoding='utf-8')
  print(text)


if __name__ == '__main__':
  main()
