"""What the Beam Python client expects of a job server; each rule broken is a known hang of others."""

import concurrent.futures

import apache_beam as beam
import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2 as jobs

import harness
import wire

# How long the client waits for the message stream to end after that of states, which takes milliseconds.
STREAM_SECONDS = 10
OURS = {
    'bundle_size': jobs.PipelineOptionType.STRING,
    'sdk_workers': jobs.PipelineOptionType.INTEGER,
    'last_timers_seconds': jobs.PipelineOptionType.INTEGER,
    'inject_bundle_failures': jobs.PipelineOptionType.STRING,
}


@pytest.fixture
def stub(endpoint):
  with wire.job_service(endpoint) as service:
    yield service


def refused(call):
  with pytest.raises(grpc.RpcError) as raised:
    call()
  return raised.value.code(), raised.value.details()


def test_streams_of_a_job_that_does_not_run_yet(stub):
  """The client asks with the preparation id first, with a deadline, and again without one after
  Run only if it is told NOT_FOUND: if it is answered, its streams end while the job still runs."""
  prepared = wire.prepare(stub, wire.impulse_proto())
  state = jobs.GetJobStateRequest(job_id=prepared.preparation_id)
  for call in (
      lambda: list(stub.GetStateStream(state, timeout=wire.CALL_SECONDS)),
      lambda: wire.messages(stub, prepared.preparation_id),
      lambda: stub.GetState(state, timeout=wire.CALL_SECONDS)):
    code, details = refused(call)
    assert code == grpc.StatusCode.NOT_FOUND and prepared.preparation_id in details, details
  wire.stage(prepared)
  job_id = wire.run(stub, prepared.preparation_id)
  assert job_id != prepared.preparation_id
  assert wire.states(stub, job_id)[-1] == jobs.JobState.DONE
  code, _ = refused(lambda: list(stub.GetStateStream(state, timeout=wire.CALL_SECONDS)))
  assert code == grpc.StatusCode.NOT_FOUND


def test_streams_end_after_the_last_state(stub):
  """Both streams end by themselves, at once: the client joins the message thread for ten seconds."""
  job_id = wire.submit(stub, wire.impulse_proto())
  with concurrent.futures.ThreadPoolExecutor(1) as readers:
    reading = readers.submit(wire.messages, stub, job_id)
    seen = wire.states(stub, job_id)
    told = reading.result(STREAM_SECONDS)
  assert seen[-1] == jobs.JobState.DONE
  assert all(state not in wire.TERMINAL for state in seen[:-1]), seen
  assert len(seen) == len(set(seen)), seen
  last = [r.state_response.state for r in told if r.HasField('state_response')][-1:]
  assert last in ([], [jobs.JobState.DONE]), told


def test_streams_of_a_job_that_has_ended(stub):
  """A client that comes late is told how it ended, and its streams end as well."""
  job_id = wire.submit(stub, wire.impulse_proto())
  assert wire.states(stub, job_id)[-1] == jobs.JobState.DONE
  assert wire.states(stub, job_id)[-1] == jobs.JobState.DONE
  wire.messages(stub, job_id)
  state = stub.GetState(jobs.GetJobStateRequest(job_id=job_id), timeout=wire.CALL_SECONDS)
  assert state.state == jobs.JobState.DONE and state.HasField('timestamp')


def test_the_error_comes_before_the_state(endpoint, stub):
  """Only the last error message becomes the text of the client's exception."""
  def fail(x):
    raise ValueError('what the author must see')

  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint)))
  pipeline | beam.Create([1]) | beam.Map(fail)  # pylint: disable=expression-not-assigned
  result = pipeline.run()
  with pytest.raises(RuntimeError, match='what the author must see'):
    result.wait_until_finish()
  told = wire.messages(stub, result._job_id)  # pylint: disable=protected-access
  said = wire.errors(told)
  assert said and 'what the author must see' in said[-1], said
  failed = [i for i, r in enumerate(told)
            if r.HasField('state_response') and r.state_response.state == jobs.JobState.FAILED]
  last_error = max(i for i, r in enumerate(told) if r.HasField('message_response') and
                   r.message_response.importance == jobs.JobMessage.JOB_MESSAGE_ERROR)
  assert all(last_error < i for i in failed), told


def test_options_are_described(stub):
  """The client drops options that the server does not describe."""
  described = {
      option.name: option for option in stub.DescribePipelineOptions(
          jobs.DescribePipelineOptionsRequest(), timeout=wire.CALL_SECONDS).options
  }
  for name, kind in OURS.items():
    assert name in described, sorted(described)
    assert described[name].type == kind, name
    assert described[name].description, name


