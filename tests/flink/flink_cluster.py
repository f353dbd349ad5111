"""A Flink session cluster on this machine: a JobManager and TaskManagers, each a process of its own; and Beam's own way
to one, its Java job server."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

START_SECONDS = 120
STOP_SECONDS = 20
SLOTS = 4

# Flink and Beam look into the JDK.
OPENS = [
    '--add-opens=java.base/%s=ALL-UNNAMED' % package
    for package in ('java.util', 'java.lang', 'java.lang.invoke', 'java.net', 'java.io', 'java.nio',
                    'java.time', 'java.util.concurrent', 'java.util.concurrent.atomic',
                    'java.util.concurrent.locks', 'sun.nio.ch')
]

CONFIG = """\
jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc_port}
jobmanager.bind-host: 127.0.0.1
jobmanager.memory.process.size: 1024m
rest.address: 127.0.0.1
rest.port: {rest_port}
rest.bind-address: 127.0.0.1
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.memory.process.size: 1728m
taskmanager.numberOfTaskSlots: {slots}
taskmanager.network.bind-policy: ip
parallelism.default: 1
heartbeat.timeout: 15000
heartbeat.interval: 3000
io.tmp.dirs: {folder}/tmp
web.upload.dir: {folder}/upload
state.savepoints.dir: file://{folder}/savepoints
state.checkpoints.dir: file://{folder}/checkpoints
"""

LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} %m%n
"""

# Each job's classes are loaded into the JobManager, which runs its main().
JOBMANAGER_HEAP = '512m'
ENDED = ('FINISHED', 'FAILED', 'CANCELED')
RESULT = 'BASH_JAVA_UTILS_EXEC_RESULT:'


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def job_server_command(runner_jar, master, port, artifacts, java='java', jvm=()):
  """Beam's own job server in front of a cluster, listening on `port`."""
  return [
      java, *OPENS, *jvm, '-cp', str(runner_jar), 'org.apache.beam.runners.flink.FlinkJobServerDriver',
      '--job-host=localhost', '--job-port=%s' % port, '--artifact-port=0', '--expansion-port=0',
      '--artifacts-dir=%s' % artifacts, '--flink-master=%s' % master
  ]


