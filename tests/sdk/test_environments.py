"""Where workers come from, and what the author of a job is told when one doesn't work."""

import json
import logging
import os
import signal
import time

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_artifact_api_pb2 as artifacts
from apache_beam.portability.api import beam_job_api_pb2 as jobs
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.portability import artifact_service
from apache_beam.transforms import environments

import cases  # pylint: disable=unused-import
import harness
import wire
from beamline_server import BeamlineServer
from conftest import BINARY, deaf_address, process_environment

SOME = [harness.CASES[name] for name in (
    'several_outputs', 'group_by_key', 'combine_per_key', 'side_multimap', 'text_in_and_out',
    'splittable', 'sessions', 'metrics', 'flatten_unlike_coders')]
# What a job may take to tell that a worker does not work, all attempts included.
SECONDS_TO_FAIL = 200
MEETING_SECONDS = 60


@pytest.fixture
def stub(endpoint):
  with wire.job_service(endpoint) as service:
    yield service


def processes_of(pipeline, folder, expected, elements=24):
  """The ids of the processes that worked on elements. Each waits until as many as are expected are at work: a process
  that is slow to start must not find everything done."""
  def work(x):
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + MEETING_SECONDS
    while len(list(folder.iterdir())) < expected and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(0.01)
    return os.getpid()

  return pipeline | beam.Create(range(elements)) | beam.Reshuffle() | 'Work' >> beam.Map(work)


def check_processes(arguments, matcher, folder, expected):
  pipeline = beam.Pipeline(options=PipelineOptions(arguments))
  harness.check_with(processes_of(pipeline, folder, expected), matcher)
  result = harness.run_pipeline(pipeline)
  assert harness.checks_passed(result) == 1


def test_loopback_works_in_the_client(endpoint, tmp_path):
  mine = os.getpid()

  def all_mine(pids):
    assert set(pids) == {mine}, pids

  check_processes(harness.portable_options(endpoint), all_mine, tmp_path, 1)


def test_external_pool(endpoint, external, tmp_path):
  harness.run_cases(SOME, harness.portable_options(endpoint, external), tmp_path)


def test_external_pool_with_two_workers(endpoint, external, tmp_path):
  mine = os.getpid()

  def two_others(pids):
    assert len(set(pids)) == 2 and mine not in pids, set(pids)

  check_processes(
      harness.portable_options(
          endpoint, external, ['--sdk_worker_parallelism=2', '--bundle_size=element']), two_others, tmp_path, 2)


def test_pool_on_another_address(worker_pool, tmp_path):
  """The server listens on 127.0.0.2 only: a worker that is told localhost cannot reach it."""
  if os.environ.get('BEAMLINE_ENDPOINT'):
    pytest.skip('needs a server of its own')
  with BeamlineServer(BINARY, ['--advertise-host', '127.0.0.2'], host='127.0.0.2') as server:
    assert server.endpoint.startswith('127.0.0.2:'), server.endpoint
    environment = 'EXTERNAL', '127.0.0.2:%d' % worker_pool
    harness.run_cases(SOME, harness.portable_options(server.endpoint, environment), tmp_path)
  assert server.process.returncode == 0


def test_process(endpoint, process, tmp_path):
  harness.run_cases(SOME, harness.portable_options(endpoint, process), tmp_path)


def test_process_gets_the_staged_files(endpoint, process, tmp_path):
  staged = tmp_path / 'staged by the job.txt'
  staged.write_text('what the author staged')

  def read(unused_x):
    found = os.path.join(os.environ['SEMI_PERSISTENT_DIRECTORY'], 'staged', staged.name)
    with open(found, encoding='utf-8') as f:
      return f.read()

  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(
      endpoint, process, ['--files_to_stage=' + str(staged)])))
  harness.check(pipeline | beam.Create([1]) | beam.Map(read), ['what the author staged'])
  assert harness.checks_passed(harness.run_pipeline(pipeline)) == 1


