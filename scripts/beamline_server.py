"""Starts a Beamline server and stops it by its process id: for scripts, tests and benchmarks."""

import os
import signal
import subprocess
import tempfile
import time

# Bounds for what hangs: under load a machine may take long for what else takes no second.
START_SECONDS = 60
STOP_SECONDS = 60


class ServerError(Exception):
  """The server could not be started; the text holds the end of its log."""


class BeamlineServer:
  """One `beamline serve` on a port that it picks itself.

  `binary` is the path of the beamline program, `args` are further arguments of `serve`, and `log`
  is the file that takes the server's standard error (a temporary one if None).
  """
  def __init__(self, binary, args=(), log=None, host='127.0.0.1'):
    self.folder = tempfile.TemporaryDirectory(prefix='beamline-server-')
    self.log = log or os.path.join(self.folder.name, 'server.log')
    self.ready_file = os.path.join(self.folder.name, 'ready')
    self.command = [
        os.path.abspath(binary), 'serve', '--job-host', host, '--job-port', '0',
        '--artifact-port', '0', '--ready-file', self.ready_file, *args
    ]
    self.process = None
    self.endpoint = None

  def start(self):
    """Returns once the server accepts jobs; raises ServerError if it doesn't within a minute."""
    if os.path.exists(self.ready_file):
      os.unlink(self.ready_file)
    try:
      with open(self.log, 'ab') as log:
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    except OSError as e:
      raise ServerError('cannot start %s: %s' % (self.command[0], e)) from e
    deadline = time.monotonic() + START_SECONDS
    while True:
      if os.path.exists(self.ready_file):
        with open(self.ready_file) as f:
          self.endpoint = f.read().strip()
        if self.endpoint:
          return self
      if self.process.poll() is not None:
        raise ServerError(
            'the server ended with status %d before it was ready:\n%s' %
            (self.process.returncode, self.log_tail()))
      if time.monotonic() > deadline:
        self.stop()
        raise ServerError(
            'the server was not ready after %d s:\n%s' % (START_SECONDS, self.log_tail()))
      time.sleep(0.01)

  def alive(self):
    return self.process is not None and self.process.poll() is None

  def stop(self):
    """Ends the server with SIGTERM (SIGKILL after a minute); returns its exit status."""
    if self.process is None:
      return None
    if self.process.poll() is None:
      self.process.send_signal(signal.SIGTERM)
      try:
        self.process.wait(STOP_SECONDS)
      except subprocess.TimeoutExpired:
        self.process.kill()
        self.process.wait()
    return self.process.returncode

  def log_tail(self, lines=40):
    if not os.path.exists(self.log):
      return ''
    with open(self.log, errors='replace') as f:
      return ''.join(f.readlines()[-lines:])

  def __enter__(self):
    return self.start()

  def __exit__(self, *unused):
    self.stop()
