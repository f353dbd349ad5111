#!/usr/bin/env python3
"""Runs the Beam Python SDK's own WordCount on a Beamline server and checks what it wrote.

    python scripts/wordcount.py --beamline target/release/beamline --input FILE --output FOLDER

Starts a server on a free port, runs `python -m apache_beam.examples.wordcount` against it as any
user would, counts the same file again in plain Python, compares, and stops the server. Exits with
0 if every count agrees, 1 if not, and 2 if the server or the job failed.
"""

import argparse
import collections
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

from beamline_server import BeamlineServer, ServerError

JOB_SECONDS = 600
# What WordExtractingDoFn of the example looks for.
WORD = re.compile(r"[\w']+", re.UNICODE)


def parse_arguments():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', required=True, help='the beamline program')
  parser.add_argument('--input', required=True, help='the text to count')
  parser.add_argument('--output', required=True, help='folder for the counts; emptied first')
  parser.add_argument('--top', type=int, default=10, help='how many words to print')
  parser.add_argument('--job_endpoint', help='use this server instead of starting one')
  return parser.parse_args()


def run_job(endpoint, source, prefix):
  """Runs the example in a process of its own; returns how many seconds it took."""
  command = [
      sys.executable, '-m', 'apache_beam.examples.wordcount', '--input', source, '--output', prefix,
      '--runner=PortableRunner', '--job_endpoint=' + endpoint, '--environment_type=LOOPBACK'
  ]
  print('$ ' + ' '.join(['python'] + command[1:]), flush=True)
  began = time.monotonic()
  subprocess.run(command, check=True, timeout=JOB_SECONDS)
  return time.monotonic() - began


def plain_count(source):
  """The same count without Beam."""
  counts = collections.Counter()
  with open(source, encoding='utf-8', newline='\n') as f:
    for line in f:
      counts.update(WORD.findall(line))
  return counts


def written_count(prefix):
  """Reads the example's `word: count` lines; returns the counts and the files they were in."""
  counts = {}
  files = sorted(glob.glob(glob.escape(prefix) + '-*-of-*'))
  for path in files:
    with open(path, encoding='utf-8', newline='\n') as f:
      for line in f:
        word, count = line.rstrip('\n').rsplit(': ', 1)
        if word in counts:
          raise ValueError('%s: the word %r was written twice' % (path, word))
        counts[word] = int(count)
  return counts, files


def compare(expected, actual, files):
  """Prints OK or FAIL with the first differences; returns whether they agree."""
  if not files:
    print('FAIL: the job wrote no file')
    return False
  wrong = sorted(
      word for word in expected.keys() | actual.keys() if expected.get(word) != actual.get(word))
  for word in wrong[:10]:
    print('  %r: expected %s, got %s' % (word, expected.get(word), actual.get(word)))
  if wrong:
    print('FAIL: %d of %d words differ from a plain Python count' % (len(wrong), len(expected)))
    return False
  print(
      'OK: all %d counts (%d words in all) agree with a plain Python count of the same file' %
      (len(actual), sum(actual.values())))
  return True


def count_and_check(endpoint, arguments):
  source = os.path.abspath(arguments.input)
  folder = pathlib.Path(arguments.output).absolute()
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  prefix = str(folder / 'counts')
  seconds = run_job(endpoint, source, prefix)
  actual, files = written_count(prefix)
  print('\n%s: counted in %.1f s, written to' % (arguments.input, seconds))
  for path in files:
    print('  %s' % os.path.relpath(path))
  print('most frequent words:')
  for word, count in sorted(actual.items(), key=lambda item: (-item[1], item[0]))[:arguments.top]:
    print('  %8d  %s' % (count, word))
  return compare(plain_count(source), actual, files)


def main():
  arguments = parse_arguments()
  if not os.path.isfile(arguments.input):
    print('FAIL: no such file: %s' % arguments.input)
    return 2
  try:
    if arguments.job_endpoint:
      return 0 if count_and_check(arguments.job_endpoint, arguments) else 1
    server = BeamlineServer(arguments.beamline)
    with server:
      print('Beamline serves jobs at %s' % server.endpoint, flush=True)
      try:
        agrees = count_and_check(server.endpoint, arguments)
      except subprocess.SubprocessError as e:
        print('FAIL: %s\nlast lines of the server\'s log:\n%s' % (e, server.log_tail()))
        return 2
    if server.process.returncode != 0:
      print('FAIL: the server ended with status %d' % server.process.returncode)
      return 2
    return 0 if agrees else 1
  except (ServerError, subprocess.SubprocessError) as e:
    print('FAIL: %s' % e)
    return 2


if __name__ == '__main__':
  sys.exit(main())
