"""A real Flink cluster, a server that knows it, and a worker pool.

FLINK_TEST_HOME is the folder that `get-flink` has filled.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
for folder in (ROOT / 'scripts', ROOT / 'tests' / 'sdk'):
  if str(folder) not in sys.path:
    sys.path.insert(0, str(folder))

from beamline_server import BeamlineServer  # pylint: disable=wrong-import-position
from flink_cluster import FlinkCluster, free_port  # pylint: disable=wrong-import-position

BINARY = os.environ.get('BEAMLINE_BIN', str(ROOT / 'target' / 'debug' / 'beamline'))
HOME = pathlib.Path(os.environ.get('FLINK_TEST_HOME', ROOT / 'target' / 'flink'))
RUNNER_JAR = HOME / 'runner.jar'


@pytest.fixture(scope='session')
def new_cluster(tmp_path_factory):
  """new_cluster(taskmanagers, config, tls): a cluster of one's own, stopped at the end of all tests if not before."""
  clusters = []

  def start(taskmanagers, config=None, tls=None):
    cluster = FlinkCluster(HOME / 'flink', tmp_path_factory.mktemp('flink'), config=config, tls=tls)
    clusters.append(cluster)
    return cluster.start(taskmanagers)

  yield start
  for cluster in clusters:
    cluster.stop()


@pytest.fixture(scope='session')
def cluster(new_cluster):  # pylint: disable=redefined-outer-name
  return new_cluster(1)


@pytest.fixture(scope='session')
def server(cluster, tmp_path_factory):  # pylint: disable=redefined-outer-name
  """A server whose jobs run natively unless they choose Flink."""
  folder = tmp_path_factory.mktemp('server')
  arguments = ['--flink-master', cluster.master, '--flink-runner-jar', str(RUNNER_JAR), '--artifacts-dir',
               str(folder / 'artifacts')]
  with BeamlineServer(BINARY, arguments, log=str(folder / 'server.log')) as running:
    yield running
    assert running.alive(), 'the server ended:\n' + running.log_tail()
  assert running.process.returncode == 0, running.log_tail()


@pytest.fixture
def endpoint(server):  # pylint: disable=redefined-outer-name
  assert server.alive(), 'the server ended in an earlier test:\n' + server.log_tail()
  return server.endpoint


@pytest.fixture(scope='session', autouse=True)
def worker_environment():
  """What worker processes inherit: this Python first, and the modules that the cases live in."""
  os.environ['PATH'] = os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH']
  modules = os.pathsep.join(str(f) for f in (HERE, ROOT / 'tests' / 'sdk', ROOT / 'scripts'))
  os.environ['PYTHONPATH'] = modules + os.pathsep + os.environ.get('PYTHONPATH', '')


@pytest.fixture(scope='session')
def external(worker_environment, cluster, tmp_path_factory):  # pylint: disable=unused-argument,redefined-outer-name
  """The SDK's own worker pool, which the TaskManagers ask for workers."""
  port = free_port()
  log = tmp_path_factory.mktemp('pool') / 'pool.log'
  with open(log, 'wb') as out:
    process = subprocess.Popen(
        [sys.executable, '-m', 'apache_beam.runners.worker.worker_pool_main',
         '--service_port=%d' % port], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
  try:
    cluster.wait(lambda: _is_open(port))
    yield 'EXTERNAL', '127.0.0.1:%d' % port
  finally:
    # The pool ends its workers when it is interrupted, not when it is terminated.
    process.send_signal(signal.SIGINT)
    try:
      process.wait(20)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()


def _is_open(port):
  with socket.socket() as s:
    return s.connect_ex(('127.0.0.1', port)) == 0
