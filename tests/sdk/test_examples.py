"""Examples of the Beam Python SDK that need no cloud, run as their users run them.

Each runs in a process of its own (`python -m apache_beam.examples…`), against generated files, and
what it writes is compared with plain Python.
"""

import collections
import glob
import json
import math
import os
import re
import subprocess
import sys

import apache_beam as beam
import pytest
from apache_beam.examples.cookbook import combiners_test, filters, mergecontacts
from apache_beam.options.pipeline_options import PipelineOptions

import harness
from conftest import ROOT

KING_LEAR = str(ROOT / 'tests' / 'data' / 'kinglear.txt')
EXAMPLE_SECONDS = 200


def run_example(name, endpoint, *arguments):
  command = [
      sys.executable, '-m', 'apache_beam.examples.' + name, *arguments,
      *harness.portable_options(endpoint)
  ]
  done = subprocess.run(
      command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      timeout=EXAMPLE_SECONDS, check=False)
  assert done.returncode == 0, done.stdout.decode(errors='replace')[-4000:]
  return done.stdout.decode(errors='replace')


def written(prefix):
  files = glob.glob(glob.escape(str(prefix)) + '-*-of-*')
  assert files, 'no file %s-*' % prefix
  lines = []
  for path in files:
    with open(path, encoding='utf-8') as f:
      lines += f.read().splitlines()
  return sorted(lines)


def write_lines(path, lines):
  path.write_text(''.join(line + '\n' for line in lines), encoding='utf-8')
  return str(path)


def king_lear():
  with open(KING_LEAR, encoding='utf-8') as f:
    return f.read()


def counted(pattern, text):
  return sorted('%s: %d' % item for item in collections.Counter(re.findall(pattern, text)).items())


@pytest.mark.parametrize('name,pattern', [
    ('wordcount', r"[\w']+"), ('wordcount_minimal', r"[A-Za-z']+"),
    ('wordcount_with_metrics', r"[\w']+")])
def test_wordcounts(name, pattern, endpoint, tmp_path):
  output = tmp_path / 'counts'
  said = run_example(name, endpoint, '--input', KING_LEAR, '--output', str(output))
  assert written(output) == counted(pattern, king_lear())
  if name == 'wordcount_with_metrics':
    empty = sum(not line.strip() for line in king_lear().splitlines())
    assert 'number of empty lines: %d' % empty in said, said[-2000:]


def test_wordcount_debugging(endpoint, tmp_path):
  """It checks its own result: three times 'Flourish' and once 'stomach', which is King Lear's."""
  output = tmp_path / 'words'
  run_example('wordcount_debugging', endpoint, '--input', KING_LEAR, '--output', str(output))
  assert written(output) == ['Flourish: 3', 'stomach: 1']


def test_tfidf(endpoint, tmp_path):
  documents = {'1.txt': 'abc def ghi', '2.txt': 'abc def', '3.txt': 'abc abc xyz'}
  for name, text in documents.items():
    write_lines(tmp_path / name, [text])
  output = tmp_path / 'out'
  run_example('complete.tfidf', endpoint, '--uris', str(tmp_path / '?.txt'), '--output', str(output))
  expected = {}
  for name, text in documents.items():
    words = text.split()
    for word in set(words):
      holding = sum(word in other.split() for other in documents.values())
      expected[word, name] = words.count(word) / len(words) * math.log(
          1 / (holding / len(documents)))
  found = {}
  for line in written(output):
    word, (uri, score) = eval(line)  # pylint: disable=eval-used
    found[word, os.path.basename(uri)] = score
  assert found == pytest.approx(expected)


def test_top_wikipedia_sessions(endpoint, tmp_path):
  """The sessions and their months are those of the SDK's own test of this example."""
  edits = [
      ('user1', 0), ('user1', 1500), ('user1', 3500), ('user1', 10000), ('user2', 0),
      ('user2', 10), ('user3', 20), ('user3', 2592000), ('user3', 2592030)]
  source = write_lines(tmp_path / 'edits.json', [
      json.dumps({'timestamp': at, 'contributor_username': user}) for user, at in edits])
  output = tmp_path / 'sessions'
  run_example('complete.top_wikipedia_sessions', endpoint, '--input', source, '--output',
              str(output), '--sampling_threshold', '1.0')
  gap, month = 3600, 30 * 24 * 3600
  sessions = {}
  for user, at in sorted(edits):
    mine = sessions.setdefault(user, [])
    if mine and at < mine[-1][1]:
      mine[-1] = [mine[-1][0], at + gap, mine[-1][2] + 1]
    else:
      mine.append([at, at + gap, 1])
  expected = []
  for user, mine in sessions.items():
    for start, end, edits_in_it in mine:
      first = (end - 1) // month * month
      expected.append('%s : [%s, %s) : %d : [%s, %s)' % (
          user, float(start), float(end), edits_in_it, float(first), float(first + month)))
  assert written(output) == sorted(expected)


def test_autocomplete(endpoint, tmp_path):
  source = write_lines(tmp_path / 'words.txt', ['to be or not to be to'])
  output = tmp_path / 'prefixes'
  run_example('complete.autocomplete', endpoint, '--input', source, '--output', str(output))
  lines = dict(line.split(': ', 1) for line in written(output))
  assert set(lines) == {'t', 'to', 'b', 'be', 'o', 'or', 'n', 'no', 'not'}
  assert lines['t'] == "[(3, 'to')]" and lines['n'] == "[(1, 'not')]", lines


