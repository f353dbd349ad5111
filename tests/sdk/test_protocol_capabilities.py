"""What runner and SDK can do together beyond the least: caches, samples, hints, shorter ways for elements."""

import os
import re
import threading
import time

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_job_api_pb2 as jobs
from apache_beam.runners.worker import bundle_processor, data_plane, sdk_worker
from apache_beam.transforms import environments
from apache_beam.transforms.combiners import CountCombineFn
from apache_beam.transforms.userstate import BagStateSpec, CombiningValueStateSpec

import cases  # pylint: disable=unused-import
import conftest
import harness
import wire
from beamline_server import BeamlineServer

# Longer than anything that is waited for while it is taken.
NAP_SECONDS = 120
KEYS = 'abc'
ELEMENTS = 20  # of each key


# --- What a worker keeps from one bundle to the next


class _Count(beam.DoFn):
  """Numbers the elements of a key; what it has seen is a bag, read anew for each."""
  COUNT = CombiningValueStateSpec('count', VarIntCoder(), CountCombineFn())
  SEEN = BagStateSpec('seen', VarIntCoder())

  def process(self, element, side, count=beam.DoFn.StateParam(COUNT), seen=beam.DoFn.StateParam(SEEN)):  # pylint: disable=arguments-differ
    key, value = element
    count.add(1)
    if value % 7 == 6:
      seen.clear()
    seen.add(value)
    yield key, (count.read(), len(list(seen.read())), sum(value for _, value in side))


@pytest.fixture
def asked(monkeypatch):
  """State keys that LOOPBACK workers, which run here, have asked the runner for: their kinds."""
  kinds = []
  ask = sdk_worker.GrpcStateHandler.get_raw

  def get_raw(self, state_key, continuation_token=None):
    kinds.append(state_key.WhichOneof('type'))
    return ask(self, state_key, continuation_token)

  monkeypatch.setattr(sdk_worker.GrpcStateHandler, 'get_raw', get_raw)
  return kinds


def count_elements(endpoint, *options):
  arguments = harness.portable_options(endpoint, extra=['--bundle_size=element', *options])
  pipeline = beam.Pipeline(options=PipelineOptions(arguments))
  # Pairs like the main input: the SDK takes either for the main input of a stateful DoFn, by chance of a hash.
  side = pipeline | 'Side' >> beam.Create([('x', 1), ('y', 2), ('z', 3)])
  counted = (
      pipeline
      | beam.Create([(key, value) for value in range(ELEMENTS) for key in KEYS])
      | beam.Reshuffle()
      | beam.ParDo(_Count(), beam.pvalue.AsIter(side)))

  def numbered(results):
    for key in KEYS:
      mine = [result for k, result in results if k == key]
      assert sorted(n for n, _, _ in mine) == list(range(1, ELEMENTS + 1)), (key, mine)
      assert {total for _, _, total in mine} == {6}
      assert max(seen for _, seen, _ in mine) <= ELEMENTS

  harness.check_with(counted, numbered)
  result = harness.run_pipeline(pipeline)
  assert harness.checks_passed(result) == 1


def test_a_worker_keeps_state_and_side_inputs_from_one_bundle_to_the_next(endpoint, asked):
  count_elements(endpoint)
  assert asked.count('bag_user_state') >= len(KEYS) * ELEMENTS
  assert asked.count('iterable_side_input') >= len(KEYS) * ELEMENTS
  asked.clear()
  count_elements(endpoint, '--max_cache_memory_usage_mb=10')
  # Each state of each key once; the check has a side input of its own.
  assert asked.count('bag_user_state') <= 2 * len(KEYS), asked
  assert asked.count('iterable_side_input') <= 3, asked


@pytest.mark.parametrize('options', [
    ('--inject_bundle_failures=first_attempt',),
    ('--sdk_worker_parallelism=3',),
    ('--sdk_worker_parallelism=3', '--inject_bundle_failures=first_attempt')])
def test_what_a_worker_keeps_is_never_old(options, endpoint):
  count_elements(endpoint, '--max_cache_memory_usage_mb=10', *options)


# --- The element at which it failed


def refuse_sour(element):
  if element[0] == 'sour':
    raise ValueError('not to my taste')
  return element


def failure(endpoint, environment, *options):
  arguments = harness.portable_options(endpoint, environment, options)
  pipeline = beam.Pipeline(options=PipelineOptions(arguments))
  pipeline | beam.Create([('sweet', 1), ('sour', 2)]) | beam.Reshuffle() | 'Taste' >> beam.Map(refuse_sour)  # pylint: disable=expression-not-assigned
  with pytest.raises(RuntimeError) as raised:
    harness.run_pipeline(pipeline)
  text = str(raised.value)
  assert 'not to my taste' in text and 'Taste' in text
  return text


