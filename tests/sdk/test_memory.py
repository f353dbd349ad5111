"""More data than the server may have in memory."""


import apache_beam as beam
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, Sessions, TimestampedValue

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


ACCUMULATING = trigger.AccumulationMode.ACCUMULATING
DISCARDING = trigger.AccumulationMode.DISCARDING


def _told(element, window=beam.DoFn.WindowParam, pane=beam.DoFn.PaneInfoParam):
  key, values = element
  values = list(values)
  assert all(value[1:] == bytes(500) for value in values)
  return key, (float(window.start), float(window.end)), pane.index, sorted(value[0] for value in values)


@pytest.mark.parametrize('options', [(), ('--bundle_size=key', '--inject_bundle_failures=first_attempt')],
                         ids=['', 'failing'])
@pytest.mark.parametrize('mode', [ACCUMULATING, DISCARDING], ids=['accumulating', 'discarding'])
def test_panes_of_a_stream(mode, options, hardly_any_memory):
  """What each pane has was on disk, also where windows have merged."""
  stream = test_stream.TestStream()
  for event in [(1, 1), (2, 3), (3, 2), 10, (4, 5), (5, 30), (6, 34), 25]:
    # The number of an element and its time, or a watermark.
    if isinstance(event, int):
      stream = stream.advance_watermark_to(event)
    else:
      stream = stream.add_elements([TimestampedValue(('k', event[0]), event[1])])

  arguments = harness.portable_options(hardly_any_memory.endpoint, extra=('--streaming', *options))
  pipeline = beam.Pipeline(options=PipelineOptions(arguments))
  elements = (
      pipeline | stream.advance_watermark_to_infinity()
      | beam.MapTuple(lambda key, number: (key, bytes([number]) + bytes(500))))
  fires = trigger.AfterWatermark(early=trigger.AfterCount(2), late=trigger.AfterCount(1))
  # Windows, and the new numbers of each pane; each window ends with one on time, or late.
  fixed = FixedWindows(10), [[((0, 10), [1, 2]), ((0, 10), [3]), ((0, 10), [4])],
                             [((30, 40), [5, 6]), ((30, 40), [])]]
  sessions = Sessions(5), [[((1, 8), [1, 2]), ((1, 8), [3]), ((1, 10), [4])],
                           [((30, 39), [5, 6]), ((30, 39), [])]]
  for windows, panes in fixed, sessions:
    name = type(windows).__name__
    seen = (
        elements | name >> beam.WindowInto(
            windows, trigger=fires, accumulation_mode=mode, allowed_lateness=1000)
        | name + 'Grouped' >> beam.GroupByKey() | name + 'Told' >> beam.Map(_told))
    expected = []
    for of_window in panes:
      before = []
      for index, (window, numbers) in enumerate(of_window):
        before = sorted(before + numbers) if mode == ACCUMULATING else numbers
        # A window that has grown is another one.
        index = index if window == of_window[0][0] else 0
        expected.append(('k', window, index, before))
    harness.check(seen, expected, label=name + 'Check')
  assert harness.checks_passed(harness.run_pipeline(pipeline)) == 2


def test_folder_that_is_none(tmp_path):
  file = tmp_path / 'file'
  file.write_text('')
  server = BeamlineServer(BINARY, ['--spill-dir', str(file)], log=str(tmp_path / 'server.log'))
  with pytest.raises(Exception, match='--spill-dir'):
    server.start()
