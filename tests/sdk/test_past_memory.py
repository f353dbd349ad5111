"""What waits, what is read as a side input, and what is kept as state: all more than the server may have in memory."""

import os
import re
import time

import apache_beam as beam
import pytest
from apache_beam import pvalue
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows

import harness
import many_values
import past_memory
from beamline_server import BeamlineServer
from conftest import BINARY

# Of test pipelines, at first.
LIMIT = 4 << 20
GIVEN_BACK_SECONDS = 60


class LittleMemory:
  """A server that has to write most of what it has to disk."""
  def __init__(self, server, spill):
    self.server, self.spill, self.read = server, spill, 0

  @property
  def endpoint(self):
    return self.server.endpoint

  def spilled(self):
    """Bytes that went to disk since this was asked last, as the server's log says."""
    with open(self.server.log, errors='replace') as log:
      log.seek(self.read)
      new = log.read()
      self.read = log.tell()
    return sum(map(int, re.findall(r'(\d+) bytes that did not fit in memory', new)))

  def on_disk(self):
    """What the files that have no names take."""
    folder = '/proc/%d/fd' % self.server.process.pid
    taken = 0
    for name in os.listdir(folder):
      path = os.path.join(folder, name)
      try:
        if os.readlink(path).startswith(str(self.spill)):
          taken += os.stat(path).st_blocks * 512
      except FileNotFoundError:
        pass
    return taken

  def resident(self, name):
    """Bytes of memory that the server has (VmRSS), or had at most (VmHWM)."""
    with open('/proc/%d/status' % self.server.process.pid) as status:
      return int(re.search(name + r':\s*(\d+) kB', status.read()).group(1)) << 10

  def check_all_given_back(self):
    assert not list(self.spill.iterdir()), 'files have no names'
    deadline = time.monotonic() + GIVEN_BACK_SECONDS
    while self.on_disk() > 0:
      assert time.monotonic() < deadline, 'on disk: %d bytes' % self.on_disk()
      time.sleep(0.05)


@pytest.fixture(scope='module')
def server_of_little_memory(tmp_path_factory):
  folder = tmp_path_factory.mktemp('past_memory')
  spill = folder / 'spill'
  args = ['--memory-limit', str(LIMIT), '--spill-dir', str(spill)]
  with BeamlineServer(BINARY, args, log=str(folder / 'server.log')) as server:
    yield LittleMemory(server, spill)
    assert server.alive(), server.log_tail()


@pytest.fixture
def little_memory(server_of_little_memory):  # pylint: disable=redefined-outer-name
  server_of_little_memory.spilled()
  yield server_of_little_memory
  server_of_little_memory.check_all_given_back()


def run(little_memory, build, *options):  # pylint: disable=redefined-outer-name
  """Runs it and returns its counters."""
  arguments = harness.portable_options(little_memory.endpoint, extra=options)
  pipeline = beam.Pipeline(options=PipelineOptions(arguments))
  build(pipeline)
  result = harness.run_pipeline(pipeline)
  assert result.state == 'DONE'
  found = result.metrics().query(MetricsFilter().with_namespace('memory'))['counters']
  return {counter.key.metric.name: counter.committed for counter in found}


def windows_of(numbers, keys, size):
  """Adds a stream of so many values for each key, in two windows, which come out when all is there."""
  stream, at_once = test_stream.TestStream(), numbers // 32
  # Not all in one bundle, whose messages would be ten megabytes each.
  for start in range(0, numbers, at_once):
    stream = stream.add_elements(list(range(start, min(start + at_once, numbers))))
  stream = stream.advance_watermark_to(30).advance_watermark_to_infinity()

  def build(pipeline):
    _ = (
        pipeline | stream
        | beam.FlatMap(many_values.of_all_keys, keys, size)
        | beam.WindowInto(
            FixedWindows(10), trigger=trigger.AfterWatermark(),
            accumulation_mode=trigger.AccumulationMode.DISCARDING)
        | beam.GroupByKey()
        | beam.ParDo(many_values.CountGroups()))

  return build


FAIL_FIRST = '--inject_bundle_failures=first_attempt'


