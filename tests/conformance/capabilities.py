#!/usr/bin/env python3
"""Writes docs/capabilities.md from the results of the portable suites; `run.py` calls it.

    python tests/conformance/capabilities.py tests/conformance/results/loopback docs/capabilities.md
"""

import collections
import csv
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
# How PortableRunnerTest is submitted, and what the column is called.
WAYS = collections.OrderedDict([
    ('portable', 'batch'), ('portable-streaming', 'streaming'),
    ('portable-unoptimized', 'unoptimized'), ('portable-optimized', 'optimized')])
PEERS = collections.OrderedDict([('prism', 'Prism 2.77'), ('flink262', 'Flink 1.19 (Beam 2.62)')])
MARKS = {
    'pass': 'ok', 'fail': '**failed**', 'refused': 'refused', 'error': '**error**',
    'timeout': '**hung**', 'crash': '**crashed**', 'skip': 'skipped', 'xfail': 'skipped',
    'xpass': 'ok'
}
# What the engine does not run yet, by a predicate on the features of a submitted pipeline. A test
# that needs one of these may be refused at Prepare; every other test must pass.
NEEDS = collections.OrderedDict([
    ('state', lambda f: f.startswith('state:') or f == 'requirement:pardo:stateful:v1'),
    ('timers', lambda f: f.startswith('timer:')),
    ('triggers', lambda f: f.startswith('trigger:') and f not in (
        'trigger:default', 'trigger:always', 'trigger:never')),
    ('TestStream', lambda f: f.startswith(('teststream:', 't:teststream'))),
    ('unbounded', lambda f: f == 'unbounded'),
])

# Not owed: what the test asserts cannot hold on this way of submitting.
BY_DESIGN = {
    ('portable-unoptimized', 'test_pack_combiners'):
        'looks for counters of the step that the client\'s combiner packing makes, and this way of '
        'submitting turns that off',
}

Row = collections.namedtuple('Row', 'outcome seconds jobs message')


def read_results(path):
  """{test: Row} of a results.tsv; empty if the suite was not run."""
  rows = {}
  if path.exists():
    with open(path, encoding='utf-8', newline='') as f:
      for cells in csv.reader(f, delimiter='\t', quoting=csv.QUOTE_NONE):
        message = cells[4] if len(cells) > 4 else ''
        rows[cells[0].rsplit('::', 1)[1]] = Row(cells[1], float(cells[2]), int(cells[3]), message)
  return rows


def read_features(folders):
  """{test: set of features}, over all ways of submitting."""
  features = collections.defaultdict(set)
  for folder in folders:
    path = folder / 'features.tsv'
    if path.exists():
      with open(path, encoding='utf-8') as f:
        for line in f:
          test, _, names = line.rstrip('\n').split('\t')
          features[test.rsplit('::', 1)[1]].update(names.split())
  return features


def needs_of(features):
  return [name for name, needed in NEEDS.items() if any(needed(f) for f in features)]


def counts(rows):
  """(passed, reached the runner) as the suites count them: a skipped test reaches nobody."""
  reached = [r for r in rows.values() if r.jobs != 0]
  return sum(r.outcome == 'pass' for r in reached), len(reached)


