"""What a client may ask of a running job over Beam's Job API, where the Python SDK has no call of its own.

A streaming job does not end by itself. `cancel` throws away what is still on its way; `drain` lets it end well: the
sources stop, every window closes and is written, and the job's state is DRAINED. From the command line:

    python -m examples.job_api drain JOB_NAME [--job_endpoint=localhost:8099]

The name is the one that the pipeline was given with `--job_name`.
"""

import argparse
import contextlib
import time

import grpc
from apache_beam.metrics import MetricsFilter
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from apache_beam.runners.portability.portable_runner import PortableMetrics

CALL_SECONDS = 30
POLL_SECONDS = 0.2
TERMINAL = ('DONE', 'FAILED', 'CANCELLED', 'DRAINED', 'UPDATED')


@contextlib.contextmanager
def job_service(job_endpoint):
  """A stub of the job service at host:port."""
  with grpc.insecure_channel(job_endpoint) as channel:
    yield beam_job_api_pb2_grpc.JobServiceStub(channel)


def state_name(state):
  return beam_job_api_pb2.JobState.Enum.Name(state)


def running_job(stub, job_name):
  """The id of the one job of this name that has not ended; LookupError if there is none, or more."""
  jobs = stub.GetJobs(beam_job_api_pb2.GetJobsRequest(), timeout=CALL_SECONDS).job_info
  found = [
      job.job_id for job in jobs
      if job.job_name == job_name and state_name(job.state) not in TERMINAL
  ]
  if len(found) != 1:
    raise LookupError(
        '%d jobs called %r are running; the server knows: %s' %
        (len(found), job_name,
         ', '.join('%s %s' % (job.job_name, state_name(job.state)) for job in jobs) or 'none'))
  return found[0]


def drain(job_endpoint, job_name, seconds=60):
  """Drains the running job of this name and returns its last state, DRAINED if all went well.

  Raises LookupError if no job, or more than one, of this name is running, TimeoutError if it has
  not ended after `seconds`, and grpc.RpcError if the server cannot drain (many cannot).
  """
  with job_service(job_endpoint) as stub:
    job_id = running_job(stub, job_name)
    stub.Drain(beam_job_api_pb2.DrainJobRequest(job_id=job_id), timeout=CALL_SECONDS)
    deadline = time.monotonic() + seconds
    while True:
      state = state_name(
          stub.GetState(
              beam_job_api_pb2.GetJobStateRequest(job_id=job_id), timeout=CALL_SECONDS).state)
      if state in TERMINAL:
        return state
      if time.monotonic() > deadline:
        raise TimeoutError('%s is still %s after %d s of draining' % (job_id, state, seconds))
      time.sleep(POLL_SECONDS)


def wait_for_counter(job_endpoint, job_name, namespace, name, count, seconds=60):
  """Returns once a counter of the running job has committed at least `count`; else TimeoutError.

  What is committed will not be done again: all that `count` counts is safely inside the job.
  """
  with job_service(job_endpoint) as stub:
    job_id = running_job(stub, job_name)
    wanted = MetricsFilter().with_namespace(namespace).with_name(name)
    deadline = time.monotonic() + seconds
    while True:
      metrics = PortableMetrics(
          stub.GetJobMetrics(
              beam_job_api_pb2.GetJobMetricsRequest(job_id=job_id), timeout=CALL_SECONDS))
      seen = sum(counter.committed or 0 for counter in metrics.query(wanted)['counters'])
      if seen >= count:
        return seen
      if time.monotonic() > deadline:
        raise TimeoutError('%s: %s is %d after %d s, not %d' % (job_id, name, seen, seconds, count))
      time.sleep(POLL_SECONDS)


def wait_until_ended(result):
  """Like `result.wait_until_finish()`, for which a drained job is a failed one; returns the state."""
  try:
    return result.wait_until_finish()
  except RuntimeError:
    if result.state != 'DRAINED':
      raise
    return result.state


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description='Drains a running job, and says how it ended.')
  parser.add_argument('what', choices=('drain',))
  parser.add_argument('job_name')
  parser.add_argument('--job_endpoint', default='localhost:8099')
  given = parser.parse_args()
  print(drain(given.job_endpoint, given.job_name))
