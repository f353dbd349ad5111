"""DOCKER environments: workers in containers of an image.

Most of these tests have a program in the place of docker, whose containers are ordinary processes. With
BEAMLINE_TEST_IMAGE, the name of an image of this Python SDK for containers on this machine, real ones run too
(BEAMLINE_TEST_DOCKER_OPTIONS: options of `docker run` for them, separated by blanks).
"""

import os
import shutil
import subprocess
import time

import apache_beam as beam
import pytest

import cases  # pylint: disable=unused-import
import harness
from beamline_server import BeamlineServer
from conftest import BINARY, HERE

IMAGE = 'example/beam_python:1'
SOME = [harness.CASES[name] for name in ('group_by_key', 'side_multimap', 'splittable')]
REAL_IMAGE = os.environ.get('BEAMLINE_TEST_IMAGE')


@pytest.fixture
def docker(tmp_path, monkeypatch):
  """The folder of a docker command that runs our boot program as it is."""
  monkeypatch.setenv('BEAMLINE_TEST_PYTHON', shutil.which('python'))
  shutil.copy(HERE / 'fake_docker.sh', tmp_path / 'docker')
  (tmp_path / 'boot').write_text(str(HERE / 'process_boot.sh'))
  return tmp_path


def serve(*arguments):
  return BeamlineServer(BINARY, ['--sdk-worker-parallelism', '2', *arguments])


def options(server, image):
  return harness.portable_options(server.endpoint, ('DOCKER', image))


def commands(docker):
  return (docker / 'commands').read_text().splitlines()


def failure_of(build, arguments):
  with pytest.raises(Exception) as raised:
    pipeline = beam.Pipeline(options=beam.options.pipeline_options.PipelineOptions(arguments))
    build(pipeline)
    harness.run_pipeline(pipeline)
  return str(raised.value)


def one_step(pipeline):
  return pipeline | beam.Create([1]) | beam.Map(lambda x: x)


def test_workers_run_in_containers(docker, tmp_path):
  flags = ['--docker-command', str(docker / 'docker'), '--docker-run-option=--volume=/data:/data']
  with serve(*flags) as server:
    harness.run_cases(SOME, options(server, IMAGE), tmp_path)
  told = commands(docker)
  assert [line for line in told if line.startswith('pull ')] == ['pull --quiet ' + IMAGE]
  runs = [line.split() for line in told if line.startswith('run ')]
  assert len(runs) == 2, told
  for run in runs:
    assert '--network=host' in run and '--volume=/data:/data' in run
    # What follows the image is for the SDK's boot program.
    boot = run[run.index(IMAGE) + 1:]
    assert {word.split('=')[0] for word in boot} == {
        '--id', '--provision_endpoint', '--control_endpoint', '--logging_endpoint', '--artifact_endpoint'}
  names = {word.split('=')[1] for run in runs for word in run if word.startswith('--name=')}
  assert len(names) == len(runs), 'two containers of one name'
  removed = {line.split()[-1] for line in told if line.startswith('rm ')}
  assert removed == names


def test_images_are_pulled_when_they_are_to_be(docker, tmp_path):
  (docker / 'pulled').touch()
  for policy, pulls in [('missing', 0), ('always', 1), ('never', 0)]:
    (docker / 'commands').unlink(missing_ok=True)
    with serve('--docker-command', str(docker / 'docker'), '--docker-pull', policy) as server:
      harness.run_cases(SOME[:1], options(server, IMAGE), tmp_path / policy)
    assert len([line for line in commands(docker) if line.startswith('pull ')]) == pulls, policy


def test_an_image_that_is_nowhere(docker):
  with serve('--docker-command', str(docker / 'docker')) as server:
    error = failure_of(one_step, options(server, 'nowhere/beam:1'))
  assert 'nowhere/beam:1' in error and 'manifest unknown' in error, error


def test_a_machine_without_docker_refuses_the_job():
  with serve('--docker-command', 'no-such-docker') as server:
    error = failure_of(one_step, options(server, IMAGE))
  assert 'no-such-docker' in error and 'LOOPBACK' in error, error


@pytest.mark.skipif(not REAL_IMAGE, reason='BEAMLINE_TEST_IMAGE names no image')
def test_real_containers(tmp_path):
  def running():
    listed = subprocess.run(['docker', 'ps', '--quiet', '--filter', 'name=beamline-'],
                            capture_output=True, check=True, text=True)
    return listed.stdout.split()

  before = running()
  more = ['--docker-run-option=' + option
          for option in os.environ.get('BEAMLINE_TEST_DOCKER_OPTIONS', '').split()]
  with serve(*more) as server:
    harness.run_cases(SOME, options(server, REAL_IMAGE), tmp_path)
  deadline = time.monotonic() + 30
  while running() != before and time.monotonic() < deadline:
    time.sleep(0.2)
  assert running() == before, 'containers are left behind'


def test_other_images_take_the_place_of_those_named(docker, tmp_path):
  flags = ['--docker-command', str(docker / 'docker'), '--environment-override', 'example/(.*)=DOCKER:mirror.local/$1']
  with serve(*flags) as server:
    harness.run_cases(SOME[:1], options(server, IMAGE), tmp_path)
  told = commands(docker)
  assert any('mirror.local/beam_python:1' in line.split() for line in told if line.startswith('run ')), told
  assert not any(IMAGE in line.split() for line in told), told
