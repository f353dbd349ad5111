#!/usr/bin/env python3
"""Runs conformance suites against a Beamline server that it starts; what `make conformance` calls.

    python tests/conformance/run.py --beamline target/release/beamline --suite portable

`portable` stands for all four ways of submitting the SDK's PortableRunnerTest; afterwards
docs/capabilities.md is written from what ran (over LOOPBACK; other environments leave it alone).
Any other suite of suites.py runs alone. Exits with 1 if a test that Beamline should pass does not.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys

import capabilities
import suites

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENTS = {'LOOPBACK': '', 'EXTERNAL': 'pool', 'PROCESS': 'boot'}


def parse_arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', required=True, help='the beamline program')
  parser.add_argument('--suite', default='portable', choices=sorted(suites.SUITES))
  parser.add_argument('--env', default='LOOPBACK', choices=sorted(ENVIRONMENTS))
  parser.add_argument('-k', help='pytest -k expression; docs/capabilities.md is not written')
  parser.add_argument('--timeout', type=int, default=60, help='seconds per test')
  return parser.parse_args()


def run_suite(arguments, suite, folder):
  server = '%s serve --job-host=127.0.0.1 --job-port={port} --artifact-port=0' % (
      os.path.abspath(arguments.beamline))
  command = [
      sys.executable, str(HERE / 'run_suite.py'), '--serve', server, '--name=beamline',
      '--env=' + arguments.env, '--env-config=' + ENVIRONMENTS[arguments.env],
      '--timeout=%d' % arguments.timeout, '--out', str(folder)
  ]
  if arguments.k:
    command += ['-k', arguments.k]
  return subprocess.run(command + ['auto', suite], check=False).returncode


def main():
  arguments = parse_arguments()
  if not os.access(arguments.beamline, os.X_OK):
    sys.exit('no such program: ' + arguments.beamline)
  results = HERE / 'results' / arguments.env.lower()
  results.mkdir(parents=True, exist_ok=True)
  whole = arguments.suite == 'portable'
  worst = 0
  for suite in capabilities.WAYS if whole else [arguments.suite]:
    worst = max(worst, run_suite(arguments, suite, results / suite))
  if not whole:
    return worst
  with open(results / 'run.json', 'w', encoding='utf-8') as f:
    json.dump({
        'date': datetime.date.today().isoformat(),
        'cores': os.cpu_count(),
        'command': 'make conformance SUITE=portable' + (
            '' if arguments.env == 'LOOPBACK' else ' ENV=' + arguments.env),
        'beam_version': (ROOT / 'proto' / 'BEAM_VERSION').read_text().strip(),
    }, f)
  page = None if arguments.k or arguments.env != 'LOOPBACK' else ROOT / 'docs' / 'capabilities.md'
  return capabilities.report(results, page)


if __name__ == '__main__':
  sys.exit(main())
