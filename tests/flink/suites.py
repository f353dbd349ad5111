#!/usr/bin/env python3
"""The SDK's own suites on a real Flink cluster, through Beamline and through Beam's own Flink job server; what
`make conformance-flink` calls.

    python tests/flink/suites.py --beamline target/release/beamline --home target/flink
    python tests/flink/suites.py ... --suite portable --suite time --output docs/flink-suites.md

Each suite gets a cluster of its own, which both ways share. The results of each stay in tests/flink/results, so that
`--page` can write the comparison from what is there, without running anything. Exits with 1 if a test that passes
through Beam's job server does not pass through Beamline.
"""

import argparse
import collections
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONFORMANCE = ROOT / 'tests' / 'conformance'
RESULTS = HERE / 'results'
sys.path[:0] = [str(HERE), str(CONFORMANCE)]

import flink_cluster  # pylint: disable=wrong-import-position
import results  # pylint: disable=wrong-import-position
import run  # pylint: disable=wrong-import-position

OURS, THEIRS = 'beamline', 'job-server'
SUITES = ['portable', 'portable-streaming', 'skipped-by-sdk', 'validatesrunner', 'validatesrunner-streaming', 'time']
# A job on a cluster takes seconds to start, and tests have several.
TEST_SECONDS = 90
SUITE_SECONDS = 5400
# What a test that is broken off leaves running keeps its slot until the suite has ended.
SLOTS = 16
# Of each job a TaskManager keeps classes, some 30 MB, network buffers and as much heap, so that one TaskManager is for one
# suite through one of the ways. What is here is no more than allowed.
CONFIG = {
    'taskmanager.memory.process.size': '20g', 'taskmanager.memory.jvm-metaspace.size': '6g',
    'taskmanager.memory.task.off-heap.size': '4g', 'taskmanager.memory.managed.size': '256m',
    'taskmanager.memory.network.max': '512m',
    # Seconds that the jar of a job that has ended, 60 or 150 MB, stays on the TaskManager's disk.
    'blob.service.cleanup.interval': '30'
}
# No job lasts long enough for better code to pay.
JVM = ['-XX:TieredStopAtLevel=1']
LONGEST_REASON = 200
# Its sources run for 20 minutes of real time.
LEFT_OUT = 'test_run_inference_with_side_inputin_streaming'

Difference = collections.namedtuple('Difference', 'suite test ours theirs')


def parse_arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', help='the beamline program')
  parser.add_argument('--home', help='the folder that get-flink has filled')
  parser.add_argument('--suite', action='append', choices=SUITES, help='may be given again; all by default')
  parser.add_argument('--way', action='append', choices=[OURS, THEIRS], help='only this way')
  parser.add_argument('--together', action='store_true', help='both ways at once, which is rougher and faster')
  parser.add_argument('-k', help='pytest -k expression; prints only')
  parser.add_argument('--again', action='store_true', help='only what did not pass the last time')
  parser.add_argument('--output', help='file that takes the comparison')
  parser.add_argument('--page', action='store_true', help='run nothing')
  arguments = parser.parse_args()
  arguments.suite = arguments.suite or SUITES
  arguments.way = arguments.way or [THEIRS, OURS]
  if not arguments.page:
    for what, path in (('program', arguments.beamline), ('folder', arguments.home)):
      if not path or not os.path.exists(path):
        parser.error('no such %s: %s' % (what, path))
  return arguments


def folder_of(suite, way, k=None):
  return RESULTS / ('%s-%s%s' % (suite, way, '+k' if k else ''))


def start_suite(arguments, suite, way, cluster, folder):
  """Starts a suite with a job server of its own."""
  jar = os.path.abspath(os.path.join(arguments.home, 'runner.jar'))
  if way == OURS:
    server = [
        os.path.abspath(arguments.beamline), 'serve', '--job-host=127.0.0.1', '--job-port={port}',
        '--artifact-port=0', '--backend=flink', '--flink-master', cluster.master, '--flink-runner-jar', jar
    ]
  else:
    artifacts = tempfile.mkdtemp(prefix='artifacts-', dir=cluster.folder)
    server = flink_cluster.job_server_command(jar, cluster.master, '{port}', artifacts, jvm=JVM)
  command = [
      sys.executable, str(CONFORMANCE / 'run_suite.py'), '--serve', shlex.join(server),
      '--name', way, '--timeout=%d' % TEST_SECONDS, '--limit=%d' % SUITE_SECONDS, '--out', str(folder)
  ]
  chosen = 'not ' + LEFT_OUT
  command += ['-k', '(%s) and %s' % (arguments.k, chosen) if arguments.k else chosen]
  if arguments.again:
    command += ['--again']
  run.note_run(folder)
  return subprocess.Popen(command + ['auto', suite])


def run_suite(arguments, suite):
  folder = tempfile.mkdtemp(prefix='beamline-suites-')
  cluster = flink_cluster.FlinkCluster(os.path.join(arguments.home, 'flink'), folder, slots=SLOTS, config=CONFIG, jvm=JVM)
  running = []
  try:
    cluster.start(1)
    for way in arguments.way:
      if running and not arguments.together:
        # What the last test left behind must not disturb the other way.
        cluster.cancel_all()
        cluster.renew_taskmanagers()
      running.append(start_suite(arguments, suite, way, cluster, folder_of(suite, way, arguments.k)))
      if not arguments.together:
        running[-1].wait()
    for suite_run in running:
      suite_run.wait()
  finally:
    for suite_run in running:
      if suite_run.poll() is None:
        suite_run.terminate()
        suite_run.wait()
    cluster.stop()
    for log in ('jobmanager.log', 'taskmanager-0.log'):
      if running and (cluster.folder / log).exists():
        shutil.copy(cluster.folder / log, folder_of(suite, arguments.way[-1], arguments.k) / log)
    shutil.rmtree(folder, ignore_errors=True)