class FlinkCluster:
  """`home` is a Flink distribution, `folder` an empty folder for everything that the cluster writes; `config` holds
  settings of Flink that are to be other than in CONFIG, `slots` are those of each TaskManager, `jvm` further arguments
  of each JVM, and `tls` is the ssl.SSLContext with which the REST endpoint is asked if its port speaks TLS."""
  def __init__(self, home, folder, java='java', slots=SLOTS, config=None, jvm=(), tls=None):
    self.home = pathlib.Path(home).resolve()
    self.folder = pathlib.Path(folder).resolve()
    self.java = java
    self.slots = slots
    self.jvm = list(jvm)
    self.rest_port = free_port()
    self.tls = tls
    self.master = '%s127.0.0.1:%d' % ('https://' if tls else '', self.rest_port)
    self.jobmanager = None
    self.taskmanagers = []
    for name in ('conf', 'tmp', 'upload', 'savepoints', 'checkpoints'):
      (self.folder / name).mkdir(parents=True, exist_ok=True)
    lines = CONFIG.format(
        rpc_port=free_port(), rest_port=self.rest_port, folder=self.folder, slots=slots).splitlines()
    settings = dict(line.split(': ', 1) for line in lines)
    settings.update(config or {})
    (self.folder / 'conf' / 'config.yaml').write_text(
        ''.join('%s: %s\n' % setting for setting in settings.items()))
    (self.folder / 'conf' / 'log4j.properties').write_text(LOG4J)

  def _java(self, name, jvm, main, arguments):
    log = open(self.folder / (name + '.log'), 'ab')
    with log:
      return subprocess.Popen(
          [
              self.java, *OPENS, *self.jvm, *jvm,
              '-Dlog4j.configurationFile=file:%s/conf/log4j.properties' % self.folder, '-cp',
              '%s/lib/*' % self.home, main, '--configDir', '%s/conf' % self.folder, *arguments
          ],
          cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
          env={**os.environ, 'FLINK_CONF_DIR': '%s/conf' % self.folder})

  def start(self, taskmanagers=1):
    self.start_jobmanager()
    for _ in range(taskmanagers):
      self.add_taskmanager()
    self.wait(lambda: self.get('/overview')['slots-total'] >= taskmanagers * self.slots)
    return self

  def start_jobmanager(self):
    self.jobmanager = self._java(
        'jobmanager', ['-Xmx%s' % JOBMANAGER_HEAP],
        'org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint', [])
    self.wait(lambda: self.get('/config'))

  def renew_taskmanagers(self):
    """Others in the place of those there are, with all of their slots free."""
    count = len(self.taskmanagers)
    end(self.taskmanagers)
    self.taskmanagers = []
    # The JobManager counts the slots of those that have ended until it misses their heartbeats.
    self.wait(lambda: self.get('/overview')['taskmanagers'] == 0)
    for _ in range(count):
      self.add_taskmanager()
    self.wait(lambda: self.get('/overview')['slots-available'] >= count * self.slots)

  def add_taskmanager(self):
    told = subprocess.run(
        [
            self.java, '-cp', '%s/bin/bash-java-utils.jar:%s/lib/*' % (self.home, self.home),
            'org.apache.flink.runtime.util.bash.BashJavaUtils', 'GET_TM_RESOURCE_PARAMS',
            '--configDir', '%s/conf' % self.folder
        ], check=True, capture_output=True, text=True, timeout=START_SECONDS).stdout
    results = [line[len(RESULT):] for line in told.splitlines() if line.startswith(RESULT)]
    jvm, dynamic = results[0].split(), results[1].split()
    process = self._java(
        'taskmanager-%d' % len(self.taskmanagers), jvm,
        'org.apache.flink.runtime.taskexecutor.TaskManagerRunner', dynamic)
    self.taskmanagers.append(process)
    return process

  def get(self, path):
    with self._ask(urllib.request.Request(self._url(path))) as answer:
      return json.load(answer)

  def _url(self, path):
    return '%s%s/v1%s' % ('' if self.tls else 'http://', self.master, path)

  def _ask(self, request):
    return urllib.request.urlopen(request, timeout=10, context=self.tls)

  def cancel_all(self):
    """Asks each job that has not ended to do so."""
    for job in self.get('/jobs/overview')['jobs']:
      if job['state'] not in ENDED:
        request = urllib.request.Request(self._url('/jobs/%s?mode=cancel' % job['jid']), method='PATCH')
        try:
          self._ask(request).close()
        except urllib.error.HTTPError:
          pass  # it has ended just now

  def wait(self, condition, seconds=START_SECONDS):
    """Waits until `condition()` is true; an error in it means not yet."""
    deadline = time.monotonic() + seconds
    while True:
      try:
        found = condition()
        if found:
          return found
        error = None
      except (OSError, KeyError, ValueError) as e:
        error = e
      assert self.jobmanager.poll() is None, 'the JobManager ended:\n' + self.log_tail()
      assert time.monotonic() < deadline, 'not within %d s: %s\n%s' % (seconds, error, self.log_tail())
      time.sleep(0.1)

  def log_tail(self, name='jobmanager', lines=30):
    return '\n'.join((self.folder / (name + '.log')).read_text(errors='replace').splitlines()[-lines:])

  def stop(self):
    end([*self.taskmanagers, self.jobmanager])


def end(processes):
  """Ends those that have not, and waits for them."""
  left = [process for process in processes if process is not None and process.poll() is None]
  for process in left:
    process.terminate()
    process.send_signal(signal.SIGCONT)  # a test may have stopped it
  for process in left:
    try:
      process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
