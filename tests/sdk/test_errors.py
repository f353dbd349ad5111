"""What goes wrong is told to whoever can mend it, at once, and the server lives on."""

import hashlib
import os
import queue
import socket
import threading
import time

import apache_beam as beam
import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_artifact_api_pb2 as artifacts
from apache_beam.portability.api import beam_artifact_api_pb2_grpc as artifacts_grpc
from apache_beam.portability.api import beam_fn_api_pb2 as fn
from apache_beam.portability.api import beam_job_api_pb2 as jobs
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.worker import worker_pool_main
from apache_beam.testing.test_stream import TestStream

import cases  # pylint: disable=unused-import
import fake_worker
import harness
import wire

INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
# From run() to the exception, all attempts of the bundle included: sooner than anything that waits a minute in vain.
SECONDS_TO_FAIL = 60


@pytest.fixture
def stub(endpoint):
  with wire.job_service(endpoint) as service:
    yield service


@pytest.fixture(autouse=True)
def the_server_lives_on(endpoint):
  """Whatever a test did, a job runs afterwards, from a channel of its own."""
  yield
  with wire.job_service(endpoint) as service:
    assert wire.states(service, wire.submit(service, wire.impulse_proto()))[-1] == (
        jobs.JobState.DONE)


# --- The author's own mistakes


class _Fails(beam.DoFn):
  def __init__(self, method):
    self.method = method

  def _fail_in(self, method):
    if method == self.method:
      raise ArithmeticError('a mistake in ' + method)

  def setup(self):
    self._fail_in('setup')

  def start_bundle(self):
    self._fail_in('start_bundle')

  def process(self, element):
    self._fail_in('process')
    yield element

  def finish_bundle(self):
    self._fail_in('finish_bundle')


@pytest.mark.parametrize('method', ['setup', 'start_bundle', 'process', 'finish_bundle'])
def test_an_exception_of_the_author(method, endpoint):
  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint)))
  pipeline | beam.Create([1, 2]) | 'Mistaken' >> beam.ParDo(_Fails(method))  # pylint: disable=expression-not-assigned
  began = time.monotonic()
  with pytest.raises(RuntimeError) as raised:
    harness.run_pipeline(pipeline)
  took = time.monotonic() - began
  text = str(raised.value)
  assert 'ArithmeticError: a mistake in ' + method in text
  assert 'Traceback' in text and '_fail_in' in text, 'the stack of the author\'s own code'
  assert 'test_errors.py' in text
  if method == 'process':
    assert 'Mistaken' in text
  assert took < SECONDS_TO_FAIL, took


def test_an_exception_in_a_later_stage(endpoint):
  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint)))
  (  # pylint: disable=expression-not-assigned
      pipeline | beam.Create([('a', 1)]) | beam.GroupByKey()
      | 'After' >> beam.ParDo(_Fails('process')))
  with pytest.raises(RuntimeError, match='a mistake in process'):
    harness.run_pipeline(pipeline)


class _LoadsHereOnly:
  """Can be loaded in the process that made it, and in no other."""
  def __getstate__(self):
    return os.getpid()

  def __setstate__(self, home):
    if os.getpid() != home:
      raise ImportError('no module named the-one-i-forgot')


def test_a_function_that_cannot_be_loaded(endpoint, process):
  thing = _LoadsHereOnly()
  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint, process)))
  pipeline | beam.Create([1]) | 'Bad' >> beam.Map(lambda x: thing)  # pylint: disable=expression-not-assigned
  with pytest.raises(RuntimeError, match='the-one-i-forgot'):
    harness.run_pipeline(pipeline)


# --- Pipelines that are not what they should be


def prepare_refused(stub, proto):
  with pytest.raises(grpc.RpcError) as raised:
    wire.prepare(stub, proto)
  return raised.value.code(), raised.value.details()


def dangling_pcollection(proto):
  _, last = wire.transform(proto, 'Last')
  for name in last.inputs:
    last.inputs[name] = 'no_such_pcollection'
  return INVALID, ['no_such_pcollection', 'Last']


def cycle(proto):
  _, pair = wire.transform(proto, 'Pair')
  _, last = wire.transform(proto, 'Last')
  for name in pair.inputs:
    pair.inputs[name] = wire.only(last.outputs)
  return INVALID, ['cycle', 'Pair']


def unknown_urn(proto):
  _, last = wire.transform(proto, 'Last')
  last.spec.urn = 'beam:transform:unheard_of:v9'
  return UNIMPLEMENTED, ['beam:transform:unheard_of:v9', 'Last']


