#!/usr/bin/env python3
"""Writes docs/capabilities.md from what is in the results folder; `run.py` calls it.

features.tsv says which tests prove a feature, excused.tsv which oracles are not met for what reason.
Nothing on the page is typed in: a feature is there if the tests that prove it passed.
"""

import collections
import json
import pathlib

import results
import runs

HERE = pathlib.Path(__file__).resolve().parent
PEERS = collections.OrderedDict([('prism', 'Prism 2.77'), ('flink262', 'Flink 1.19 (Beam 2.62)')])
MARKS = {
    'pass': 'ok', 'fail': '**failed**', 'refused': 'refused', 'error': '**error**',
    'timeout': '**hung**', 'crash': '**crashed**', 'skip': 'skipped', 'xfail': 'skipped',
    'xpass': 'ok', 'excused': 'excused'
}
# What a test asks for beyond stateless batch pipelines, by the features of what it submits.
NEEDS = collections.OrderedDict([
    ('state', lambda f: f.startswith('state:') or f == 'requirement:pardo:stateful:v1'),
    ('timers', lambda f: f.startswith('timer:')),
    ('triggers', lambda f: f.startswith('trigger:') and f not in (
        'trigger:default', 'trigger:always', 'trigger:never')),
    ('TestStream', lambda f: f.startswith(('teststream:', 't:teststream'))),
    ('unbounded', lambda f: f == 'unbounded'),
])
OTHERS = collections.OrderedDict([
    ('prism', 'Prism'), ('fnapi', 'FnApiRunner'), ('flink', 'Flink'), ('spark', 'Spark'),
    ('dataflow', 'Dataflow')])
FEATURE_COLUMNS = ['group', 'feature', *OTHERS, 'proof']
EXCUSE_COLUMNS = ['runs', 'test', 'reason']
WORDS = {'Y': 'yes', 'P': 'partly', 'N': 'no', '?': '?'}
# The name under which tests of this repository (tests/sdk) are proofs.
SDK = 'sdk'
# In place of proofs: the feature is not there, and why.
ABSENT = 'no:'


class DataError(Exception):
  """features.tsv or excused.tsv speak of what is not there."""


def features():
  return results.read_table(HERE / 'features.tsv', FEATURE_COLUMNS)


def proofs(feature):
  """[(run, test)] of one row of features.tsv."""
  text = feature['proof']
  if not text or text.startswith(ABSENT):
    return []
  found = []
  for proof in text.split():
    run, separator, test = proof.partition('::')
    if not separator or run not in (SDK, *runs.RUNS):
      raise DataError('features.tsv, %s: the proof %r is not of the form RUN::TEST' % (
          feature['feature'], proof))
    found.append((run, test))
  return found


def sdk_tests():
  """The tests of tests/sdk that prove something, as pytest names them."""
  return sorted({test for one in features() for run, test in proofs(one) if run == SDK})


def _json(path):
  return json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}


class Result:
  """What one run left; `rows` is empty if it has not been run."""
  def __init__(self, folder, name):
    self.name = name
    self.rows = results.read(folder / name / 'results.tsv')
    self.features = results.read_features(folder / name / 'features.tsv')
    self.about = _json(folder / name / 'run.json')
    self.stopped = _json(folder / name / 'summary.json').get('stopped', '')

  def find_all(self, test, who):
    """The Rows of a test and, of one in tests/sdk without [parameters], of all its parameters; empty
    if this was not run, or not to its end."""
    if self.name == SDK and '[' not in test:
      rows = [row for name, row in self.rows.items() if name.split('[')[0] == test]
      if rows:
        return rows
    row = self.find(test, who)
    return [row] if row else []

  def find(self, test, who):
    """The test's Row; None if this was not run, or not to its end."""
    try:
      row = results.find(self.rows, test)
    except ValueError as e:
      raise DataError('%s: %s' % (who, e)) from e
    if row is None and self.rows and not self.stopped:
      raise DataError('%s: no test %s in %s' % (who, test, self.name))
    return row


