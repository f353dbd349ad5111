#!/usr/bin/env python3
"""The Java SDK's own tests of the category ValidatesRunner, with real Java workers (LOOPBACK), on Beamline and on a peer.

    python tests/conformance/java_suite.py --beamline target/release/beamline [--prism PATH] [--test REGEX] [--shards N]

Needs Java and Maven, which gets the SDK as tests/conformance/java/pom.xml says. A test takes three seconds whatever the
runner does, because the SDK's client looks at its job's state that often: so several Java processes run tests, each
one after another. Each test has a bound; the process of one that hangs is ended. Prints a table and what failed; the
exit status is 1 if a test failed on Beamline that EXCUSED does not name.
"""

import argparse
import base64
import concurrent.futures
import json
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / 'scripts'), str(ROOT / 'benches')]

import measured  # pylint: disable=wrong-import-position
from beamline_server import BeamlineServer  # pylint: disable=wrong-import-position

from results import states_table  # pylint: disable=wrong-import-position

FOLDER = ROOT / 'target' / 'java-suite'
TEST_SECONDS = 120
BUILD_SECONDS = 1800
SHARDS = 8
# Of one process that runs tests.
JAVA = ['java', '-Xmx768m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1']

# What no runner that serves the Job API alone can pass, or what the model does not promise: by the beginning of the name
# after the package.
EXCUSED = (
    ('MetricsTest$CommittedMetricTests#', 'the SDK\'s client of portable runners has no committed metrics'),
    ('ParDoTest$StateTests#testMultimapState', 'the SDK\'s worker has no multimap state: "not currently supported"'),
    ('ParDoTest$StateCoderInferenceTests#testMultimapStateCoderInference',
     'the SDK\'s worker has no multimap state: "not currently supported"'),
    ('SdkHarnessEnvironmentTest#testLogging', 'asks for log4j, which the SDK\'s container image has'),
    ('SdkHarnessEnvironmentTest#testTlsAvailable', 'asks for the Java settings of the SDK\'s container image'),
    ('TestStreamTest#testMultipleStreams', 'has two TestStreams, each of which would set the clock: refused by name'),
    ('ParDoTest$TimestampTests#testProcessElementSkew',
     'expects an error that the SDK\'s worker does not raise: it subtracts a skew of 681,000 years'),
    ('ParDoTest$TimerTests#testOutputTimestamp',
     'expects an element before a timer that is due, of an earlier time; the model leaves the order open'),
    ('GroupByKeyTest$BasicTests#testAfterProcessingTimeContinuationTriggerUsingState',
     'expects an early pane of bounded input, of which a runner may make one pane'),
    ('GroupByKeyTest$BasicTests#testLargeKeys100MB', 'needs more memory than its processes have here'),
)
# Not run: they want an expansion service and a Python of their own making.
LEFT_OUT = re.compile(r'\.ValidateRunnerXlangTest\$')


def build():
  """Gets the SDK and compiles SdkTests.java."""
  FOLDER.mkdir(parents=True, exist_ok=True)
  command = [
      'mvn', '--batch-mode', '--quiet', '-f', str(HERE / 'java' / 'pom.xml'), '-Dsuite.folder=%s' % FOLDER, 'package'
  ]
  done = subprocess.run(command, timeout=BUILD_SECONDS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  if done.returncode != 0:
    raise SystemExit('%s failed:\n%s' % (' '.join(command), done.stdout[-4000:]))


def class_path():
  return os.pathsep.join([str(FOLDER / 'classes'), str(FOLDER / 'lib' / '*')])


def names():
  tests, = (FOLDER / 'lib').glob('beam-sdks-java-core-*-tests.jar')
  command = [*JAVA, '-cp', class_path(), 'SdkTests', 'list', str(tests)]
  listed = subprocess.run(command, timeout=TEST_SECONDS, text=True, stdout=subprocess.PIPE, check=True,
                          stderr=subprocess.DEVNULL).stdout
  return [name for name in listed.splitlines() if not LEFT_OUT.search(name)]


class JavaProcess:
  """A process that runs one test after another, all on one endpoint."""
  def __init__(self, endpoint, log):
    options = [
        '--runner=TestUniversalRunner',
        '--jobEndpoint=' + endpoint,
        '--defaultEnvironmentType=LOOPBACK',
        # Workers are threads of the client and have its class path: what is staged is for nobody.
        '--filesToStage=%s' % (FOLDER / 'java-suite-1.jar'),
    ]
    # The worker measures objects with it; there is one version in the folder.
    agent, = (FOLDER / 'lib').glob('jamm-*.jar')
    command = [
        *JAVA, '-javaagent:%s' % agent, '-DbeamTestPipelineOptions=' + json.dumps(options), '-cp', class_path(),
        'SdkTests', 'run'
    ]
    with open(log, 'ab') as log_file:
      self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=log_file)
    self.answers = queue.Queue()
    threading.Thread(target=self._read, daemon=True).start()

  def _read(self):
    for line in self.process.stdout:
      self.answers.put(line)
    self.answers.put(None)

  def run(self, name):
    """'passed', 'failed', 'skipped' or 'hung', and what the test said. Not to be used again after one that hung."""
    try:
      self.process.stdin.write(name + '\n')
      self.process.stdin.flush()
      answer = self.answers.get(timeout=TEST_SECONDS)
    except queue.Empty:
      return 'hung', 'no answer within %d s' % TEST_SECONDS
    except BrokenPipeError:
      answer = None
    if answer is None:
      return 'hung', 'the Java process has ended with status %s' % self.process.wait(TEST_SECONDS)
    state, said = answer.split(' ', 1)
    return state, base64.b64decode(said).decode(errors='replace')

  def stop(self):
    self.process.kill()
    self.process.wait()