def test_process_has_an_allocator_of_its_own(endpoint, process):
  """What the server tells its own allocator would make workers slower."""
  def told(unused_x):
    return sorted(name for name in os.environ if name.startswith(('MALLOC_', 'BEAMLINE_ALLOCATOR')))

  here = sorted(name for name in os.environ if name.startswith('MALLOC_'))
  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint, process)))
  harness.check(pipeline | beam.Create([1]) | beam.Map(told), [here])
  assert harness.checks_passed(harness.run_pipeline(pipeline)) == 1


def test_workers_end_with_their_job(endpoint, process, tmp_path):
  """No process is left when the client has its result."""
  path = tmp_path / 'pids'

  def leave_pid(x):
    with open(path, 'a', encoding='utf-8') as f:
      f.write('%d\n' % os.getpid())
    return x

  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint, process)))
  pipeline | beam.Create([1, 2]) | beam.Map(leave_pid)  # pylint: disable=expression-not-assigned
  harness.run_pipeline(pipeline)
  pids = {int(line) for line in path.read_text().split()}
  assert pids and os.getpid() not in pids
  left = [pid for pid in pids if os.path.exists('/proc/%d' % pid)]
  assert not left, left


def submit_staged(stub, environment, dependencies, expected):
  """Submits a job whose worker gets these artifacts and checks that it finds {name: text}."""
  # In here, because a worker cannot import this module.
  def staged(name):
    with open(os.path.join(os.environ['SEMI_PERSISTENT_DIRECTORY'], 'staged', name),
              encoding='utf-8') as f:
      return f.read()

  proto = wire.pipeline_proto(lambda p: harness.check(
      p | beam.Create(sorted(expected)) | beam.Map(lambda name: (name, staged(name))),
      expected.items()))
  put_environment(proto, environment).dependencies.extend(dependencies)
  return wire.submit(stub, proto)


def in_role(urn, path):
  """A staged file that is no mere file to the worker."""
  artifact = wire.dependency('replaced', path)
  artifact.role_urn, artifact.role_payload = urn, b''
  return artifact


def to_install(urn, payload):
  return api.ArtifactInformation(
      type_urn=urn, type_payload=payload.SerializeToString(), role_urn='beam:artifact:role:unknown:v1')


class _LateDecision(artifact_service.ArtifactRetrievalService):
  """A client that says only when it is asked what its deferred artifact is."""
  def __init__(self, decided):
    super().__init__(artifact_service.BeamFilesystemHandler(None).file_reader)
    self.decided = decided

  def ResolveArtifacts(self, request, context=None):
    deferred = common_urns.artifact_types.DEFERRED.urn
    return artifacts.ResolveArtifactsResponse(replacements=[
        self.decided if artifact.type_urn == deferred else artifact for artifact in request.artifacts])


def test_artifacts_in_their_roles(stub, process, tmp_path):
  """What is not a file for the worker's folder: whoever starts the worker gets it, and learns what it is for; what
  is to be installed from a registry is named to it; and of what is deferred the client says what it is."""
  (tmp_path / 'requirements.txt').write_text('a requirement')
  (tmp_path / 'binary').write_text('a program')
  (tmp_path / 'decided').write_text('decided late')
  roles, types = common_urns.artifact_roles, common_urns.artifact_types

  def look(unused_x):
    folder = os.path.join(os.environ['SEMI_PERSISTENT_DIRECTORY'], 'staged')
    with open(os.path.join(folder, 'artifacts.json'), encoding='utf-8') as f:
      for number, artifact in enumerate(json.load(f)):
        path = os.path.join(folder, 'decided' if 'rolePayload' in artifact else 'artifact%d' % number)
        text = open(path, encoding='utf-8').read() if os.path.exists(path) else ''
        yield artifact['typeUrn'], artifact['roleUrn'], text

  unknown, file = 'beam:artifact:role:unknown:v1', types.FILE.urn
  proto = wire.pipeline_proto(lambda p: harness.check(p | beam.Create([1]) | beam.FlatMap(look), [
      (file, roles.PIP_REQUIREMENTS_FILE.urn, 'a requirement'),
      (file, roles.GO_WORKER_BINARY.urn, 'a program'), (types.PYPI.urn, unknown, ''),
      (types.MAVEN.urn, unknown, ''), (file, roles.STAGING_TO.urn, 'decided late')]))
  put_environment(proto, process).dependencies.extend([
      in_role(roles.PIP_REQUIREMENTS_FILE.urn, tmp_path / 'requirements.txt'),
      in_role(roles.GO_WORKER_BINARY.urn, tmp_path / 'binary'),
      to_install(types.PYPI.urn, api.PyPIPayload(artifact_id='some-package', version='1.0')),
      to_install(types.MAVEN.urn, api.MavenPayload(artifact='org.some:artifact:1.0')),
      to_install(types.DEFERRED.urn, api.DeferredArtifactPayload(key='later'))])
  prepared = wire.prepare(stub, proto)
  wire.stage(prepared, _LateDecision(wire.dependency('decided', tmp_path / 'decided')))
  check_done(stub, wire.run(stub, prepared.preparation_id))


