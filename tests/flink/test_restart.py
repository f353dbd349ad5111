"""A server that is ended, in order or not, while its jobs run on a real Flink cluster; and one that is there for one command."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2 as jobs

import harness
import wire
import wordcount
from beamline_server import BeamlineServer
from conftest import BINARY, ROOT, RUNNER_JAR
from flink_cluster import free_port

JOB_SECONDS = 150
TEXT = str(ROOT / 'tests' / 'data' / 'kinglear.txt')


class _WaitFor(beam.DoFn):
  """Goes on once there is such a file."""
  def __init__(self, path):
    self.path = path

  def process(self, element):
    Metrics.counter('restart', 'elements').inc()
    while not os.path.exists(self.path):
      time.sleep(0.1)
    yield element


@pytest.fixture
def start(cluster, tmp_path):
  """start(): a server that knows what the last one has written down."""
  servers = []

  def start_server():
    arguments = ['--flink-master', cluster.master, '--flink-runner-jar', str(RUNNER_JAR), '--artifacts-dir',
                 str(tmp_path / 'artifacts')]
    server = BeamlineServer(BINARY, arguments, log=str(tmp_path / 'server.log')).start()
    servers.append(server)
    return server

  yield start_server
  for server in servers:
    server.stop()


def _kill(server):
  server.process.send_signal(signal.SIGKILL)
  server.process.wait()


def _submit(server, environment, path, cluster):
  """The id of a job that runs until there is such a file."""
  options = PipelineOptions(
      harness.portable_options(server.endpoint, environment, ['--backend=flink', '--job_name=waits']))
  pipeline = beam.Pipeline(options=options)
  pipeline | beam.Create([1, 2, 3]) | 'Wait' >> beam.ParDo(_WaitFor(str(path)))  # pylint: disable=expression-not-assigned
  result = pipeline.run()
  cluster.wait(lambda: result.state == 'RUNNING', 60)
  return result._job_id


def _state(stub, job_id):
  return stub.GetState(jobs.GetJobStateRequest(job_id=job_id), timeout=wire.CALL_SECONDS).state


def _texts(stub, job_id):
  return [
      r.message_response.message_text for r in wire.messages(stub, job_id, JOB_SECONDS)
      if r.HasField('message_response')
  ]


def _in_cluster(cluster):
  return {job['jid']: job['state'] for job in cluster.get('/jobs/overview')['jobs']}


@contextlib.contextmanager
def _restarted(start_server):
  began = time.monotonic()
  server = start_server()
  print('%.2f s to start' % (time.monotonic() - began))
  with wire.job_service(server.endpoint) as stub:
    yield server, stub


def test_a_killed_server_finds_its_job_again(start, external, cluster, tmp_path):
  first = start()
  job_id = _submit(first, external, tmp_path / 'go on', cluster)
  _kill(first)
  with _restarted(start) as (second, stub):
    [info] = stub.GetJobs(jobs.GetJobsRequest()).job_info
    assert (info.job_id, info.job_name, info.state) == (job_id, 'waits', jobs.JobState.RUNNING)
    assert info.pipeline_options['beam:option:backend:v1'] == 'flink'
    pipeline = stub.GetPipeline(jobs.GetJobPipelineRequest(job_id=job_id)).pipeline
    assert any(t.unique_name == 'Wait' for t in pipeline.components.transforms.values())
    (tmp_path / 'go on').touch()
    assert wire.states(stub, job_id, JOB_SECONDS)[-1] == jobs.JobState.DONE
    texts = _texts(stub, job_id)
    assert any('is Flink job' in text for text in texts)
    assert any('was started anew and watches Flink job' in text for text in texts)
    metrics = stub.GetJobMetrics(jobs.GetJobMetricsRequest(job_id=job_id)).metrics
    [counter] = [m for m in metrics.committed if m.labels.get('NAMESPACE') == 'restart']
    assert counter.payload == b'\x03'
    _kill(second)
  # What is history stays it.
  with _restarted(start) as (_, stub):
    assert _state(stub, job_id) == jobs.JobState.DONE
    assert _texts(stub, job_id) == texts


def test_a_job_that_ended_while_no_server_was_there(start, external, cluster, tmp_path):
  first = start()
  job_id = _submit(first, external, tmp_path / 'go on', cluster)
  _kill(first)
  (tmp_path / 'go on').touch()
  cluster.wait(lambda: 'RUNNING' not in _in_cluster(cluster).values(), 60)
  with _restarted(start) as (_, stub):
    assert wire.states(stub, job_id)[-1] == jobs.JobState.DONE


def test_sigterm_leaves_jobs_and_they_can_be_cancelled_later(start, external, cluster, tmp_path):
  first = start()
  job_id = _submit(first, external, tmp_path / 'never', cluster)
  began = time.monotonic()
  assert first.stop() == 0
  assert time.monotonic() - began < 10
  assert list(_in_cluster(cluster).values()).count('RUNNING') == 1
  with _restarted(start) as (_, stub):
    assert _state(stub, job_id) == jobs.JobState.RUNNING
    stub.Cancel(jobs.CancelJobRequest(job_id=job_id))
    assert wire.states(stub, job_id, 60)[-1] == jobs.JobState.CANCELLED
  cluster.wait(lambda: 'RUNNING' not in _in_cluster(cluster).values(), 30)


def test_a_job_that_never_came_to_flink_has_failed(start):
  server = start()
  with wire.job_service(server.endpoint) as stub:
    job_id = wire.submit(
        stub, wire.impulse_proto(), backend='flink', flink_master='127.0.0.1:%d' % free_port())
  time.sleep(1)
  _kill(server)
  with _restarted(start) as (_, stub):
    assert wire.states(stub, job_id)[-1] == jobs.JobState.FAILED
    [error] = wire.errors(wire.messages(stub, job_id))
    assert 'run it again' in error


# --- One-shot


def _one_shot(cluster, arguments, command):
  return subprocess.run(
      [BINARY, 'submit', '--backend=flink', '--flink-master', cluster.master, '--flink-runner-jar', str(RUNNER_JAR),
       *arguments, '--', *command], capture_output=True, text=True, timeout=JOB_SECONDS, check=False)


def _environment(environment):
  return ['--environment_type=' + environment[0], '--environment_config=' + environment[1]]


def test_one_shot_wordcount(external, cluster, tmp_path):
  prefix = str(tmp_path / 'counts')
  done = _one_shot(
      cluster, [],
      [sys.executable, '-m', 'apache_beam.examples.wordcount', '--input', TEXT, '--output', prefix,
       *_environment(external)])
  assert done.returncode == 0, done.stderr
  counts, files = wordcount.written_count(prefix)
  assert wordcount.compare(wordcount.plain_count(TEXT), counts, files)


PROGRAM = '''
import sys, time
import apache_beam as beam

def work(x):
  {work}

with beam.Pipeline(argv=sys.argv[1:]) as p:
  p | beam.Create([1]) | beam.Map(work)
'''


def test_one_shot_that_fails(external, cluster, tmp_path):
  program = tmp_path / 'program.py'
  program.write_text(PROGRAM.format(work='raise ArithmeticError("a mistake")'))
  failed = _one_shot(cluster, [], [sys.executable, str(program), *_environment(external)])
  assert failed.returncode == 1
  assert 'a mistake' in failed.stderr


def test_one_shot_detached(external, cluster, tmp_path):
  program = tmp_path / 'program.py'
  program.write_text(PROGRAM.format(work='time.sleep(600)'))
  done = _one_shot(
      cluster, ['--detached'], [sys.executable, str(program), '--job_name=left', *_environment(external)])
  assert done.returncode == 0, done.stderr
  flink_job_id, name = done.stdout.split()
  assert name == 'left' and _in_cluster(cluster)[flink_job_id] == 'RUNNING', done.stdout
  assert cluster.get('/jars')['files'] == []
  request = urllib.request.Request('http://%s/v1/jobs/%s' % (cluster.master, flink_job_id), method='PATCH')
  urllib.request.urlopen(request, timeout=10).close()
  cluster.wait(lambda: _in_cluster(cluster)[flink_job_id] == 'CANCELED', 30)
