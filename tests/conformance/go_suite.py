#!/usr/bin/env python3
"""The Go SDK's own integration tests, with real Go workers (LOOPBACK), on Beamline and on a peer in turn.

    python tests/conformance/go_suite.py --beamline target/release/beamline [--prism PATH] [--test NAME …]

Needs Go, which gets the SDK of proto/BEAM_VERSION as any other module. Each test is a process of its own with a
bound, so that one that hangs is named. Prints a table and what failed; the exit status is 1 if a test failed
on Beamline that EXCUSED does not name.
"""

import argparse
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / 'scripts'), str(ROOT / 'benches')]

import measured  # pylint: disable=wrong-import-position
from beamline_server import BeamlineServer  # pylint: disable=wrong-import-position

from results import states_table  # pylint: disable=wrong-import-position

SDK = 'github.com/apache/beam/sdks/v2'
PACKAGES = ('go/test/integration/primitives', 'go/test/regression')
TEST_SECONDS = 60
BUILD_SECONDS = 1800

# What no runner that serves the Job API alone can pass, or what contradicts the model.
EXCUSED = {
    'TestDrain': 'waits until somebody drains its job, which the test does not do',
    'TestOomParDo': 'wants a heap dump in a folder of a cloud',
    'TestTriggerAfterProcessingTime':
        'expects an element behind a trigger that has fired once and is finished; in the model it is dropped, and '
        "Beam's Flink runner is excused from it too",
}


def build(folder):
  """The test program of each package, and the folder it has to run in."""
  folder.mkdir(parents=True, exist_ok=True)
  version = 'v' + (ROOT / 'proto' / 'BEAM_VERSION').read_text().strip()

  def go(*command):
    done = subprocess.run(['go', *command], cwd=folder, timeout=BUILD_SECONDS, text=True, capture_output=True)
    if done.returncode != 0:
      raise SystemExit('go %s failed:\n%s' % (' '.join(command), done.stderr[-4000:]))
    return done.stdout.strip()

  if not (folder / 'go.mod').exists():
    go('mod', 'init', 'beamline.example/go-suite')
  go('get', '-t', *['%s/%s@%s' % (SDK, package, version) for package in PACKAGES])
  for package in PACKAGES:
    program = folder / (package.rsplit('/', 1)[1] + '.test')
    go('test', '-c', '-o', str(program), '%s/%s' % (SDK, package))
    yield program, go('list', '-f', '{{.Dir}}', '%s/%s' % (SDK, package))


def names(program, folder):
  listed = subprocess.run([program, '-test.list', '.*'], cwd=folder, timeout=TEST_SECONDS, text=True,
                          capture_output=True, check=True).stdout
  return [line for line in listed.splitlines() if line.startswith('Test')]


def run(program, folder, name, endpoint):
  """'passed', 'failed', 'skipped' or 'hung', and what the test said."""
  command = [
      program, '-test.v', '-test.run', '^%s$' % name, '--runner=universal', '--environment_type=LOOPBACK',
      '--endpoint=' + endpoint
  ]
  try:
    done = subprocess.run(command, cwd=folder, timeout=TEST_SECONDS, text=True, errors='replace',
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  except subprocess.TimeoutExpired as expired:
    return 'hung', (expired.stdout or b'').decode(errors='replace')
  if done.returncode != 0:
    return 'failed', done.stdout
  return ('skipped' if '--- SKIP: ' + name in done.stdout else 'passed'), done.stdout


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', required=True)
  parser.add_argument('--prism', help='program of the peer; left out if not given')
  parser.add_argument('--test', nargs='*', help='names; all if none are given')
  arguments = parser.parse_args()
  programs = list(build(ROOT / 'target' / 'go-suite'))
  prism = measured.Prism(arguments.prism) if arguments.prism else None
  results = {}
  try:
    with BeamlineServer(os.path.abspath(arguments.beamline)) as server:
      runners = {'Beamline': server.endpoint}
      if prism:
        runners['Prism'] = prism.endpoint
      for program, folder in programs:
        for name in names(program, folder):
          if arguments.test and name not in arguments.test:
            continue
          if name == 'TestDrain':
            # It would only use up its bound.
            continue
          for runner, endpoint in runners.items():
            results[runner, name] = run(program, folder, name, endpoint)
            print(runner, name, results[runner, name][0], flush=True)
  finally:
    if prism:
      prism.stop()
  sys.exit(report(runners, results))


def report(runners, results):
  print('', *states_table(runners, results), sep='\n')
  bad = 0
  for (runner, name), (state, said) in results.items():
    if runner == 'Beamline' and state in ('failed', 'hung'):
      excuse = EXCUSED.get(name)
      bad += excuse is None
      print('\n%s %s: %s' % (name, state, excuse or said[-3000:]))
  return 1 if bad else 0


if __name__ == '__main__':
  main()