@pytest.mark.parametrize('name,value', [
    ('bundle_size', 'banana'), ('sdk_worker_parallelism', 'many'),
    ('sdk_worker_parallelism', '-3'), ('inject_bundle_failures', 'banana')])
def test_options_with_a_bad_value(name, value, stub):
  code, details = refused(lambda: wire.prepare(stub, wire.impulse_proto(), **{name: value}))
  assert code == grpc.StatusCode.INVALID_ARGUMENT, details
  assert name in details and value in details, details


def test_options_of_others_are_ignored(stub):
  job_id = wire.submit(stub, wire.impulse_proto(), flink_version='1.19', some_number='5')
  assert wire.states(stub, job_id)[-1] == jobs.JobState.DONE


def test_numbers_arrive_as_text(stub):
  job_id = wire.submit(stub, wire.impulse_proto(), sdk_worker_parallelism='2')
  assert wire.states(stub, job_id)[-1] == jobs.JobState.DONE


def test_jobs_are_listed_by_the_name_of_their_author(stub):
  """The client calls every job "job"; the author's name is an option."""
  job_id = wire.submit(stub, wire.impulse_proto(), job_name='the-name-i-gave')
  assert wire.states(stub, job_id)[-1] == jobs.JobState.DONE
  listed = {
      info.job_id: info
      for info in stub.GetJobs(jobs.GetJobsRequest(), timeout=wire.CALL_SECONDS).job_info
  }
  assert listed[job_id].job_name == 'the-name-i-gave'
  assert listed[job_id].state == jobs.JobState.DONE


def test_the_pipeline_can_be_asked_for(stub):
  proto = wire.impulse_proto()
  job_id = wire.submit(stub, proto)
  got = stub.GetPipeline(
      jobs.GetJobPipelineRequest(job_id=job_id), timeout=wire.CALL_SECONDS).pipeline
  assert got.root_transform_ids == proto.root_transform_ids
  assert {t.unique_name for t in got.components.transforms.values()} == {
      t.unique_name for t in proto.components.transforms.values()}
  wire.states(stub, job_id)


def test_metrics_are_final_when_the_job_is_done(endpoint, stub):
  """The client asks once, and keeps the answer."""
  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint)))
  counter = beam.metrics.Metrics.counter('rules', 'seen')
  pipeline | beam.Create(range(100)) | beam.Map(lambda x: counter.inc())  # pylint: disable=expression-not-assigned
  result = pipeline.run()
  job_id = result._job_id  # pylint: disable=protected-access
  assert wire.states(stub, job_id)[-1] == jobs.JobState.DONE
  found = result.metrics().query(beam.metrics.MetricsFilter().with_name('seen'))['counters']
  assert [one.committed for one in found] == [100]
  assert [one.attempted for one in found] == [100]
  result.wait_until_finish()


@pytest.mark.parametrize('call', [
    lambda stub: stub.Run(jobs.RunJobRequest(preparation_id='nobody'), timeout=wire.CALL_SECONDS),
    lambda stub: stub.GetState(jobs.GetJobStateRequest(job_id='nobody'), timeout=wire.CALL_SECONDS),
    lambda stub: stub.GetPipeline(jobs.GetJobPipelineRequest(job_id='nobody'), timeout=wire.CALL_SECONDS),
    lambda stub: stub.Cancel(jobs.CancelJobRequest(job_id='nobody'), timeout=wire.CALL_SECONDS),
    lambda stub: stub.Drain(jobs.DrainJobRequest(job_id='nobody'), timeout=wire.CALL_SECONDS),
    lambda stub: stub.GetJobMetrics(jobs.GetJobMetricsRequest(job_id='nobody'), timeout=wire.CALL_SECONDS),
    lambda stub: list(stub.GetStateStream(jobs.GetJobStateRequest(job_id='nobody'), timeout=wire.CALL_SECONDS)),
    lambda stub: list(stub.GetMessageStream(jobs.JobMessagesRequest(job_id='nobody'), timeout=wire.CALL_SECONDS)),
], ids=['Run', 'GetState', 'GetPipeline', 'Cancel', 'Drain', 'GetJobMetrics', 'GetStateStream',
        'GetMessageStream'])
def test_ids_that_nobody_has(call, stub):
  code, details = refused(lambda: call(stub))
  assert code == grpc.StatusCode.NOT_FOUND and 'nobody' in details, details


def test_a_preparation_runs_once(stub):
  prepared = wire.prepare(stub, wire.impulse_proto())
  wire.stage(prepared)
  job_id = wire.run(stub, prepared.preparation_id)
  code, details = refused(lambda: wire.run(stub, prepared.preparation_id))
  assert code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND), details
  assert prepared.preparation_id in details, details
  assert wire.states(stub, job_id)[-1] == jobs.JobState.DONE