def is_fine(row):
  return row is not None and row.outcome in results.PASSED


def theirs_of(suite, k=None):
  """The results of Beam's job server, and whether they are of the same cluster: else those that are kept, of the
  same suite with Flink inside of the job server."""
  rows = results.read(folder_of(suite, THEIRS, k) / 'results.tsv')
  if rows:
    return rows, True
  return results.read(CONFORMANCE / 'peers' / ('flink262-%s.tsv' % suite)), False


def compare(suite, k=None):
  """(tests that fail here alone, there alone, on both; the counts of both)."""
  ours, (theirs, same) = results.read(folder_of(suite, OURS, k) / 'results.tsv'), theirs_of(suite, k)
  if not same:
    # It was run there, where its 20 minutes were cut off.
    theirs = {test: row for test, row in theirs.items() if LEFT_OUT not in test}
  here, there, both = [], [], []
  for test in sorted({*ours, *theirs}):
    one, other = ours.get(test), theirs.get(test)
    # Either way had no part in what the SDK skips, and in what never submits a pipeline.
    if all(row is None or row.outcome in results.SKIPPED or not results.reached(row) for row in (one, other)):
      continue
    found = Difference(suite, test, one, other)
    if is_fine(one):
      if not is_fine(other):
        there.append(found)
    else:
      (here if is_fine(other) else both).append(found)
  return here, there, both, (counts(ours), counts(theirs))


def counts(rows):
  reached = [row for row in rows.values() if results.reached(row) and row.outcome not in results.SKIPPED]
  return sum(is_fine(row) for row in reached), len(reached)


def told(row):
  """How a test ended, in a cell of a table."""
  if row is None:
    return 'not run'
  if is_fine(row):
    return 'passes'
  message = row.message.removeprefix('the pipeline asks for what this backend cannot run yet: ')
  text = ' '.join(message.replace('|', '\\|').replace('`', "'").split())
  short = text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON].rsplit(' ', 1)[0] + ' …'
  return '%s: %s' % (row.outcome, short) if short else row.outcome


def table(differences):
  lines = ['| suite | test | Beamline | Beam\'s job server |', '|---|---|---|---|']
  for one in differences:
    name = '::'.join(one.test.split('::')[1:])
    lines.append('| %s | `%s` | %s | %s |' % (one.suite, name, told(one.ours), told(one.theirs)))
  return lines


def noted(suites, what):
  """What the runs of Beamline were noted with."""
  found = {json.loads((folder_of(suite, OURS) / 'run.json').read_text(encoding='utf-8'))[what] for suite in suites}
  return ', '.join(sorted(found))


def page(suites, command):
  here, there, both, totals = [], [], [], []
  for suite in suites:
    one, two, three, counted = compare(suite)
    here, there, both = here + one, there + two, both + three
    totals.append((suite, *counted))
  lines = [
      '# The Python SDK\'s suites on Flink', '',
      'Beam Python %s on a Flink 1.19.3 cluster of this machine (%d cores; one TaskManager of %d slots, workers in the client, '
      'parallelism 1), through Beamline and through the Java job server of Beam 2.62, whose Flink runner both use. '
      'Run on %s, at %s, by' % (
          (ROOT / 'proto' / 'BEAM_VERSION').read_text(encoding='utf-8').strip(), os.cpu_count(), SLOTS,
          noted(suites, 'date'), noted(suites, 'commit')), '', '    ' + command, '',
      'Passed, of the tests that submit a pipeline (without `%s`, which takes 20 minutes):' % LEFT_OUT, '', '| suite | Beamline | Beam\'s job server |', '|---|---|---|'
  ]
  lines += ['| %s | %d of %d | %d of %d%s |' % (suite, *ours, *theirs, '' if theirs_of(suite)[1] else ' *')
            for suite, ours, theirs in totals]
  if not all(theirs_of(suite)[1] for suite in suites):
    lines += ['', '\\* From an earlier run, with Flink inside of the job server (`--flink-master=[local]`).']
  for title, text, some in (
      ('Pass through Beam\'s job server alone', 'None is to be here.', here),
      ('Pass through Beamline alone', '', there),
      ('Pass through neither', '*refused*: at Prepare, by the name of what Flink\'s portable runner cannot do; all of that '
       'runs on the native backend.', both)):
    lines += ['', '## %s (%d)' % (title, len(some)), '']
    lines += [text, ''] if text else []
    lines += table(some) if some else ['None.']
  return '\n'.join(lines) + '\n', here


def main():
  # The cluster and the servers end with this.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  arguments = parse_arguments()
  if not arguments.page:
    for suite in arguments.suite:
      run_suite(arguments, suite)
  if arguments.k:
    differing = []
    for suite in arguments.suite:
      here, there, both, _ = compare(suite, arguments.k)
      print('\n'.join(table(here + there + both)))
      differing += here
  else:
    text, differing = page([s for s in SUITES if (folder_of(s, OURS) / 'results.tsv').exists()], 'make conformance-flink')
    if arguments.output:
      pathlib.Path(arguments.output).write_text(text, encoding='utf-8')
    else:
      print(text)
  for one in differing:
    print('fails through Beamline alone: %s %s: %s' % (one.suite, one.test, told(one.ours)), file=sys.stderr)
  return 1 if differing else 0


if __name__ == '__main__':
  sys.exit(main())