def put_environment(proto, environment):
  """Has the proto's one environment run where `environment` (of the SDK's options) says."""
  kind, config = environment
  chosen = {
      'PROCESS': environments.ProcessEnvironment, 'EXTERNAL': environments.ExternalEnvironment
  }[kind].from_options(
      PortableOptions(['--environment_type=' + kind, '--environment_config=' + config]))
  target = wire.only(proto.components.environments)
  target.CopyFrom(chosen.to_runner_api(None))
  return target


def check_done(stub, job_id):
  """The job ends well, and its one check ran."""
  assert wire.states(stub, job_id)[-1] == jobs.JobState.DONE, wire.errors(
      wire.messages(stub, job_id))
  metrics = stub.GetJobMetrics(
      jobs.GetJobMetricsRequest(job_id=job_id), timeout=wire.CALL_SECONDS).metrics.committed
  assert sum(m.labels.get('NAME') == harness.CHECKED for m in metrics) == 1, metrics


def test_artifacts_of_every_type(stub, process, tmp_path):
  on_disk = tmp_path / 'on disk'
  on_disk.write_text('read from a disk')
  by_url = wire.dependency('by-url', 'replaced')
  by_url.type_urn = common_urns.artifact_types.URL.urn
  by_url.type_payload = api.ArtifactUrlPayload(url=on_disk.as_uri()).SerializeToString()
  embedded = wire.dependency('embedded', 'replaced')
  embedded.type_urn = common_urns.artifact_types.EMBEDDED.urn
  embedded.type_payload = api.EmbeddedFilePayload(data=b'came along').SerializeToString()
  check_done(stub, submit_staged(
      stub, process, [wire.dependency('in/a/folder', on_disk), by_url, embedded],
      {'in/a/folder': 'read from a disk', 'by-url': 'read from a disk', 'embedded': 'came along'}))


def test_each_job_has_its_own_artifacts(stub, process, tmp_path):
  """Two jobs at once stage different files under one name."""
  started = []
  for text in ('of the first job', 'of the second job'):
    path = tmp_path / text
    path.write_text(text)
    started.append(submit_staged(
        stub, process, [wire.dependency('same-name', path)], {'same-name': text}))
  for job_id in started:
    check_done(stub, job_id)


def test_any_of_several(stub, external):
  """Of the environments that would all do, the one that can be started here is used."""
  proto = wire.pipeline_proto(lambda p: harness.check(p | beam.Create([1, 2]), [1, 2]))
  environment = put_environment(proto, external)
  container = api.Environment(
      urn=common_urns.environments.DOCKER.urn, capabilities=environment.capabilities,
      payload=api.DockerPayload(container_image='no/such/image').SerializeToString())
  choice = api.AnyOfEnvironmentPayload(environments=[container, environment])
  environment.CopyFrom(api.Environment(
      urn=common_urns.environments.ANYOF.urn, payload=choice.SerializeToString()))
  check_done(stub, wire.submit(stub, proto))


