"""The page that `make conformance` writes says what the results say, and nothing else."""

import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'conformance'))

import capabilities  # pylint: disable=wrong-import-position
import results  # pylint: disable=wrong-import-position


def row(test, outcome='pass', jobs=1, message=''):
  return results.Row('module_test::Class::' + test, outcome, 1.0, jobs, message)


@pytest.fixture
def world(tmp_path, monkeypatch):
  """world(features, excuses, {run: rows}) makes a Report of them."""
  monkeypatch.setattr(capabilities, 'HERE', tmp_path)

  def make(features, excuses, ran):
    (tmp_path / 'features.tsv').write_text(''.join(
        'group\t%s\tY\tN\tP\t?\tY\t%s\n' % (name, proof) for name, proof in features))
    (tmp_path / 'excused.tsv').write_text(''.join('\t'.join(one) + '\n' for one in excuses))
    for run, rows in ran.items():
      (tmp_path / 'results' / run).mkdir(parents=True)
      results.write(tmp_path / 'results' / run / 'results.tsv', rows)
    return capabilities.Report(tmp_path / 'results')

  return make


def states(report):
  return {one['feature']: report.state(one)[0] for one in capabilities.features()}


def test_a_feature_is_there_if_all_its_tests_passed(world):
  report = world([
      ('good', 'time::test_one core::test_two'), ('bad', 'time::test_one core::test_three'),
      ('refused', 'core::test_four'), ('elsewhere', 'time::test_one examples::test_one'),
      ('unproved', ''), ('absent', 'no: it is refused')], [], {
          'time': [row('test_one')],
          'core': [row('test_two'), row('test_three', 'fail'), row('test_four', 'refused')]
      })
  assert states(report) == {
      'good': 'yes', 'bad': '**no**', 'refused': '**no**', 'elsewhere': 'not run',
      'unproved': 'no test', 'absent': 'no'}


def test_all_parameters_of_a_proof_count(world):
  report = world([('some', 'sdk::test_x.py::test_y')], [], {
      'sdk': [results.Row('test_x.py::test_y[1]', 'pass', 1.0, -1, ''),
              results.Row('test_x.py::test_y[2]', 'fail', 1.0, -1, '')]
  })
  assert states(report) == {'some': '**no**'}


def test_a_proof_that_is_not_there_is_an_error(world):
  report = world([('some', 'time::test_gone')], [], {'time': [row('test_one')]})
  with pytest.raises(capabilities.DataError, match='test_gone'):
    list(report.page())


def test_excuses(world):
  report = world([], [('time', 'test_one', 'the oracle is wrong'), ('time', 'test_two', 'as well')], {
      'time': [row('test_one', 'fail'), row('test_two'), row('test_three', 'timeout', message='why')]
  })
  assert [(run, one.test) for run, one in report.owed(['time'])] == [
      ('time', 'module_test::Class::test_three')]
  excused = '\n'.join(report.excuse_table())
  assert '| `test_one` | time | **failed** | the oracle is wrong |' in excused
  assert '| `test_two` | time | ok | as well |' in excused
  line, = [line for line in report.summary(['time']) if '`time`' in line]
  # reached, passed, failed, hung, refused, excused, skipped
  assert [cell.strip() for cell in line.split('|')[2:9]] == ['3', '1', '0', '1', '0', '1', '0']


def test_an_excuse_without_a_test_is_an_error(world):
  with pytest.raises(capabilities.DataError, match='test_gone'):
    world([], [('time', 'test_gone', 'why')], {'time': [row('test_one')]})


def test_the_proofs_of_this_folder_are_there():
  found = subprocess.run(
      [sys.executable, '-m', 'pytest', '-c', str(HERE / 'pytest.ini'), '--collect-only',
       str(HERE)], capture_output=True, text=True, timeout=200, check=True).stdout
  there = {line.rsplit('/', 1)[-1] for line in found.splitlines() if '::' in line}
  there |= {test.split('[')[0] for test in there}
  assert capabilities.sdk_tests(), 'no proofs at all'
  assert [test for test in capabilities.sdk_tests() if test not in there] == []


def test_the_data_files_can_be_read():
  for feature in capabilities.features():
    capabilities.proofs(feature)
    assert all(feature[peer] in capabilities.WORDS for peer in capabilities.OTHERS), feature
  names = [feature['group'] + feature['feature'] for feature in capabilities.features()]
  assert len(names) == len(set(names))