@pytest.mark.parametrize('experiment', ['enable_always_on_exception_sampling', 'enable_data_sampling'])
def test_the_failing_element_is_in_the_error_if_it_is_wanted(experiment, endpoint, process):
  text = failure(endpoint, process, '--experiments=' + experiment)
  assert "The element was: ('sour', 2)" in text, text


def test_the_failing_element_is_not_in_the_error_if_it_is_not_wanted(endpoint):
  assert 'The element was' not in failure(endpoint, ('LOOPBACK', None))


def messages_of(pipeline, endpoint):
  """Runs it to its end; what its author was told."""
  result = harness.run_pipeline(pipeline)
  with wire.job_service(endpoint) as stub:
    told = wire.messages(stub, result._job_id)  # pylint: disable=protected-access
  return [message.message_response.message_text for message in told]


def test_samples_of_what_each_step_makes(endpoint, process):
  options = harness.portable_options(endpoint, process, ['--experiments=enable_data_sampling'])
  pipeline = beam.Pipeline(options=PipelineOptions(options))

  def slowly(number):
    time.sleep(0.3)  # elements are sampled twice a second
    return 'number %d' % number

  pipeline | beam.Create(range(6)) | beam.Reshuffle() | 'Name' >> beam.Map(slowly)  # pylint: disable=expression-not-assigned
  told = [text for text in messages_of(pipeline, endpoint) if 'some of what it made' in text]
  assert any('[Name]' in text and 'number ' in text for text in told), told


# --- What a worker is doing


def told_of_a_slow_bundle(stub, job_id):
  """What the job is told until that has all that is to be in it."""
  told = []
  for response in stub.GetMessageStream(jobs.JobMessagesRequest(job_id=job_id), timeout=NAP_SECONDS):
    text = response.message_response.message_text
    if 'has been running for' in text:
      told.append(text)
      # It takes a while to begin with the element, and to tell of it: workers are asked how far they are once a second.
      if len(told) > 1 and 'in take_a_nap' in text and 'its worker is processing elements' in text:
        break
  return told


def test_what_the_worker_of_a_slow_bundle_is_doing(process, tmp_path):
  if os.environ.get('BEAMLINE_ENDPOINT'):
    pytest.skip('needs a server of its own')
  enough, seconds = tmp_path / 'enough', NAP_SECONDS

  def take_a_nap(element):
    deadline = time.monotonic() + seconds
    while not enough.exists() and time.monotonic() < deadline:
      time.sleep(0.05)
    return element

  with BeamlineServer(conftest.BINARY, ['--slow-bundle-seconds=1']) as server:
    pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(server.endpoint, process)))
    pipeline | beam.Create([1]) | 'Slow' >> beam.Map(take_a_nap)  # pylint: disable=expression-not-assigned
    result = pipeline.run()
    try:
      with wire.job_service(server.endpoint) as stub:
        slow = told_of_a_slow_bundle(stub, result._job_id)  # pylint: disable=protected-access
    finally:
      enough.touch()
      harness.wait_or_cancel(result)
  after = [int(re.search(r'has been running for (\d+) s', text).group(1)) for text in slow]
  assert after == [2**n for n in range(len(after))] and len(after) > 1, slow
  assert 'its worker is processing elements' in slow[-1], slow[-1]
  assert 'Slow' in slow[-1] and 'in take_a_nap' in slow[-1] and 'ACTIVE PROCESSING BUNDLES' in slow[-1], slow[-1]


# --- How many bundles a worker runs at once

_LOCK = threading.Lock()
_RUNNING = [0, 0]  # now, at most


def slow(element, together):
  """Returns when so many have been here at once, and others had time to come."""
  with _LOCK:
    _RUNNING[0] += 1
    _RUNNING[1] = max(_RUNNING)
  deadline = time.monotonic() + wire.CALL_SECONDS
  while _RUNNING[1] < together and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.05)
  with _LOCK:
    _RUNNING[0] -= 1
  return element


@pytest.mark.parametrize('hint, expected', [(None, 1), (1, 1), (3, 3)])
def test_bundles_at_once_on_a_worker(hint, expected, endpoint):
  _RUNNING[:] = [0, 0]
  work = 'Slow' >> beam.Map(slow, expected)
  if hint:
    work = work.with_resource_hints(max_active_bundles_per_worker=str(hint))
  arguments = harness.portable_options(endpoint, extra=['--bundle_size=element'])
  pipeline = beam.Pipeline(options=PipelineOptions(arguments))
  harness.check(pipeline | beam.Create(range(24)) | beam.Reshuffle() | work, range(24))
  assert harness.checks_passed(harness.run_pipeline(pipeline)) == 1
  assert _RUNNING[1] == expected