def unknown_urn_of_a_source(proto):
  """UNIMPLEMENTED, not INVALID_ARGUMENT: who reads its output does nothing wrong."""
  _, impulse = wire.transform(proto, 'Impulse')
  impulse.spec.urn = 'beam:transform:unheard_of:v9'
  return UNIMPLEMENTED, ['beam:transform:unheard_of:v9', 'Impulse']


def unknown_requirement(proto):
  proto.requirements.append('beam:requirement:pardo:telepathy:v1')
  return UNIMPLEMENTED, ['beam:requirement:pardo:telepathy:v1']


def missing_coder(proto):
  _, pair = wire.transform(proto, 'Pair')
  proto.components.pcollections[wire.only(pair.outputs)].coder_id = 'no_such_coder'
  return INVALID, ['no_such_coder']


def missing_component_coder(proto):
  _, pair = wire.transform(proto, 'Pair')
  coder_id = proto.components.pcollections[wire.only(pair.outputs)].coder_id
  proto.components.coders[coder_id].component_coder_ids[0] = 'no_such_component'
  return INVALID, ['no_such_component']


def coder_of_itself(proto):
  _, pair = wire.transform(proto, 'Pair')
  coder_id = proto.components.pcollections[wire.only(pair.outputs)].coder_id
  proto.components.coders[coder_id].component_coder_ids[0] = coder_id
  return INVALID, [coder_id]


def missing_windowing_strategy(proto):
  _, pair = wire.transform(proto, 'Pair')
  proto.components.pcollections[wire.only(pair.outputs)].windowing_strategy_id = 'no_such_strategy'
  return INVALID, ['no_such_strategy']


def missing_environment(proto):
  _, pair = wire.transform(proto, 'Pair')
  pair.environment_id = 'no_such_environment'
  return INVALID, ['no_such_environment', 'Pair']


def missing_root(proto):
  proto.root_transform_ids.append('no_such_root')
  return INVALID, ['no_such_root']


def missing_subtransform(proto):
  composite = next(t for t in proto.components.transforms.values() if t.subtransforms)
  composite.subtransforms.append('no_such_subtransform')
  return INVALID, ['no_such_subtransform']


def damaged_payload(proto):
  _, last = wire.transform(proto, 'Last')
  last.spec.payload = b'\xff\xff\xff\xff'
  return INVALID, ['Last']


def two_producers(proto):
  pair_id, pair = wire.transform(proto, 'Pair')
  proto.components.transforms['another'].CopyFrom(pair)
  proto.components.transforms['another'].unique_name = 'Another'
  parent = next((t for t in proto.components.transforms.values() if pair_id in t.subtransforms),
                None)
  (parent.subtransforms if parent else proto.root_transform_ids).append('another')
  return INVALID, ['Another']


def unknown_environment_type(proto):
  wire.only(proto.components.environments).urn = 'beam:env:carrier_pigeon:v1'
  return UNIMPLEMENTED, ['beam:env:carrier_pigeon:v1']


@pytest.mark.parametrize('damage', [
    dangling_pcollection, cycle, unknown_urn, unknown_urn_of_a_source,
    unknown_requirement, missing_coder,
    missing_component_coder, coder_of_itself, missing_windowing_strategy, missing_environment,
    missing_root, missing_subtransform, damaged_payload, two_producers, unknown_environment_type])
def test_a_bad_pipeline(damage, stub):
  proto = wire.small_proto()
  wire.prepare(stub, proto)  # it is a good one so far
  expected, culprits = damage(proto)
  code, details = prepare_refused(stub, proto)
  assert code == expected, details
  for culprit in culprits:
    assert culprit in details, details


def test_all_faults_at_once(stub):
  """Whoever mends a pipeline wants to hear of all that is wrong with it."""
  proto = wire.small_proto()
  culprits = missing_coder(proto)[1] + missing_environment(proto)[1] + missing_root(proto)[1]
  code, details = prepare_refused(stub, proto)
  assert code == INVALID, details
  for culprit in culprits:
    assert culprit in details, details


def test_no_pipeline(stub):
  with pytest.raises(grpc.RpcError) as raised:
    stub.Prepare(jobs.PrepareJobRequest(job_name='job'), timeout=wire.CALL_SECONDS)
  assert raised.value.code() == INVALID
  assert 'pipeline' in raised.value.details()


def test_a_second_test_stream_is_refused_by_name(stub):
  proto = wire.pipeline_proto(lambda p: (p | 'One' >> TestStream(), p | 'Other' >> TestStream()))
  code, details = prepare_refused(stub, proto)
  assert code == UNIMPLEMENTED, details
  assert 'second TestStream' in details and ('One' in details or 'Other' in details), details


