"""Jobs whose input never ends, in real time: they run until they are cancelled or drained."""

import time

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2 as jobs
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.window import FixedWindows

import harness
import wire

SPACE = 'beamline.tests.streaming'
# What must come of an endless source within this time; it makes ten elements a second.
SECONDS = 30


@pytest.fixture
def stub(endpoint):
  with wire.job_service(endpoint) as service:
    yield service


def _seen(x, name):
  Metrics.counter(SPACE, name).inc()
  return x


def _grouped(key_and_values):
  Metrics.counter(SPACE, 'grouped').inc(len(list(key_and_values[1])))
  return key_and_values


def endless(endpoint):
  """Starts a job that counts what its source makes, and what leaves windows of a second."""
  pipeline = beam.Pipeline(
      options=PipelineOptions(harness.portable_options(endpoint, extra=['--streaming'])))
  (  # pylint: disable=expression-not-assigned
      pipeline | PeriodicImpulse(fire_interval=0.1) | 'See' >> beam.Map(_seen, 'made')
      | beam.Map(lambda x: ('k', x)) | beam.WindowInto(FixedWindows(1)) | beam.GroupByKey()
      | 'Grouped' >> beam.Map(_grouped))
  return pipeline.run()


def counted(stub, result, name):
  """As it is now: the client asks once, and keeps the answer."""
  found = stub.GetJobMetrics(
      jobs.GetJobMetricsRequest(job_id=result._job_id),  # pylint: disable=protected-access
      timeout=wire.CALL_SECONDS).metrics.committed
  return sum(coders.VarIntCoder().decode(info.payload) for info in found
             if (info.labels.get('NAMESPACE'), info.labels.get('NAME')) == (SPACE, name))


def wait_for_windows(stub, result):
  deadline = time.monotonic() + SECONDS
  while counted(stub, result, 'grouped') < 10:
    assert time.monotonic() < deadline, 'made %d, grouped %d, %s' % (
        counted(stub, result, 'made'), counted(stub, result, 'grouped'), result.state)
    time.sleep(0.2)


def test_drain(endpoint, stub):
  """The source stops, its last window closes, and everything it made is accounted for."""
  result = endless(endpoint)
  try:
    wait_for_windows(stub, result)
    job_id = result._job_id  # pylint: disable=protected-access
    answer = stub.Drain(jobs.DrainJobRequest(job_id=job_id), timeout=wire.CALL_SECONDS)
    assert answer.state == jobs.JobState.DRAINING
    seen = wire.states(stub, job_id, SECONDS)
    assert seen[-1] == jobs.JobState.DRAINED and jobs.JobState.DRAINING in seen, seen
    assert counted(stub, result, 'made') == counted(stub, result, 'grouped') >= 10
  finally:
    harness.cancel_quietly(result)


def test_cancel(endpoint, stub):
  result = endless(endpoint)
  try:
    wait_for_windows(stub, result)
    result.cancel()
    job_id = result._job_id  # pylint: disable=protected-access
    assert wire.states(stub, job_id, SECONDS)[-1] == jobs.JobState.CANCELLED
  finally:
    harness.cancel_quietly(result)


def test_what_ends_can_be_drained_too(endpoint, stub):
  """A bounded job ends by itself; a drain lets it."""
  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint)))
  harness.check(pipeline | beam.Create([1, 2]) | beam.Map(_slowly), [1, 2])
  result = pipeline.run()
  job_id = result._job_id  # pylint: disable=protected-access
  try:
    stub.Drain(jobs.DrainJobRequest(job_id=job_id), timeout=wire.CALL_SECONDS)
    assert wire.states(stub, job_id, SECONDS)[-1] == jobs.JobState.DRAINED
    assert harness.checks_passed(result) == 1
  finally:
    harness.cancel_quietly(result)


def _slowly(x):
  time.sleep(1)
  return x