@pytest.mark.parametrize('hint, expected', [(None, 1), (3, 3)])
def test_values_of_create_are_spread_over_them(hint, expected, endpoint):
  _RUNNING[:] = [0, 0]
  work = 'Slow' >> beam.Map(slow, expected)
  if hint:
    work = work.with_resource_hints(max_active_bundles_per_worker=str(hint))
  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint)))
  harness.check(pipeline | beam.Create(range(24)) | work, range(24))
  assert harness.checks_passed(harness.run_pipeline(pipeline)) == 1
  assert _RUNNING[1] == expected


# --- Shorter ways between runner and worker. The Python SDK goes some of them only; for the others its workers,
# which over LOOPBACK are threads of this process, are made to here.

_ALL_WAYS = [harness.CASES[name] for name in (
    'several_outputs', 'combine_per_key', 'side_multimap', 'timers_in_order', 'splittable', 'large_elements')]


def change_process_bundle(monkeypatch, change):
  """Has workers process bundles by `change(process, worker, request, instruction_id)`."""
  process = sdk_worker.SdkWorker.process_bundle
  monkeypatch.setattr(
      sdk_worker.SdkWorker, 'process_bundle',
      lambda worker, request, instruction_id: change(process, worker, request, instruction_id))


def test_metrics_by_their_short_ids(endpoint, monkeypatch, tmp_path):
  """A worker that names each metric once, and then sends its value only."""
  asked = []
  tell = sdk_worker.SdkHarness._request_monitoring_infos  # pylint: disable=protected-access

  def told(worker, request):
    asked.extend(request.monitoring_infos.monitoring_info_id)
    return tell(worker, request)

  def short(process, *arguments):
    response = process(*arguments)
    assert response.process_bundle.monitoring_data
    del response.process_bundle.monitoring_infos[:]
    return response

  monkeypatch.setattr(sdk_worker.SdkHarness, '_request_monitoring_infos', told)
  change_process_bundle(monkeypatch, short)
  harness.run_cases([harness.CASES['metrics'], harness.CASES['combine_per_key']],
                    harness.portable_options(endpoint, extra=['--bundle_size=element']), tmp_path)
  assert asked and len(asked) == len(set(asked)), 'each is asked for once'


def test_elements_in_answers(endpoint, monkeypatch, tmp_path):
  """A worker that sends all that a bundle makes with its answer (control_response_elements_embedding)."""
  held, embedded = {}, []
  send = data_plane._GrpcDataChannel._enqueue_to_send  # pylint: disable=protected-access

  def hold(channel, element):
    if element.instruction_id in held:
      held[element.instruction_id].append(element)
    else:
      send(channel, element)

  def answer(process, worker, request, instruction_id):
    held[instruction_id] = []
    response = process(worker, request, instruction_id)
    elements = response.process_bundle.elements
    for element in held.pop(instruction_id):
      is_data = isinstance(element, data_plane.beam_fn_api_pb2.Elements.Data)
      (elements.data if is_data else elements.timers).append(element)
    embedded.append(len(elements.data))
    return response

  monkeypatch.setattr(data_plane._GrpcDataChannel, '_enqueue_to_send', hold)  # pylint: disable=protected-access
  change_process_bundle(monkeypatch, answer)
  harness.run_cases(_ALL_WAYS, harness.portable_options(endpoint), tmp_path)
  assert sum(embedded) > len(_ALL_WAYS)