def test_what_cannot_run_yet_is_refused_by_name(stub):
  """Panes that retract: if this engine makes them one day, Prepare accepts it, and this test says so."""
  proto = wire.small_proto()
  for strategy in proto.components.windowing_strategies.values():
    strategy.accumulation_mode = api.AccumulationMode.RETRACTING
  code, details = prepare_refused(stub, proto)
  assert code == UNIMPLEMENTED, details
  assert 'GroupByKey' in details and 'retract' in details.lower(), details


# --- Artifacts


class _Staging:
  """Answers the server as a client would, with the bytes that a test gives."""
  def __init__(self, contents):
    self.contents = contents

  def ResolveArtifacts(self, request):
    return artifacts.ResolveArtifactsResponse(replacements=request.artifacts)

  def GetArtifact(self, request):
    path = api.ArtifactFilePayload.FromString(request.artifact.type_payload).path
    yield artifacts.GetArtifactResponse(data=self.contents[path])


def prepared_with(stub, *dependencies):
  proto = wire.small_proto()
  wire.only(proto.components.environments).dependencies.extend(dependencies)
  return wire.prepare(stub, proto)


def run_refused(stub, preparation_id):
  with pytest.raises(grpc.RpcError) as raised:
    wire.run(stub, preparation_id)
  assert raised.value.code() not in (
      grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN
  ), raised.value
  return raised.value.details()


def test_an_artifact_with_a_wrong_hash(stub):
  wanted = hashlib.sha256(b'what was promised').hexdigest()
  prepared = prepared_with(stub, wire.dependency('tool.bin', '/tool', wanted))
  with pytest.raises(grpc.RpcError) as raised:
    wire.stage(prepared, _Staging({'/tool': b'what was sent'}))
  details = raised.value.details()
  assert raised.value.code() in (INVALID, grpc.StatusCode.DATA_LOSS), details
  assert 'tool.bin' in details and wanted in details, details
  assert 'tool.bin' in run_refused(stub, prepared.preparation_id)


@pytest.mark.parametrize('name', ['../escape', 'a/../../escape', '/etc/escape', '..', ''])
def test_an_artifact_with_a_name_that_escapes(name, stub):
  with pytest.raises(grpc.RpcError) as raised:
    prepared = prepared_with(stub, wire.dependency(name, '/tool'))
    wire.stage(prepared, _Staging({'/tool': b'bytes'}))
  assert raised.value.code() == INVALID, raised.value
  assert name in raised.value.details(), raised.value


def test_a_run_before_the_artifacts_are_staged(stub):
  prepared = prepared_with(stub, wire.dependency('tool.bin', '/tool'))
  assert 'tool.bin' in run_refused(stub, prepared.preparation_id)


def test_an_unknown_staging_token(stub):
  prepared = wire.prepare(stub, wire.small_proto())
  prepared.staging_session_token = 'a token of nobody'
  with pytest.raises(grpc.RpcError) as raised:
    wire.stage(prepared)
  assert raised.value.code() == grpc.StatusCode.NOT_FOUND
  assert 'a token of nobody' in raised.value.details()


def test_a_client_that_leaves_in_the_middle_of_staging(stub):
  prepared = prepared_with(stub, wire.dependency('tool.bin', '/tool'))
  responses = queue.SimpleQueue()
  responses.put(artifacts.ArtifactResponseWrapper(staging_token=prepared.staging_session_token))
  with grpc.insecure_channel(prepared.artifact_staging_endpoint.url) as channel:
    requests = artifacts_grpc.ArtifactStagingServiceStub(channel).ReverseArtifactRetrievalService(
        iter(responses.get, None), timeout=wire.CALL_SECONDS)
    # The server asks what the artifact resolves to, then for its bytes: give it half of them.
    for request in requests:
      if not request.HasField('resolve_artifact'):
        break
      responses.put(artifacts.ArtifactResponseWrapper(
          resolve_artifact_response=artifacts.ResolveArtifactsResponse(
              replacements=request.resolve_artifact.artifacts)))
    assert request.HasField('get_artifact'), request
    responses.put(artifacts.ArtifactResponseWrapper(
        get_artifact_response=artifacts.GetArtifactResponse(data=b'half of ')))
    time.sleep(0.1)  # for them to arrive; if they do not, the server is left with none of the bytes
    requests.cancel()
  responses.put(None)
  run_refused(stub, prepared.preparation_id)


# --- Workers


def garbage(instruction_id, transform_id):
  """A frame that no coder could have written."""
  yield fn.Elements(data=[
      fn.Elements.Data(instruction_id=instruction_id, transform_id=transform_id,
                       data=b'\xff' * 11),
      fn.Elements.Data(instruction_id=instruction_id, transform_id=transform_id, is_last=True)
  ])