def test_containers_are_overridden_by_a_pool(worker_pool, tmp_path):
  """The author says nothing of the pool: the pipeline asks for a container, and the server knows better."""
  if os.environ.get('BEAMLINE_ENDPOINT'):
    pytest.skip('needs a server of its own')
  rule = 'no/such_(image|other):1=EXTERNAL:127.0.0.1:%d' % worker_pool
  with BeamlineServer(BINARY, ['--environment-override', rule]) as server:
    harness.run_cases(
        SOME, harness.portable_options(server.endpoint, ('DOCKER', 'no/such_image:1')), tmp_path)


def test_a_worker_that_dies_once_is_replaced(endpoint, process, tmp_path):
  """The bundle that it had is done by another worker."""
  path = tmp_path / 'died'

  def die_once(x):
    if not path.exists():
      path.touch()
      os._exit(17)
    return x

  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint, process)))
  harness.check(pipeline | beam.Create([1, 2, 3]) | beam.Map(die_once), [1, 2, 3])
  assert harness.checks_passed(harness.run_pipeline(pipeline)) == 1
  assert path.exists()


def failure_of(build, arguments, seconds=SECONDS_TO_FAIL):
  """Runs a pipeline that must fail; returns the error that its author sees."""
  pipeline = beam.Pipeline(options=PipelineOptions(arguments))
  build(pipeline)
  began = time.monotonic()
  with pytest.raises(Exception) as raised:
    harness.run_pipeline(pipeline)
  took = time.monotonic() - began
  assert took < seconds, '%.0f s for: %s' % (took, raised.value)
  return str(raised.value)


def die_in_a_step(how):
  def die(unused_x):
    logging.getLogger().warning('famous last words')
    # Returns when the server has read them: it ends the stream of log lines then.
    for handler in list(logging.getLogger().handlers):
      handler.close()
    how()

  return lambda pipeline: pipeline | beam.Create([1]) | 'Deadly' >> beam.Map(die)


def test_process_that_exits(endpoint, process):
  error = failure_of(
      die_in_a_step(lambda: os._exit(17)), harness.portable_options(endpoint, process))
  assert 'exit' in error and '17' in error, error
  assert 'famous last words' in error, error


def test_process_that_is_killed(endpoint, process):
  error = failure_of(
      die_in_a_step(lambda: os.kill(os.getpid(), signal.SIGKILL)),
      harness.portable_options(endpoint, process))
  assert 'signal' in error.lower() and ('9' in error or 'SIGKILL' in error), error
  assert 'famous last words' in error, error


def test_pool_worker_that_exits(endpoint, external):
  """Nobody is told a pool worker's exit status, and its log stays with the pool: the error names the
  worker, its pool, and what became of it."""
  error = failure_of(
      die_in_a_step(lambda: os._exit(17)), harness.portable_options(endpoint, external))
  assert 'worker' in error and external[1] in error and 'lost' in error, error


def one_step(pipeline):
  return pipeline | beam.Create([1]) | beam.Map(lambda x: x)


def test_command_that_does_not_exist(endpoint):
  error = failure_of(
      one_step, harness.portable_options(endpoint, process_environment('/no/such/boot-program')))
  assert '/no/such/boot-program' in error, error


def test_command_that_ends_at_once(endpoint, tmp_path):
  boot = tmp_path / 'boot.sh'
  boot.write_text('#!/bin/sh\necho "the boot program has a bad day" >&2\nexit 3\n')
  boot.chmod(0o755)
  error = failure_of(one_step, harness.portable_options(endpoint, process_environment(str(boot))))
  assert str(boot) in error and '3' in error and 'has a bad day' in error, error


def test_pool_that_is_not_there(endpoint):
  with deaf_address() as address:
    error = failure_of(one_step, harness.portable_options(endpoint, ('EXTERNAL', address)))
  assert address in error, error


def test_the_server_lives_on(endpoint, tmp_path):
  harness.run_cases([harness.CASES['create_map_filter_flatmap']],
                    harness.portable_options(endpoint), tmp_path)
