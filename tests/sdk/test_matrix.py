"""The same pipelines give the same results under every bundle size, parallelism and fault.

The cases of one module make one job, so that many combinations fit in a short time; with more than
one worker, half of them all make one job, because starting worker processes takes longer than the
job. (The metrics of all of them would be more than the 4 MB that a client takes in one answer.)
"""

import itertools

import pytest
from apache_beam.runners.worker import worker_pool_main

import cases  # pylint: disable=unused-import
import harness
import wire

MATRIX = [one for one in harness.CASES.values() if one.matrix]
GROUPS = {
    name.rsplit('.', 1)[1]: list(group)
    for name, group in itertools.groupby(MATRIX, key=lambda one: one.build.__module__)
}
MODULES = list(GROUPS)
HALVES = ['one half', 'other half']
GROUPS.update(zip(HALVES, (MATRIX[::2], MATRIX[1::2])))
# The default size is that of test_pipelines.py.
BUNDLE_SIZES = ('element', 'key', 'unbounded')
FAIL_FIRST = {'inject_bundle_failures': 'first_attempt'}
STATE_CACHE_BYTES = 100 << 20  # as LOOPBACK


@pytest.fixture
def stub(endpoint):
  with wire.job_service(endpoint) as service:
    yield service


@pytest.fixture(scope='module')
def threads():
  """A worker pool whose workers are threads of this process: what LOOPBACK starts for each job."""
  address, pool = worker_pool_main.BeamFnExternalWorkerPoolServicer.start(
      state_cache_size=STATE_CACHE_BYTES, data_buffer_time_limit_ms=0)
  yield 'EXTERNAL', address
  pool.stop(1)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """prepared(group, environment, phases): the group as a proto, made at the first call."""
  made = {}

  def prepare(group, environment, phases='default'):
    key = group, environment, phases
    if key not in made:
      arguments = harness.portable_options(
          'unused', environment, ['--experiments=pre_optimize=' + phases])
      made[key] = harness.PreparedCases(GROUPS[group], arguments, tmp_path_factory.mktemp(group))
    return made[key]

  return prepare


def modules(test):
  return pytest.mark.parametrize('group', MODULES)(test)


@modules
@pytest.mark.parametrize('size', BUNDLE_SIZES)
def test_bundle_sizes(size, group, stub, threads, prepared):
  prepared(group, threads).run(stub, bundle_size=size)


@modules
@pytest.mark.parametrize('size', ('element', 'default'))
def test_first_attempts_fail(size, group, stub, threads, prepared):
  prepared(group, threads).run(stub, bundle_size=size, **FAIL_FIRST)


@modules
@pytest.mark.parametrize('phases', ('none', 'all_except_fusion'))
def test_client_optimizers(phases, group, stub, threads, prepared):
  """What the client's optimizer does (combiner lifting, SDF expansion, …) the runner does as well."""
  prepared(group, threads, phases).run(stub)


@pytest.mark.parametrize('half', HALVES)
@pytest.mark.parametrize('workers,options', [
    (1, {}), (4, {'bundle_size': 'element'}), (4, {'bundle_size': 'key', **FAIL_FIRST})])
def test_workers(workers, options, half, stub, external, prepared):
  prepared(half, external).run(stub, sdk_worker_parallelism=str(workers), **options)