class Report:
  def __init__(self, folder):
    self.mine = {way: read_results(folder / way / 'results.tsv') for way in WAYS}
    self.peers = {
        peer: {way: read_results(HERE / 'peers' / ('%s-%s.tsv' % (peer, way))) for way in WAYS}
        for peer in PEERS
    }
    self.features = read_features([folder / way for way in WAYS])
    with open(folder / 'run.json', encoding='utf-8') as f:
      self.run = json.load(f)
    # Skipped by the SDK for every runner: no row.
    self.tests = sorted({
        test for rows in self.mine.values() for test, row in rows.items()
        if row.jobs != 0 or row.outcome not in ('skip', 'xfail')
    })

  def owed(self):
    """[(way, test, outcome, message)] of what should have passed, and did not."""
    found = []
    for way, rows in self.mine.items():
      for test, row in sorted(rows.items()):
        excused = (way, test) in BY_DESIGN or (
            row.outcome == 'refused' and needs_of(self.features[test]))
        if row.outcome not in ('pass', 'skip', 'xfail', 'xpass') and not excused:
          found.append((way, test, row.outcome, row.message))
    return found

  def summary(self):
    yield '| submitted as | Beamline passes | refused | owed | ' + (
        ' | '.join(PEERS.values()) + ' |')
    yield '|---|--:|--:|--:|' + '--:|' * len(PEERS)
    owed = collections.Counter(way for way, *_ in self.owed())
    for way, name in WAYS.items():
      passed, reached = counts(self.mine[way])
      refused = sum(r.outcome == 'refused' for r in self.mine[way].values())
      peers = []
      for rows in self.peers.values():
        peers.append('%d of %d' % counts(rows[way]) if rows[way] else '–')
      yield '| %s (`%s`) | %d of %d | %d | %d | %s |' % (
          name, way, passed, reached, refused, owed[way], ' | '.join(peers))

  def table(self):
    columns = [(self.mine[way], 'Beamline ' + name) for way, name in WAYS.items()]
    for peer, label in PEERS.items():
      columns += [(self.peers[peer][way], '%s %s' % (label.split(' ')[0], name))
                  for way, name in WAYS.items() if self.peers[peer][way]]
    yield '| test | needs | ' + ' | '.join(label for _, label in columns) + ' |'
    yield '|---|---|' + '---|' * len(columns)
    for test in self.tests:
      cells = [MARKS[rows[test].outcome] if test in rows else '–' for rows, _ in columns]
      yield '| %s | %s | %s |' % (
          test, ', '.join(needs_of(self.features[test])), ' | '.join(cells))

  def refusals(self):
    said = collections.OrderedDict()
    for rows in self.mine.values():
      for test, row in sorted(rows.items()):
        if row.outcome == 'refused':
          said.setdefault(test, row.message)
    for test, message in said.items():
      yield '- `%s`: %s' % (test, ' '.join(message.split()).replace('|', '\\|'))

  def page(self):
    run = self.run
    yield '# What Beamline runs'
    yield ''
    yield (
        'Written by `%s` on %s, on a machine with %s cores, against Beam Python SDK %s over '
        'LOOPBACK. Do not edit: run the command again.' %
        (run['command'], run['date'], run['cores'], run['beam_version']))
    yield ''
    yield (
        'The tests are the SDK\'s own `PortableRunnerTest`, submitted in four ways: as the client '
        'does it (batch), with `--streaming`, with the client\'s optimizer off '
        '(`pre_optimize=none`), and with all of it but fusion (`all_except_fusion`). A test is '
        '*refused* if Prepare names what Beamline cannot run yet; *needs* says what the test asks '
        'for beyond bounded pipelines; *owed* counts the failures that have no such excuse. The peers\' columns are from runs of the same suite.')
    yield ''
    yield from self.summary()
    for (way, test), reason in BY_DESIGN.items():
      if test in self.mine[way] and self.mine[way][test].outcome != 'pass':
        yield ''
        yield '`%s` cannot pass as `%s`: it %s.' % (test, way, reason)
    yield ''
    yield '## Test by test'
    yield ''
    yield from self.table()
    refusals = list(self.refusals())
    if refusals:
      yield ''
      yield '## What Prepare says'
      yield ''
      yield from refusals


def report(folder, page):
  """Prints the summary, writes the page (if a path is given); returns the exit status."""
  made = Report(pathlib.Path(folder))
  print('\n'.join(made.summary()))
  if page:
    page = pathlib.Path(page)
    page.parent.mkdir(exist_ok=True)
    page.write_text('\n'.join(made.page()) + '\n', encoding='utf-8')
    print('written:', page)
  owed = made.owed()
  for way, test, outcome, message in owed:
    print('OWED %s %s::%s %s' % (outcome, way, test, message[:200]))
  return 1 if owed else 0


if __name__ == '__main__':
  if len(sys.argv) != 3:
    sys.exit(__doc__)
  sys.exit(report(sys.argv[1], sys.argv[2]))
