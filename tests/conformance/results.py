"""What suites left behind: reads results.tsv and features.tsv, and finds tests in them by name."""

import collections
import csv
import pathlib

# `jobs` is how many pipelines the test submitted; -1: not counted.
Row = collections.namedtuple('Row', 'test outcome seconds jobs message')

PASSED = ('pass', 'xpass')
# The SDK's own decision, e.g. by a decorator: no runner is asked anything.
SKIPPED = ('skip', 'xfail')


def read(path):
  """{test id: Row} of a results.tsv; empty if there is none."""
  rows = {}
  path = pathlib.Path(path)
  if path.exists():
    with open(path, encoding='utf-8', newline='') as f:
      for cells in csv.reader(f, delimiter='\t', quoting=csv.QUOTE_NONE):
        message = cells[4] if len(cells) > 4 else ''
        rows[cells[0]] = Row(cells[0], cells[1], float(cells[2]), int(cells[3]), message)
  return rows


def write(path, rows):
  with open(path, 'w', encoding='utf-8') as f:
    for row in rows:
      f.write('%s\t%s\t%.2f\t%d\t%s\n' % (
          row.test, row.outcome, row.seconds, row.jobs, ' '.join(row.message.split())[:600]))


def read_features(path):
  """{test id: set of features} of a features.tsv."""
  found = collections.defaultdict(set)
  path = pathlib.Path(path)
  if path.exists():
    with open(path, encoding='utf-8') as f:
      for line in f:
        test, _, names = line.rstrip('\n').split('\t')
        found[test].update(names.split())
  return found


def reached(row):
  """Whether the runner was asked anything. -1: the test was ended before it could be counted."""
  return row.jobs != 0


def find(rows, name):
  """The Row of the test whose id is, or ends with, `name` (`test_x`, `module::Class::test_x`); None if
  there is none. Raises ValueError if there are several."""
  if name in rows:
    return rows[name]
  found = [row for test, row in rows.items() if test.endswith(('::' + name, '.' + name))]
  if len(found) > 1:
    raise ValueError('%s is the name of %d tests: %s' % (
        name, len(found), ', '.join(row.test for row in found)))
  return found[0] if found else None


def read_table(path, columns):
  """The rows of a tab-separated data file as dicts. Empty lines and those with # are left out.
  Raises ValueError for a row with more or fewer cells than `columns`."""
  rows = []
  with open(path, encoding='utf-8') as f:
    for number, line in enumerate(f, 1):
      line = line.rstrip('\n')
      if not line or line.startswith('#'):
        continue
      cells = [cell.strip() for cell in line.split('\t')]
      if len(cells) != len(columns):
        raise ValueError('%s, line %d: %d cells, not the %d of %s' % (
            path, number, len(cells), len(columns), ' '.join(columns)))
      rows.append(dict(zip(columns, cells)))
  return rows


STATES = ('passed', 'failed', 'hung', 'skipped')


def states_table(runners, results):
  """Lines of a table of how many tests of each runner ended how. `results`: (state, what was said), by (runner, test)."""
  lines = ['| runner | passed | failed | hung | skipped by itself |', '|---|--:|--:|--:|--:|']
  for runner in runners:
    of = [state for (ran_on, _), (state, _) in results.items() if ran_on == runner]
    lines.append('| %s | %s |' % (runner, ' | '.join(str(of.count(state)) for state in STATES)))
  return lines