def cut_short(instruction_id, transform_id):
  """An element in the global window whose key says that it is longer than what follows."""
  header = b'\x80\x00\x00\x00\x00\x00\x00\x00' + b'\x00\x00\x00\x01' + b'\x0f'
  yield fn.Elements(data=[
      fn.Elements.Data(instruction_id=instruction_id, transform_id=transform_id,
                       data=header + b'\x7fshort'),
      fn.Elements.Data(instruction_id=instruction_id, transform_id=transform_id, is_last=True)
  ])


def to_nobody(instruction_id, unused_transform_id):
  """Elements of a transform that does not exist, and no end of those that do."""
  yield fn.Elements(data=[
      fn.Elements.Data(instruction_id=instruction_id, transform_id='nobody', data=b'x'),
      fn.Elements.Data(instruction_id=instruction_id, transform_id='nobody', is_last=True)
  ])


@pytest.mark.parametrize('speak', [garbage, cut_short, to_nobody])
def test_a_worker_that_speaks_garbage(speak, stub):
  with fake_worker.FakePool(speak) as pool:
    proto = wire.pipeline_proto(
        lambda p: p | beam.Impulse() | 'Pair' >> beam.Map(lambda x: (x, x)) | beam.GroupByKey(),
        pool.address)
    job_id = wire.submit(stub, proto)
    assert wire.states(stub, job_id)[-1] == jobs.JobState.FAILED
    assert pool.requests['process_bundle'] > 0, 'the bundle never reached the worker'
    said = wire.errors(wire.messages(stub, job_id))
  assert said and 'worker' in said[-1].lower(), said


def test_bytes_that_are_not_grpc(endpoint):
  host, port = endpoint.rsplit(':', 1)
  for noise in (b'GET / HTTP/1.1\r\nHost: x\r\n\r\n', b'\x00' * 4096,
                b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + b'\xff' * 4096):
    with socket.create_connection((host, int(port)), timeout=5) as s:
      s.sendall(noise)


# --- Several clients


def test_another_client_cancels(endpoint, stub):
  """Over LOOPBACK, so that the step can be seen to run, and let go at the end."""
  running, let_go = threading.Event(), threading.Event()
  _EVENTS['cancel'] = running, let_go
  try:
    pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint)))
    pipeline | beam.Create([1]) | beam.Map(_wait_for_the_test, 'cancel')  # pylint: disable=expression-not-assigned
    result = pipeline.run()
    assert running.wait(wire.CALL_SECONDS)
    job_id = result._job_id  # pylint: disable=protected-access
    stub.Cancel(jobs.CancelJobRequest(job_id=job_id), timeout=wire.CALL_SECONDS)
    assert wire.states(stub, job_id)[-1] == jobs.JobState.CANCELLED
    with pytest.raises(RuntimeError, match='CANCELLED'):
      result.wait_until_finish()
  finally:
    let_go.set()


_EVENTS = {}


def _wait_for_the_test(x, name):
  running, let_go = _EVENTS[name]
  running.set()
  let_go.wait(2 * wire.CALL_SECONDS)
  return x


JOBS = 50
MEETING_SECONDS = 240
_MEETING = {}


def _meet(x):
  """Returns when all jobs are in here together."""
  with _MEETING['lock']:
    _MEETING['here'] += 1
    if _MEETING['here'] == JOBS:
      _MEETING['all'].set()
  if not _MEETING['all'].wait(MEETING_SECONDS):
    raise TimeoutError('only %d jobs at once' % _MEETING['here'])
  return x


@pytest.mark.timeout(400)
def test_fifty_jobs_at_once(stub):
  """None may wait for another to end: each ends only when all of them are in the same step."""
  _MEETING.update(lock=threading.Lock(), here=0, all=threading.Event())
  address, pool = worker_pool_main.BeamFnExternalWorkerPoolServicer.start()
  try:
    proto = wire.pipeline_proto(
        lambda p: harness.check(
            p | beam.Create([1]) | 'Meet' >> beam.Map(_meet) | beam.Map(lambda x: (x, x))
            | beam.GroupByKey() | beam.MapTuple(lambda k, vs: (k, list(vs))), [(1, [1])]), address)
    job_ids = [wire.submit(stub, proto) for _ in range(JOBS)]
    assert len(set(job_ids)) == JOBS
    for job_id in job_ids:
      assert wire.states(stub, job_id, 300)[-1] == jobs.JobState.DONE, wire.messages(stub, job_id)
      metrics = stub.GetJobMetrics(
          jobs.GetJobMetricsRequest(job_id=job_id), timeout=wire.CALL_SECONDS).metrics.committed
      checked = [m for m in metrics if m.labels.get('NAME') == harness.CHECKED]
      assert len(checked) == 1, metrics
  finally:
    pool.stop(1)
