"""More data than the server may have in memory."""


import apache_beam as beam
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

import harness
import many_values
import test_matrix
import wire
from beamline_server import BeamlineServer
from conftest import BINARY
from test_matrix import prepared, threads  # pylint: disable=unused-import


@pytest.fixture(scope='module')
def little_memory(tmp_path_factory):
  """A server with 8 MiB for the data of jobs."""
  folder = tmp_path_factory.mktemp('little_memory')
  spill = folder / 'spill'
  args = ['--memory-limit', '8MiB', '--spill-dir', str(spill)]
  with BeamlineServer(BINARY, args, log=str(folder / 'server.log')) as server:
    yield server
    assert server.alive(), server.log_tail()
    assert not list(spill.iterdir()), 'files have no names'


def counters(result):
  found = result.metrics().query(MetricsFilter().with_namespace('memory'))['counters']
  return {counter.key.metric.name: counter.committed for counter in found}


def test_ten_times_the_memory(little_memory):
  keys, values, size = 8_000, 10, 1_000
  options = PipelineOptions(harness.portable_options(little_memory.endpoint))
  with beam.Pipeline(options=options) as pipeline:
    _ = (
        pipeline
        | beam.Create(range(keys))
        | beam.FlatMap(many_values.of_key, values, size)
        | beam.GroupByKey()
        | beam.ParDo(many_values.CountGroups()))
  assert keys * values * size == 80_000_000
  assert counters(pipeline.result) == {'groups': keys, 'values': keys * values}


@pytest.mark.parametrize('environment', ['LOOPBACK', 'EXTERNAL'])
def test_hot_key_is_read_twice(environment, little_memory, external):
  values, size, block = 40_000, 1_000, 1_000
  chosen = external if environment == 'EXTERNAL' else (environment, None)

  options = PipelineOptions(harness.portable_options(little_memory.endpoint, chosen))
  with beam.Pipeline(options=options) as pipeline:
    groups = (
        pipeline
        | beam.Create(range(0, values, block))
        | beam.FlatMap(many_values.of_hot_key, block, size)
        | beam.GroupByKey()
        | beam.ParDo(many_values.TwiceOverValues()))
    hot = groups | 'Hot' >> beam.Filter(lambda group: group[0] == 'hot')
    cold = groups | 'Cold' >> beam.Filter(lambda group: group[0] != 'hot')
    harness.check(
        hot, [('hot', '_ConcatSequence', values, sum(range(values)))], label='CheckHot')
    harness.check(
        cold, [('cold %d' % n, 'list', 1, n) for n in range(0, values, block)], label='CheckCold')


@pytest.fixture(scope='module')
def hardly_any_memory(tmp_path_factory):
  """A server whose every GroupByKey has more than fits in memory."""
  folder = tmp_path_factory.mktemp('hardly_any_memory')
  args = ['--memory-limit', '2KiB', '--spill-dir', str(folder / 'spill')]
  with BeamlineServer(BINARY, args, log=str(folder / 'server.log')) as server:
    yield server
    assert server.alive(), server.log_tail()


@pytest.fixture
def spilling(hardly_any_memory):
  with wire.job_service(hardly_any_memory.endpoint) as service:
    yield service


@test_matrix.modules
@pytest.mark.parametrize('options', [{}, {'bundle_size': 'key', **test_matrix.FAIL_FIRST}])
def test_all_spilled(options, group, spilling, threads, prepared):
  """The matrix once more: what is read from disk is what was written."""
  prepared(group, threads).run(spilling, **options)


def test_folder_that_is_none(tmp_path):
  file = tmp_path / 'file'
  file.write_text('')
  server = BeamlineServer(BINARY, ['--spill-dir', str(file)], log=str(tmp_path / 'server.log'))
  with pytest.raises(Exception, match='--spill-dir'):
    server.start()
