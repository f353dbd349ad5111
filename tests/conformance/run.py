#!/usr/bin/env python3
"""Runs conformance suites against a Beamline server that it starts; what `make conformance` calls.

    python tests/conformance/run.py --beamline target/release/beamline               # all
    python tests/conformance/run.py --beamline target/release/beamline --suite time

Without a suite all of runs.py are run, each with a fresh server, then the tests of tests/sdk that
prove a feature; then docs/capabilities.md is written. A single suite leaves its results for the page
(`--page` writes it from what is there, and runs nothing). `--suite portable` stands for all four ways
of submitting the SDK's PortableRunnerTest. Exits with 1 if a test does not pass and is not excused.
"""

import argparse
import collections
import datetime
import json
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import capabilities
import results
import runs
import suites

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / 'docs' / 'capabilities.md'
ENVIRONMENTS = {'LOOPBACK': '', 'EXTERNAL': 'pool', 'PROCESS': 'boot'}
# All of tests/sdk that is named in features.tsv, together.
SDK_TEST_SECONDS = 2100


def parse_arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', help='the beamline program')
  parser.add_argument(
      '--suite', default='all',
      choices=sorted({*runs.CHOICES, *suites.SUITES, capabilities.SDK}))
  parser.add_argument('--env', choices=sorted(ENVIRONMENTS),
                      help='where workers run, for all that is run; its results stay off the page')
  parser.add_argument('--opt', action='append', default=[],
                      help='a pipeline option of every job, e.g. --opt=--bundle_size=element; its '
                      'results stay off the page')
  parser.add_argument('-k', help='pytest -k expression; its results stay off the page')
  parser.add_argument('--timeout', type=int, default=60, help='seconds per test')
  parser.add_argument('--page', action='store_true', help='only write the page')
  arguments = parser.parse_args()
  if not arguments.page and not os.access(arguments.beamline or '', os.X_OK):
    parser.error('no such program: %s' % arguments.beamline)
  return arguments


def commit():
  """The commit that the working tree is at, and whether it was changed since."""
  def git(*command):
    done = subprocess.run(['git', *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None

  found = git('rev-parse', '--short', 'HEAD')
  if found is None:
    return 'unknown'
  # The page itself may be what is changed.
  changed = git('status', '--porcelain', '--untracked-files=no', '--', '.', ':!docs')
  return found + (' and changes to it' if changed else '')


def note_run(folder):
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / 'run.json', 'w', encoding='utf-8') as f:
    json.dump({
        'date': datetime.date.today().isoformat(),
        'cores': os.cpu_count(),
        'commit': commit(),
        'beam_version': (ROOT / 'proto' / 'BEAM_VERSION').read_text(encoding='utf-8').strip(),
    }, f)


def start_suite(arguments, run, folder):
  server = '%s serve --job-host=127.0.0.1 --job-port={port} --artifact-port=0' % (
      os.path.abspath(arguments.beamline))
  environment = arguments.env or run.environment
  command = [
      sys.executable, str(HERE / 'run_suite.py'), '--serve', server, '--name=beamline',
      '--env=' + environment, '--env-config=' + ENVIRONMENTS[environment],
      '--timeout=%d' % arguments.timeout, '--out', str(folder)
  ]
  command += ['--opt=' + option for option in [*run.options, *arguments.opt]]
  if arguments.k:
    command += ['-k', arguments.k]
  note_run(folder)
  return subprocess.Popen(command + ['auto', run.suite])


def run_sdk_tests(arguments, folder):
  """Runs the tests of tests/sdk that prove a feature, with the same program."""
  note_run(folder)
  xml = folder / 'junit.xml'
  xml.unlink(missing_ok=True)
  tests = capabilities.sdk_tests()
  with open(folder / 'pytest.log', 'wb') as log:
    subprocess.run(
        [sys.executable, '-m', 'pytest', '-c', str(ROOT / 'tests' / 'sdk' / 'pytest.ini'),
         '--session-timeout=%d' % SDK_TEST_SECONDS, '--junitxml=%s' % xml,
         *(str(ROOT / 'tests' / 'sdk' / test) for test in tests)], cwd=ROOT, stdout=log,
        stderr=subprocess.STDOUT, check=False,
        env={**os.environ, 'BEAMLINE_BIN': os.path.abspath(arguments.beamline)})
  rows = read_junit(xml)
  results.write(folder / 'results.tsv', rows)
  counted = collections.Counter(row.outcome for row in rows)
  print('SUITE tests/sdk: total=%d %s' % (
      len(rows), ' '.join('%s=%d' % one for one in counted.items())))
  return 0 if len(rows) >= len(tests) and set(counted) <= {'pass'} else 1


def read_junit(path):
  if not path.exists():
    raise SystemExit('tests/sdk did not run; see %s' % path.with_name('pytest.log'))
  rows = []
  for case in ElementTree.parse(path).getroot().iter('testcase'):
    outcome, message = 'pass', ''
    for tag, name in (('skipped', 'skip'), ('failure', 'fail'), ('error', 'error')):
      for found in case.findall(tag):
        outcome, message = name, found.get('message') or ''
    module = case.get('classname', '').rsplit('.', 1)[-1]
    rows.append(results.Row(
        '%s.py::%s' % (module, case.get('name')), outcome, float(case.get('time') or 0), -1, message))
  return rows


def folder_of(arguments, name):
  """What is run in another way than runs.py says has a folder of its own."""
  special = [arguments.env] if arguments.env else []
  special += [option.lstrip('-') for option in arguments.opt]
  special += ['k'] if arguments.k else []
  return HERE / 'results' / '+'.join([name, *special])


def run_all(arguments, names):
  """The worst exit code of all. What runs beside the others starts first."""
  of = {name: runs.RUNS.get(name) or runs.Run(name, 'LOOPBACK', (), name)
        for name in names if name != capabilities.SDK}
  beside = [start_suite(arguments, run, folder_of(arguments, name))
            for name, run in of.items() if run.beside]
  codes = []
  try:
    for name in names:
      if name == capabilities.SDK:
        codes.append(run_sdk_tests(arguments, folder_of(arguments, name)))
      elif not of[name].beside:
        codes.append(start_suite(arguments, of[name], folder_of(arguments, name)).wait())
    codes += [suite.wait() for suite in beside]
  finally:
    for suite in beside:
      suite.terminate()
  return max(codes, default=0)


def main():
  arguments = parse_arguments()
  whole = arguments.suite == 'all'
  if whole:
    names = [*runs.RUNS, capabilities.SDK]
  else:
    names = runs.CHOICES.get(arguments.suite, [arguments.suite])
  for_page = not (arguments.env or arguments.opt or arguments.k)
  worst = 0 if arguments.page else run_all(arguments, names)
  known = [name for name in names if name in runs.RUNS or name == capabilities.SDK]
  if not for_page or not known:
    return worst
  try:
    return capabilities.report(
        HERE / 'results', PAGE if whole else None, known)
  except capabilities.DataError as e:
    sys.exit(str(e))


if __name__ == '__main__':
  sys.exit(main())