def test_elements_in_requests(endpoint, monkeypatch, tmp_path):
  """An SDK that takes small bundles with their elements and timers (control_request_elements_embedding)."""
  came, read = {}, {'data': 0, 'timers': 0, 'none': 0}
  capabilities = environments._python_sdk_capabilities_iter  # pylint: disable=protected-access

  def with_embedding():
    yield from capabilities()
    yield common_urns.protocols.CONTROL_REQUEST_ELEMENTS_EMBEDDING.urn

  def take(process, worker, request, instruction_id):
    came[instruction_id] = [*request.elements.timers, *request.elements.data]
    read['none'] += not request.HasField('elements')
    return process(worker, request, instruction_id)

  inputs = data_plane._GrpcDataChannel.input_elements  # pylint: disable=protected-access

  def from_request(channel, instruction_id, *arguments):
    waiting = channel._receiving_queue(instruction_id)  # pylint: disable=protected-access
    for element in came.pop(instruction_id, ()):
      is_data = isinstance(element, data_plane.beam_fn_api_pb2.Elements.Data)
      read['data' if is_data else 'timers'] += not element.is_last
      waiting.put(element, element.ByteSize())
    return inputs(channel, instruction_id, *arguments)

  monkeypatch.setattr(environments, '_python_sdk_capabilities_iter', with_embedding)
  monkeypatch.setattr(data_plane._GrpcDataChannel, 'input_elements', from_request)  # pylint: disable=protected-access
  change_process_bundle(monkeypatch, take)
  harness.run_cases(_ALL_WAYS, harness.portable_options(endpoint), tmp_path)
  assert read['data'] > len(_ALL_WAYS) and read['timers'] > 0, read
  assert read['none'] > 0, 'large bundles still come by the data stream'


def test_bundles_at_once_have_data_streams_of_their_own(endpoint, monkeypatch):
  """A worker with several bundles need not read one's elements to get at another's (named_data_streams)."""
  streams = {}

  def named(process, worker, request, instruction_id):
    streams[instruction_id] = request.data_stream_id
    return process(worker, request, instruction_id)

  change_process_bundle(monkeypatch, named)
  arguments = harness.portable_options(endpoint, extra=['--bundle_size=element'])
  pipeline = beam.Pipeline(options=PipelineOptions(arguments))
  _RUNNING[:] = [0, 0]
  work = 'Slow' >> beam.Map(slow, 3).with_resource_hints(max_active_bundles_per_worker='3')
  harness.check(pipeline | beam.Create(range(12)) | beam.Reshuffle() | work, range(12))
  assert harness.checks_passed(harness.run_pipeline(pipeline)) == 1
  assert set(streams.values()) == {'', '1', '2'}, streams


def test_accumulators_merged_with_windows(endpoint, monkeypatch, tmp_path):
  """An SDK that keeps one accumulator of a combining state, and reads the first, as those of Java and Go do."""
  def first(state):
    accumulators = list(state._underlying_bag_state.read())  # pylint: disable=protected-access
    return accumulators[0] if accumulators else state._combinefn.create_accumulator()  # pylint: disable=protected-access

  def add(state, value):
    accumulator = state._combinefn.add_input(first(state), value)  # pylint: disable=protected-access
    state.clear()
    state._underlying_bag_state.add(accumulator)  # pylint: disable=protected-access

  merged = []

  def seen(process, worker, request, instruction_id):
    merged.append(request.process_bundle_descriptor_id.startswith('merge-accumulators'))
    return process(worker, request, instruction_id)

  kind = bundle_processor.CombiningValueRuntimeState
  monkeypatch.setattr(kind, 'read', lambda state: state._combinefn.extract_output(first(state)))  # pylint: disable=protected-access
  monkeypatch.setattr(kind, 'add', add)
  monkeypatch.setattr(
      environments, 'sdk_base_version_capability', lambda: 'beam:version:sdk_base:apache/beam_other_sdk:1')
  change_process_bundle(monkeypatch, seen)
  harness.run_cases([harness.CASES['all_kinds_of_state_in_sessions']],
                    harness.portable_options(endpoint, extra=['--bundle_size=element']), tmp_path)
  assert any(merged), 'the runner had none merged'


def test_keys_of_a_side_input_with_their_values(endpoint, process):
  """A worker that is told that it may asks once for all of a map, rather than for each key."""
  class Look(beam.DoFn):
    def setup(self):
      # The worker is a process of its own, so it is looked at from within.
      self.kinds, ask = [], sdk_worker.GrpcStateHandler.get_raw

      def get_raw(handler, state_key, continuation_token=None):
        self.kinds.append(state_key.WhichOneof('type'))
        return ask(handler, state_key, continuation_token)

      sdk_worker.GrpcStateHandler.get_raw = get_raw

    def process(self, element, sides):
      found = {key: sorted(sides[key]) for key in ('a', 'b', 'missing')}
      yield found, [kind for kind in self.kinds if kind.startswith('multimap')]

  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint, process)))
  side = pipeline | 'Side' >> beam.Create([('a', 1), ('a', 2), ('b', 3)])
  looked = pipeline | beam.Create([0]) | beam.ParDo(Look(), beam.pvalue.AsMultiMap(side))
  harness.check(looked, [({'a': [1, 2], 'b': [3], 'missing': []}, ['multimap_keys_values_side_input'])])
  assert harness.checks_passed(harness.run_pipeline(pipeline)) == 1
