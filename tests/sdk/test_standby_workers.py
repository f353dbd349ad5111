"""Workers that stand by on a worker pool between two jobs: real processes, and what a job sees of the one before."""

import contextlib
import os
import pathlib
import signal
import sys
import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

import harness
import processes
from beamline_server import BeamlineServer
from conftest import BINARY, HERE, running_pool

SECONDS = 60
# Sooner than a worker that stands by ends of itself.
STOP_SECONDS = 45
# A worker process is started with its id, which begins so.
STANDBY = 'standby-'


class Pool:
  """A worker pool and a server, both of their own, and a folder in which workers leave what they are asked for."""
  def __init__(self, process, port, server, folder):
    self.process, self.environment = process, ('EXTERNAL', '127.0.0.1:%d' % port)
    self.server, self.folder = server, folder

  def run(self, tell):
    """Runs a job with one worker; gives what `tell()` returned there, once for each that is unlike."""
    told = self.folder / ('told %d' % sum(1 for _ in self.folder.iterdir()))
    told.mkdir()

    def write(x):
      (told / str(x)).write_text(str(tell()))

    pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(
        self.server.endpoint, self.environment, ['--sdk_workers=1'])))
    pipeline | beam.Create([1, 2, 3]) | beam.Map(write)  # pylint: disable=expression-not-assigned
    harness.run_pipeline(pipeline)
    return {path.read_text() for path in told.iterdir()}

  def workers(self):
    """The processes that the pool has now: arguments by process id."""
    return {pid: processes.arguments(pid) for pid in processes.children(self.process.pid)}

  def standby(self, before=None):
    """Waits until the pool has one process, which stands by and is connected; its id. `before`: it is another."""
    deadline = time.monotonic() + SECONDS
    while True:
      workers = self.workers()
      if len(workers) == 1:
        (pid, arguments), = workers.items()
        if pid != before and STANDBY in arguments and processes.has_socket(pid):
          return pid
      assert time.monotonic() < deadline, workers
      time.sleep(0.05)

  def check_none_left(self):
    """The server has told the pool to end them, or cannot any more; a process takes its time for that."""
    deadline = time.monotonic() + STOP_SECONDS
    while self.workers():
      assert time.monotonic() < deadline, self.workers()
      time.sleep(0.05)

  def log(self):
    return pathlib.Path(self.server.log).read_text(encoding='utf-8', errors='replace')

  def wait_for_log(self, text):
    deadline = time.monotonic() + SECONDS
    while text not in self.log():
      assert time.monotonic() < deadline, self.log()
      time.sleep(0.05)


@contextlib.contextmanager
def running(folder, server_arguments=(), pool_arguments=(), **env):
  with running_pool(folder / 'pool.log', *pool_arguments, **env) as (process, port):
    with BeamlineServer(BINARY, server_arguments) as server:
      yield Pool(process, port, server, folder)


def test_the_second_job_is_served_by_the_worker_that_stood_by(tmp_path):
  with running(tmp_path) as pool:
    first = pool.run(processes.pid)
    standby = pool.standby()
    assert standby not in first
    assert pool.run(processes.pid) == {standby}
    pool.standby(before=standby)  # nobody stands by who has had a job


def test_what_is_edited_between_two_jobs_is_seen(tmp_path):
  """And what a job leaves in its process is not."""
  modules = tmp_path / 'modules'
  modules.mkdir()
  edited = modules / 'edited_between_jobs.py'
  edited.write_text('VALUE = "as it was"\nSEEN = set()\n')

  def look():
    import edited_between_jobs  # pylint: disable=import-error,import-outside-toplevel
    edited_between_jobs.SEEN.add(edited_between_jobs.VALUE)
    return edited_between_jobs.VALUE, len(edited_between_jobs.SEEN), processes.pid()

  with running(tmp_path, PYTHONPATH='%s:%s' % (modules, HERE)) as pool:
    first, = pool.run(look)
    standby = pool.standby()
    edited.write_text('VALUE = "as it was made anew"\nSEEN = set()\n')
    assert first.startswith("('as it was', 1, "), first
    assert pool.run(look) == {str(('as it was made anew', 1, int(standby)))}


def test_a_server_that_ends_leaves_no_worker(tmp_path):
  with running(tmp_path) as pool:
    pool.run(processes.pid)
    pool.standby()
    assert pool.server.stop() == 0
    pool.check_none_left()


def test_a_standby_that_is_killed_is_not_missed(tmp_path):
  with running(tmp_path, ['--log-level', 'info,fn_harness_bridge=debug']) as pool:
    pool.run(processes.pid)
    killed = pool.standby()
    pool.wait_for_log('worker stands by')
    os.kill(int(killed), signal.SIGKILL)
    pool.wait_for_log('a worker that stood by is gone')
    told = pool.run(processes.pid)
    assert len(told) == 1 and killed not in told
    assert not [line for line in pool.log().splitlines() if 'WARN' in line or 'ERROR' in line]


def test_none_stands_by_if_the_server_is_told_so(tmp_path):
  with running(tmp_path, ['--standby-worker-timeout=0']) as pool:
    for _ in range(2):
      told, = pool.run(processes.arguments)
      assert 'SdkHarness' in told and STANDBY not in told
      pool.check_none_left()


def test_none_stands_by_that_asks_for_its_job_first(tmp_path):
  """Workers of a pool that has them started as containers are."""
  boot = '--container_executable=%s' % (HERE / 'process_boot.sh')
  with running(tmp_path, (), [boot], BEAMLINE_TEST_PYTHON=sys.executable) as pool:
    for _ in range(2):
      told, = pool.run(processes.worker_id)
      assert told and STANDBY not in told
      pool.check_none_left()
