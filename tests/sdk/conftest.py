"""Servers, worker pools and worker programs that the tests share."""

import contextlib
import json
import os
import pathlib
import re
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
START_SECONDS = 60
STOP_SECONDS = 60


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


@contextlib.contextmanager
def deaf_address():
  """An address where nobody listens, nor can anybody begin to meanwhile."""
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    yield '127.0.0.1:%d' % s.getsockname()[1]


def said_port(process, log, before):
  """The port that a program says in its log that it listens on, after this text. It chooses one itself: what was
  found to be free for it may be taken by another before it is up."""
  deadline = time.monotonic() + START_SECONDS
  while True:
    text = pathlib.Path(log).read_text(encoding='utf-8', errors='replace')
    # With what follows the number, which else may not be all there yet.
    found = re.search(re.escape(before) + r'(\d+)\D', text)
    if found:
      return int(found.group(1))
    assert process.poll() is None, 'ended: ' + text
    assert time.monotonic() < deadline, 'not up: ' + text
    time.sleep(0.05)


@contextlib.contextmanager
def running_pool(log, *arguments, **env):
  """The SDK's own worker pool, whose workers are processes; gives its process and its port."""
  with open(log, 'wb') as out:
    process = subprocess.Popen(
        [sys.executable, '-m', 'apache_beam.runners.worker.worker_pool_main',
         '--service_port=0', *arguments], env={**os.environ, **env},
        stdin=subprocess.DEVNULL, stdout=out, stderr=out)
  try:
    yield process, said_port(process, log, 'worker pool servicer at port: localhost:')
  finally:
    # The pool ends its workers when it is interrupted, not when it is terminated.
    process.send_signal(signal.SIGINT)
    try:
      process.wait(STOP_SECONDS)
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
