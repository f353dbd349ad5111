"""The same pipelines give the same results under every bundle size, parallelism and fault.

The cases of one module make one job, so that many combinations fit in a short time; with more than
one worker, all of them make one job, because starting worker processes takes longer than the job.
"""

import itertools

import pytest

import cases  # pylint: disable=unused-import
import harness

MATRIX = [one for one in harness.CASES.values() if one.matrix]
GROUPS = {
    name.rsplit('.', 1)[1]: list(group)
    for name, group in itertools.groupby(MATRIX, key=lambda one: one.build.__module__)
}
BUNDLE_SIZES = ('element', 'key', 'default', 'unbounded')


def run(group, endpoint, tmp_path, extra, environment=('LOOPBACK', None)):
  return harness.run_cases(
      group, harness.portable_options(endpoint, environment, extra), tmp_path)


@pytest.mark.parametrize('group', GROUPS)
@pytest.mark.parametrize('size', BUNDLE_SIZES)
def test_bundle_sizes(size, group, endpoint, tmp_path):
  run(GROUPS[group], endpoint, tmp_path, ['--bundle_size=' + size])


@pytest.mark.parametrize('group', GROUPS)
@pytest.mark.parametrize('size', ('element', 'default'))
def test_first_attempts_fail(size, group, endpoint, tmp_path):
  run(GROUPS[group], endpoint, tmp_path,
      ['--bundle_size=' + size, '--inject_bundle_failures=first_attempt'])


@pytest.mark.parametrize('group', GROUPS)
@pytest.mark.parametrize('phases', ('none', 'all_except_fusion'))
def test_client_optimizers(phases, group, endpoint, tmp_path):
  """What the client's optimizer does (combiner lifting, SDF expansion, …) the runner does as well."""
  run(GROUPS[group], endpoint, tmp_path, ['--experiments=pre_optimize=' + phases])


@pytest.mark.parametrize('workers,extra', [
    (1, []), (4, []), (4, ['--bundle_size=element']),
    (4, ['--bundle_size=key', '--inject_bundle_failures=first_attempt']),
])
def test_workers(workers, extra, endpoint, external, tmp_path):
  run(MATRIX, endpoint, tmp_path, ['--sdk_workers=%d' % workers, *extra], external)