def shard(number, runner, endpoint, waiting, results):
  """Runs what waits, until nothing does."""
  process = None
  try:
    while True:
      try:
        name = waiting.get_nowait()
      except queue.Empty:
        return
      process = process or JavaProcess(endpoint, FOLDER / 'logs' / ('%s-%d.log' % (runner, number)))
      state, said = process.run(name)
      if state == 'hung':
        process.stop()
        process = None
      results[runner, name] = state, said
      (FOLDER / 'logs' / ('%s-%s-%s.txt' % (state, runner, name.rsplit('.', 1)[1]))).write_text(said)
      print(runner, name, state, flush=True)
  finally:
    if process:
      process.stop()


def run_all(runner, endpoint, tests, shards, results):
  waiting = queue.Queue()
  for name in tests:
    waiting.put(name)
  with concurrent.futures.ThreadPoolExecutor(shards) as pool:
    running = [pool.submit(shard, number, runner, endpoint, waiting, results) for number in range(shards)]
  for future in running:
    future.result()


def excuse(name):
  name = name.rsplit('.', 1)[1]
  return next((reason for beginning, reason in EXCUSED if name.startswith(beginning)), None)


def gist(said):
  """What a test said, without the stacks."""
  lines = [line for line in said.splitlines() if line.strip() and not re.match(r'\s+(at |\.\.\. )', line)]
  return '\n  '.join(line[:600] for line in lines[:12])


def report(runners, results):
  print('', *states_table(runners, results), sep='\n')
  bad = 0
  for (runner, name), (state, said) in sorted(results.items()):
    if state == 'passed':
      continue
    excused = excuse(name) if runner == 'Beamline' else None
    bad += runner == 'Beamline' and state in ('failed', 'hung') and excused is None
    print('\n%s: %s %s: %s' % (runner, name, state, excused or gist(said)))
  return 1 if bad else 0


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', help='program to test; left out if not given')
  parser.add_argument('--prism', help='program of the peer; left out if not given')
  parser.add_argument('--test', default='', help='regular expression of names class#method; all if not given')
  parser.add_argument('--shards', type=int, default=SHARDS, help='Java processes (%(default)s)')
  arguments = parser.parse_args()
  build()
  tests = [name for name in names() if re.search(arguments.test, name)]
  shutil.rmtree(FOLDER / 'logs', ignore_errors=True)
  (FOLDER / 'logs').mkdir()
  results, runners = {}, []
  if arguments.beamline:
    runners.append('Beamline')
    with BeamlineServer(os.path.abspath(arguments.beamline), log=FOLDER / 'logs' / 'beamline.log') as server:
      run_all('Beamline', server.endpoint, tests, arguments.shards, results)
  if arguments.prism:
    runners.append('Prism')
    with measured.Prism(arguments.prism) as prism:
      run_all('Prism', prism.endpoint, tests, arguments.shards, results)
  sys.exit(report(runners, results))


if __name__ == '__main__':
  main()
