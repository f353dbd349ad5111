"""Figures of processes and of the machine, and the servers that are measured."""

import gc
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent

# Between two jobs: threads of the last one end, and must not be counted to the next one.
SETTLE_SECONDS = 0.1
# So many times in a row nothing has happened in a process that has settled.
SETTLED = 5
# Of all cores, before a job is begun on a shared machine.
QUIET_SHARE = 0.9
START_SECONDS = 60
STOP_SECONDS = 20
# What `/proc/PID/clear_refs` takes for "the peak of the resident size is what it is now".
RESET_PEAK = '5'


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


class Child:
  """A server that is ended with the `with` block, by its own process id."""
  end_signal = signal.SIGTERM

  def __init__(self, command, env=None):
    self.process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    self.endpoint = None

  def wait_until(self, ready):
    deadline = time.monotonic() + START_SECONDS
    while not ready():
      if time.monotonic() > deadline or self.process.poll() is not None:
        self.stop()
        raise SystemExit('%s did not start' % ' '.join(self.process.args))
      time.sleep(0.01)

  def stop(self):
    if self.process.poll() is None:
      self.process.send_signal(self.end_signal)
    try:
      self.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
      self.process.kill()
      self.process.wait()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.stop()


def listens(port):
  try:
    socket.create_connection(('127.0.0.1', port), timeout=1).close()
    return True
  except OSError:
    return False


class Prism(Child):
  def __init__(self, binary):
    port = free_port()
    super().__init__([binary, '--job_port=%d' % port, '--serve_http=false'])
    self.endpoint = 'localhost:%d' % port
    self.wait_until(lambda: listens(port))


class Floor(Child):
  """A job server that replays the first job it is given, run by `upstream`; see benches/src/floor."""
  def __init__(self, binary, upstream=None):
    self.folder = tempfile.TemporaryDirectory(prefix='beamline-floor-')
    ready = pathlib.Path(self.folder.name, 'ready')
    command = [binary, '--ready-file', str(ready)]
    super().__init__(command + (['--upstream', upstream] if upstream else []))
    self.wait_until(lambda: ready.exists() and ready.read_text())
    self.endpoint = ready.read_text()

  def stop(self):
    super().stop()
    self.folder.cleanup()


class WorkerPool(Child):
  """The SDK's own worker pool: each worker that it is asked for is a process of its own."""
  # It ends its workers when it is interrupted, not when it is terminated.
  end_signal = signal.SIGINT

  def __init__(self):
    port = free_port()
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ['PATH']])
    # Workers load functions by the names of their modules.
    env = {**os.environ, 'PATH': path, 'PYTHONPATH': str(HERE)}
    super().__init__([
        sys.executable, '-m', 'apache_beam.runners.worker.worker_pool_main',
        '--service_port=%d' % port
    ], env)
    self.endpoint = '127.0.0.1:%d' % port
    self.wait_until(lambda: listens(port))


def cpu_seconds(process, children=False):
  """User and system time of a process so far; with that of its children that have ended."""
  fields = pathlib.Path('/proc/%d/stat' % process.pid).read_text().rsplit(')', 1)[1].split()
  ticks = sum(int(field) for field in fields[11:15 if children else 13])
  return ticks / os.sysconf('SC_CLK_TCK')


def children(process):
  """The ids of the processes that it has started and that live."""
  threads = pathlib.Path('/proc/%d/task' % process.pid).glob('*/children')
  return sorted(int(pid) for thread in threads for pid in thread.read_text().split())


def ticks_of(pid):
  try:
    fields = pathlib.Path('/proc/%d/stat' % pid).read_text().rsplit(')', 1)[1].split()
  except (FileNotFoundError, ProcessLookupError):
    return 0
  return sum(int(field) for field in fields[11:13])


def wait_for_children(process):
  """Waits until the processes that it has started have nothing to do: workers that stand by are not to be started at
  the cost of the next job, whoever runs it."""
  before, quiet, deadline = None, 0, time.monotonic() + START_SECONDS
  while quiet < SETTLED and time.monotonic() < deadline:
    now = [(pid, ticks_of(pid)) for pid in children(process)]
    quiet = quiet + 1 if now == before else 0
    before = now
    time.sleep(SETTLE_SECONDS)


def reset_peak(process):
  pathlib.Path('/proc/%d/clear_refs' % process.pid).write_text(RESET_PEAK)


def peak_megabytes(process):
  """The largest resident size since `reset_peak`."""
  for line in pathlib.Path('/proc/%d/status' % process.pid).read_text().splitlines():
    if line.startswith('VmHWM:'):
      return int(line.split()[1]) / 1024
  return float('nan')


def idle_share(seconds):
  """How much of the machine nobody used while we slept."""
  def times():
    fields = [int(f) for f in pathlib.Path('/proc/stat').read_text().split('\n', 1)[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4]

  (all_before, idle_before), _, (all_after, idle_after) = times(), time.sleep(seconds), times()
  return (idle_after - idle_before) / max(1, all_after - all_before)


def settle(quiet_seconds):
  """Lets the last job's threads end, and waits at most so long for other people's processes."""
  # What earlier jobs left in this process is not to be collected during the next one.
  gc.collect()
  deadline = time.monotonic() + quiet_seconds
  while idle_share(SETTLE_SECONDS) < QUIET_SHARE and time.monotonic() < deadline:
    pass