def test_cookbook_coders(endpoint, tmp_path):
  matches = [
      {'host': ['Germany', 1], 'guest': ['Italy', 0]}, {'host': ['Germany', 1],
                                                         'guest': ['Brasil', 3]},
      {'host': ['Brasil', 1], 'guest': ['Italy', 1]}]
  source = write_lines(tmp_path / 'matches.json', [json.dumps(match) for match in matches])
  output = tmp_path / 'points'
  run_example('cookbook.coders', endpoint, '--input', source, '--output', str(output))
  assert sorted(map(json.loads, written(output))) == [['Brasil', 4], ['Germany', 3], ['Italy', 1]]


def test_cookbook_group_with_coder(endpoint, tmp_path):
  source = write_lines(tmp_path / 'players.csv', ['joe,10', 'fred,3', 'mary,7', 'joe,20', 'fred,6'])
  output = tmp_path / 'players'
  run_example('cookbook.group_with_coder', endpoint, '--input', source, '--output', str(output))
  # In the worker the example's own coder marks what it encodes, and takes the mark off.
  assert written(output) == ['fred,9', 'joe,30', 'mary,7']


def test_cookbook_multiple_output_pardo(endpoint, tmp_path):
  text = 'A whole new world\nA new fantastic point of view'
  source = write_lines(tmp_path / 'song.txt', text.splitlines())
  output = tmp_path / 'out'
  run_example('cookbook.multiple_output_pardo', endpoint, '--input', source, '--output', str(output))
  words = collections.Counter(re.findall(r"[A-Za-z']+", text))
  short = {word: n for word, n in words.items() if len(word) <= 3}
  long_ = {word: n for word, n in words.items() if len(word) > 3}
  assert written('%s-chars' % output) == [str(sum(map(len, text.splitlines())))]
  assert written('%s-short-words' % output) == sorted('%s: %d' % item for item in short.items())
  assert written('%s-words' % output) == sorted('%s: %d' % item for item in long_.items())


def test_cookbook_mergecontacts(endpoint, tmp_path):
  email = {'Ann': ['ann@example.com', 'ann@home.example'], 'Bob': ['bob@example.com']}
  phone = {'Ann': ['1'], 'Cid': ['2', '3']}
  mail = {'Bob': ['Main Street 1'], 'Cid': ['Side Street 2']}
  arguments = []
  for flag, table in (('email', email), ('phone', phone), ('snailmail', mail)):
    arguments += ['--input_' + flag, write_lines(tmp_path / flag, [
        '%s\t%s' % (name, value) for name, values in table.items() for value in values])]
  tsv = tmp_path / 'tsv'
  # It compares its statistics itself: people without an e-mail address, a telephone, an address.
  mergecontacts.run(
      [*arguments, '--output_tsv', str(tsv), '--output_stats', str(tmp_path / 'never written'),
       *harness.portable_options(endpoint)],
      assert_results=(1, 1, 1), save_main_session=False)
  found = []
  for line in written(tsv):
    name, emails, phones, address = (cell.strip('"') for cell in line.split('\t'))
    found.append((name, sorted(filter(None, emails.split(','))),
                  sorted(filter(None, phones.split(','))), address))
  assert found == [
      (name, email.get(name, []), phone.get(name, []), mail.get(name, [''])[0])
      for name in ('Ann', 'Bob', 'Cid')]


def test_cookbook_custom_ptransform(endpoint, tmp_path):
  source = write_lines(tmp_path / 'in.txt', ['CAT', 'DOG', 'CAT', 'CAT', 'DOG'])
  output = tmp_path / 'out'
  run_example('cookbook.custom_ptransform', endpoint, '--input', source, '--output', str(output))
  # The example's third pipeline, which counts by two, writes last.
  assert written(output) == ["('CAT', 6)", "('DOG', 4)"]


def test_cookbook_filters(endpoint):
  """Its main program reads BigQuery, so the pipeline's middle part runs here on rows of ours."""
  rows = [{'year': 2010, 'month': month, 'day': 1, 'mean_temp': temperature}
          for month, temperature in ((7, 30), (7, 20), (1, 10), (7, 40))]
  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint)))
  cold = filters.filter_cold_days(pipeline | beam.Create(rows), month_filter=7)
  mean = sum(row['mean_temp'] for row in rows) / len(rows)
  harness.check(cold, [row for row in rows if row['month'] == 7 and row['mean_temp'] < mean])
  assert harness.checks_passed(harness.run_pipeline(pipeline)) == 1


@pytest.mark.parametrize('name', [
    name for name in dir(combiners_test.CombinersTest) if name.startswith('test_')])
def test_cookbook_combiners(name, endpoint, monkeypatch):
  """This example is a test of the SDK; its pipelines come here instead of the default runner."""
  ran = []

  class Here(combiners_test.TestPipeline):
    def __init__(self):
      super().__init__(options=PipelineOptions(harness.portable_options(endpoint)))

    def run(self, *arguments, **named):
      ran.append(super().run(*arguments, **named))
      return ran[-1]

  monkeypatch.setattr(combiners_test, 'TestPipeline', Here)
  getattr(combiners_test.CombinersTest(name), name)()
  result, = ran
  assert result.state == 'DONE'


def test_estimate_pi(endpoint, tmp_path):
  output = tmp_path / 'pi'
  run_example('complete.estimate_pi', endpoint, '--output', str(output))
  total, inside, pi = json.loads(written(output)[0])
  assert total == 10_000_000 and pi == 4 * inside / total
  assert abs(pi - math.pi) < 0.01
