"""Servers, worker pools and worker programs that the tests share."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
for folder in (HERE, ROOT / 'scripts'):
  if str(folder) not in sys.path:
    sys.path.insert(0, str(folder))

from beamline_server import BeamlineServer  # pylint: disable=wrong-import-position

BINARY = os.environ.get('BEAMLINE_BIN', str(ROOT / 'target' / 'debug' / 'beamline'))
POOL_SECONDS = 60


@pytest.fixture(scope='session')
def server(tmp_path_factory):
  """One server for all tests that don't need one of their own; None if BEAMLINE_ENDPOINT is set."""
  if os.environ.get('BEAMLINE_ENDPOINT'):
    yield None
    return
  with BeamlineServer(BINARY, log=str(tmp_path_factory.mktemp('server') / 'server.log')) as running:
    yield running
    assert running.alive(), 'the server ended:\n' + running.log_tail()
  assert running.process.returncode == 0, 'SIGTERM: status %d\n%s' % (
      running.process.returncode, running.log_tail())


@pytest.fixture
def endpoint(server):  # pylint: disable=redefined-outer-name
  """host:port of the job service. BEAMLINE_ENDPOINT names a server that runs already."""
  if server is None:
    return os.environ['BEAMLINE_ENDPOINT']
  assert server.alive(), 'the server ended in an earlier test:\n' + server.log_tail()
  return server.endpoint


@pytest.fixture(scope='session', autouse=True)
def worker_environment():
  """What worker processes inherit: this Python first, and the modules that the cases live in."""
  os.environ['PATH'] = os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH']
  os.environ['PYTHONPATH'] = str(HERE) + os.pathsep + os.environ.get('PYTHONPATH', '')


def free_port(host='127.0.0.1'):
  with socket.socket() as s:
    s.bind((host, 0))
    return s.getsockname()[1]


def wait_for_port(host, port, process, log):
  deadline = time.monotonic() + POOL_SECONDS
  while True:
    try:
      socket.create_connection((host, port), timeout=1).close()
      return
    except OSError:
      assert process.poll() is None, 'ended: ' + pathlib.Path(log).read_text()
      assert time.monotonic() < deadline, 'not up: ' + pathlib.Path(log).read_text()
      time.sleep(0.05)


@contextlib.contextmanager
def running_pool(log, *arguments, **env):
  """The SDK's own worker pool, whose workers are processes; gives its process and its port."""
  port = free_port()
  with open(log, 'wb') as out:
    process = subprocess.Popen(
        [sys.executable, '-m', 'apache_beam.runners.worker.worker_pool_main',
         '--service_port=%d' % port, *arguments], env={**os.environ, **env},
        stdin=subprocess.DEVNULL, stdout=out, stderr=out)
  try:
    wait_for_port('127.0.0.1', port, process, log)
    yield process, port
  finally:
    # The pool ends its workers when it is interrupted, not when it is terminated.
    process.send_signal(signal.SIGINT)
    try:
      process.wait(20)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()


@pytest.fixture(scope='session')
def worker_pool(worker_environment, tmp_path_factory):  # pylint: disable=unused-argument,redefined-outer-name
  """The port of a worker pool that the tests share."""
  with running_pool(tmp_path_factory.mktemp('pool') / 'pool.log') as (_, port):
    yield port


@pytest.fixture
def external(worker_pool):  # pylint: disable=redefined-outer-name
  return 'EXTERNAL', '127.0.0.1:%d' % worker_pool


def process_environment(command=None, **env):
  """A PROCESS environment whose workers are started by our boot program (or by `command`)."""
  config = {
      'command': command or str(HERE / 'process_boot.sh'),
      'env': {'BEAMLINE_TEST_PYTHON': sys.executable, 'PYTHONPATH': str(HERE), **env}
  }
  return 'PROCESS', json.dumps(config)


@pytest.fixture
def process():
  return process_environment()