class Report:
  def __init__(self, folder):
    folder = pathlib.Path(folder)
    self.runs = collections.OrderedDict((name, Result(folder, name)) for name in runs.RUNS)
    self.sdk = Result(folder, SDK)
    self.peers = {
        peer: {name: results.read(HERE / 'peers' / ('%s-%s.tsv' % (peer, name)))
               for name in runs.RUNS} for peer in PEERS
    }
    self.excuses = results.read_table(HERE / 'excused.tsv', EXCUSE_COLUMNS)
    self.excused = self._excused()

  def _excused(self):
    """{(run, test id): reason}, of those that were run."""
    found = {}
    for excuse in self.excuses:
      for run in excuse['runs'].split():
        if run not in self.runs:
          raise DataError('excused.tsv, %s: there is no run %s' % (excuse['test'], run))
        row = self.runs[run].find(excuse['test'], 'excused.tsv')
        if row:
          found[run, row.test] = excuse['reason']
    return found

  def outcome(self, run, row):
    """As the suites count it, and `excused` for what did not pass and need not."""
    good = row.outcome in results.PASSED + results.SKIPPED
    return row.outcome if good or (run, row.test) not in self.excused else 'excused'

  def counts(self, run):
    """({outcome: how many}, how many reached the runner)."""
    rows = self.runs[run].rows.values()
    outcomes = collections.Counter()
    for row in rows:
      if results.reached(row) or row.outcome not in results.PASSED:
        outcomes[self.outcome(run, row)] += 1
    return outcomes, sum(map(results.reached, rows))

  def owed(self, names):
    """[(run, Row)] of what should have passed in these runs, and did not."""
    good = results.PASSED + results.SKIPPED + ('excused',)
    return [(name, row) for name in names
            for row in (self.sdk if name == SDK else self.runs[name]).rows.values()
            if self.outcome(name, row) not in good]

  def summary(self, names):
    yield '| suite | reached Beamline | passed | failed | hung | refused | excused | skipped by the SDK | ' + (
        ' | '.join(PEERS.values()) + ' |')
    yield '|---|--:|--:|--:|--:|--:|--:|--:|' + '--:|' * len(PEERS)
    for name in names:
      outcomes, reached = self.counts(name)
      peers = []
      for rows in (self.peers[peer][name].values() for peer in PEERS):
        asked = [row for row in rows if results.reached(row)]
        peers.append('%d of %d' % (
            sum(r.outcome in results.PASSED for r in asked), len(asked)) if asked else '–')
      label = '`%s`: %s' % (name, runs.RUNS[name].about)
      if not self.runs[name].rows:
        cells = ['not run'] + [''] * 6
      else:
        if self.runs[name].stopped:
          label += ' (%s)' % self.runs[name].stopped
        cells = [
            reached, sum(outcomes[o] for o in results.PASSED),
            sum(outcomes[o] for o in ('fail', 'error', 'crash')), outcomes['timeout'],
            outcomes['refused'], outcomes['excused'], sum(outcomes[o] for o in results.SKIPPED)]
      yield '| %s | %s | %s |' % (label, ' | '.join(map(str, cells)), ' | '.join(peers))

  def state(self, feature):
    """Beamline's cell of a feature, and the cell that says why."""
    text = feature['proof']
    if text.startswith(ABSENT):
      return 'no', escaped(text[len(ABSENT):].strip())
    if not text:
      return 'no test', ''
    told, outcomes = [], []
    for run, test in proofs(feature):
      of = self.sdk if run == SDK else self.runs[run]
      rows = of.find_all(test, 'features.tsv, ' + feature['feature'])
      bad = [row.outcome for row in rows if row.outcome not in results.PASSED]
      outcomes.append('not run' if not rows else 'no' if bad else 'yes')
      note = ' (%s)' % MARKS[bad[0]].strip('*') if bad else '' if rows else ' (not run)'
      told.append('`%s::%s`%s' % (run, short(test), note))
    worst = next(o for o in ('no', 'not run', 'yes') if o in outcomes)
    return ('**no**' if worst == 'no' else worst), ', '.join(told)

  def feature_tables(self):
    groups = collections.OrderedDict()
    for feature in features():
      groups.setdefault(feature['group'], []).append(feature)
    for group, some in groups.items():
      yield ''
      yield '### ' + group
      yield ''
      yield '| feature | Beamline | %s | the tests, or why not |' % ' | '.join(OTHERS.values())
      yield '|---|---|' + '---|' * len(OTHERS) + '---|'
      for feature in some:
        state, told = self.state(feature)
        others = [WORDS[feature[peer]] for peer in OTHERS]
        yield '| %s | %s | %s | %s |' % (escaped(feature['feature']), state, ' | '.join(others), told)

  def feature_counts(self):
    return collections.Counter(self.state(feature)[0].strip('*') for feature in features())

  def excuse_table(self):
    yield '| test | in | now | why it is excused |'
    yield '|---|---|---|---|'
    for excuse in self.excuses:
      named, now = excuse['runs'].split(), []
      for run in named:
        row = self.runs[run].find(excuse['test'], 'excused.tsv')
        now.append(MARKS[row.outcome] if row else 'not run')
      if len(set(now)) == 1:
        now = now[:1]
      yield '| `%s` | %s | %s | %s |' % (
          excuse['test'], ', '.join(named), ', '.join(now), escaped(excuse['reason']))

  def failures(self, names):
    """Each test that did not pass, once, with all runs in which it ended in the same way."""
    found = collections.OrderedDict()
    for run, row in self.owed(names):
      key = row.test.split('::', 1)[1].split('::')[-1], row.outcome, shortened(row.message)
      found.setdefault(key, (row.test, []))[1].append(run)
    yield '| test | in | outcome | what was said |'
    yield '|---|---|---|---|'
    for (name, outcome, message), (test, where) in found.items():
      shown = name if len(where) > 1 else '::'.join(test.split('::')[-2:])
      yield '| `%s` | %s | %s | %s |' % (shown, ', '.join(where), MARKS[outcome], escaped(message))

  def portable_table(self):
    """PortableRunnerTest, test by test."""
    mine = [*runs.WAYS, *runs.VARIANTS]
    columns = [(name, self.runs[name].rows, 'Beamline ' + runs.RUNS[name].about) for name in mine]
    for peer, label in PEERS.items():
      columns += [(None, self.peers[peer][way], '%s %s' % (label.split(' ')[0], run.about))
                  for way, run in runs.WAYS.items() if self.peers[peer][way]]
    columns = [
        (run, {row.test.split('::')[-1]: row for row in rows.values()}, label)
        for run, rows, label in columns]
    needs = collections.defaultdict(set)
    for name in mine:
      for test, some in self.runs[name].features.items():
        needs[test.split('::')[-1]] |= some
    # What the SDK skips for every runner has no row.
    tests = sorted({test for run, rows, _ in columns if run for test, row in rows.items()
                    if results.reached(row) or row.outcome not in results.SKIPPED})
    yield '| test | needs | ' + ' | '.join(label for _, _, label in columns) + ' |'
    yield '|---|---|' + '---|' * len(columns)
    for test in tests:
      cells = [self.mark(run, rows.get(test)) for run, rows, _ in columns]
      some = [n for n, needed in NEEDS.items() if any(needed(f) for f in needs[test])]
      yield '| %s | %s | %s |' % (test, ', '.join(some), ' | '.join(cells))

  def mark(self, run, row):
    if row is None:
      return '–'
    return MARKS[row.outcome if run is None else self.outcome(run, row)]

  def told_by(self):
    """Which program was asked, and when; several, if the suites were not run together."""
    said = collections.OrderedDict()
    for result in [*self.runs.values(), self.sdk]:
      about = result.about
      if result.rows:
        key = (about.get('commit', '?'), about.get('date', '?'), about.get('cores', '?'),
               about.get('beam_version', '?'))
        said.setdefault(key, []).append(result.name)
    for (commit, date, cores, beam), names in said.items():
      of = 'All of it' if len(said) == 1 else ', '.join('`%s`' % n for n in names)
      yield '- %s: commit %s, %s, a machine with %s cores, Beam Python SDK %s.' % (
          of, commit, date, cores, beam)

  def page(self):
    counted = self.feature_counts()
    yield from (
        '# What Beamline runs', '',
        'Written by `make conformance` from the results of the tests it ran. Do not edit: run the '
        'command again.', '', *self.told_by(), '', '## The suites', '',
        'The tests are the SDK\'s own. `portable` is its `PortableRunnerTest`, submitted as the '
        'client does it (batch), with `--streaming`, with the client\'s optimizer off '
        '(`pre_optimize=none`), and with all of it but fusion (`all_except_fusion`). A test is '
        '*refused* if Prepare names what Beamline cannot run yet; *excused* if it did not pass '
        'because of what is listed [below](#excused). A test that submits nothing is '
        'counted only if it fails. The peers\' columns are from runs of the same suites over '
        'LOOPBACK: passed, of those that reached them.', '', *self.summary(runs.RUNS), '',
        '## Features', '',
        '*yes*: all the tests named in the row passed in this run. *no* in bold: one of them did '
        'not. *no test*: nothing here shows it, so nothing is said. The other columns are what is '
        'known of other runners from their code, documents and the runs above. Of %d features: '
        '%s.' % (sum(counted.values()), ', '.join('%d %s' % (n, s) for s, n in counted.most_common())),
        *self.feature_tables(), '', '## Excused', '', *self.excuse_table(), '',
        '## What did not pass', '')
    failures = list(self.failures(runs.RUNS))
    yield from failures if len(failures) > 2 else ['Nothing.']
    yield from ('', '## PortableRunnerTest, test by test', '', *self.portable_table())


def short(test):
  """As it is shown: what tells it from others of its run."""
  return test.replace('test_pipelines.py::test_pipeline', '')


def shortened(message, most=240):
  text = ' '.join(message.split())
  return text if len(text) <= most else text[:most] + '…'


def escaped(text):
  return text.replace('|', '\\|')


def report(folder, page, names):
  """Prints the figures of the runs `names`, writes the page (if a path is given); returns the exit
  status: 1 if something did not pass that is not excused.

  Raises DataError if features.tsv or excused.tsv name a test that is not there."""
  made = Report(folder)
  lines = list(made.page())
  print('\n'.join(made.summary([name for name in names if name != SDK])))
  if page:
    page = pathlib.Path(page)
    page.parent.mkdir(exist_ok=True)
    page.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    print('written:', page)
  owed = made.owed(names)
  for run, row in owed:
    print('OWED %s %s %s %s' % (row.outcome, run, row.test, shortened(row.message, 160)))
  return 1 if owed else 0