@pytest.mark.parametrize('options', [(), (FAIL_FIRST, )], ids=['', 'failing'])
def test_elements_that_wait(little_memory, options):
  blocks, block, size = 40, 1_000, 1_000

  def build(pipeline):
    _ = (
        pipeline
        | beam.Create(range(0, blocks * block, block))
        | beam.FlatMap(past_memory.elements, block, size)
        | beam.Reshuffle()
        | beam.ParDo(past_memory.CheckElement()))

  number = blocks * block
  assert run(little_memory, build, *options) == {
      'elements': number, 'sum': number * (number - 1) // 2}
  assert little_memory.spilled() > number * size // 2


def test_a_list_as_side_input(little_memory):
  blocks, block, size = 20, 1_000, 1_000
  number = blocks * block

  def build(pipeline):
    values = (
        pipeline
        | 'Blocks' >> beam.Create(range(0, number, block))
        | beam.FlatMap(past_memory.elements, block, size))
    seen = (
        pipeline
        | 'Main' >> beam.Create(range(2))
        | beam.Map(past_memory.look_through, pvalue.AsIter(values)))
    harness.check(seen, [(number, number * (number - 1) // 2)] * 2)

  run(little_memory, build)
  assert little_memory.spilled() > number * size


@pytest.mark.parametrize('kind', ['dict', 'multimap'])
def test_a_map_as_side_input(little_memory, kind):
  keys, size, asked = 20_000, 500, 200

  def build(pipeline):
    blocks = pipeline | 'Blocks' >> beam.Create(range(0, keys, 1_000))
    if kind == 'dict':
      values = blocks | beam.FlatMap(past_memory.elements, 1_000, size)
      view, ask = pvalue.AsDict(values), past_memory.look_up
    else:
      of_key = lambda start: (
          (key, value) for key in range(start, start + 1_000)
          for _, value in past_memory.elements(key, 3, size))
      view, ask = pvalue.AsMultiMap(blocks | beam.FlatMap(of_key)), past_memory.look_up_all
    main = pipeline | 'Main' >> beam.Create(range(0, keys, keys // asked))
    _ = main | beam.Map(ask, view)

  assert run(little_memory, build) == {'found': asked}
  assert little_memory.spilled() > keys * size


@pytest.mark.parametrize('options', [(), (FAIL_FIRST, )], ids=['', 'failing'])
@pytest.mark.parametrize('keys', [1, 500])
def test_windows_of_a_stream(little_memory, keys, options):
  """Also if a window has all of it under one key: then workers read its values page by page."""
  numbers, size = 40_000 // keys, 500
  found = run(little_memory, windows_of(numbers, keys, size), '--streaming', *options)
  assert found == {'groups': keys * 2, 'values': numbers * keys}
  assert little_memory.spilled() > numbers * keys * size // 2


def test_the_servers_memory_while_windows_wait(tmp_path):
  limit, numbers, keys, size = 32 << 20, 128, 1_000, 1_000
  args = ['--memory-limit', str(limit), '--spill-dir', str(tmp_path / 'spill')]
  with BeamlineServer(BINARY, args, log=str(tmp_path / 'server.log')) as server:
    small = LittleMemory(server, tmp_path / 'spill')
    # What the program itself takes, once it has done everything.
    run(small, windows_of(32, keys, size), '--streaming')
    before = small.resident('VmRSS')
    assert run(small, windows_of(numbers, keys, size), '--streaming') == {
        'groups': keys * 2, 'values': numbers * keys}
    assert small.spilled() > numbers * keys * size - limit
    most = small.resident('VmHWM')
    assert most < before + limit * 5 // 4, 'from %d to %d kB' % (before >> 10, most >> 10)
    small.check_all_given_back()


@pytest.mark.parametrize('options', [(), (FAIL_FIRST, )], ids=['', 'failing'])
def test_state(little_memory, options):
  rounds, keys, size = 6, 2_000, 1_000

  def build(pipeline):
    _ = (
        pipeline
        | beam.Create(range(rounds))
        | beam.FlatMap(past_memory.of_round, keys, size)
        | beam.ParDo(past_memory.KeepAll()))

  assert run(little_memory, build, *options) == {'keys': keys, 'values': rounds * keys}
  assert little_memory.spilled() > rounds * keys * size
