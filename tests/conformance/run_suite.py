#!/usr/bin/env python3
"""Run one conformance suite of the Beam Python SDK against a Job Service.

  run_suite.py ENDPOINT SUITE [options]
  run_suite.py localhost:8073 portable
  run_suite.py localhost:8073 transforms -k GroupBy --timeout 30
  run_suite.py --serve 'target/release/beamline serve --job-port={port}' auto portable

Run it with the Python of .venv (`make venv`).  See README.md.
"""
import argparse
import collections
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import slow  # noqa: E402
import suites  # noqa: E402

BAD = ('fail', 'refused', 'error', 'timeout', 'crash', 'xpass')
BOOT = os.path.join(os.path.dirname(HERE), 'sdk', 'process_boot.sh')


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def answers(endpoint, seconds=1.0):
  host, port = endpoint.rsplit(':', 1)
  deadline = time.time() + seconds
  while True:
    try:
      with socket.create_connection((host, int(port)), timeout=2):
        return True
    except OSError:
      if time.time() >= deadline:
        return False
      time.sleep(0.2)


class Server:
  """A Job Service started (and restarted) by the harness: --serve."""
  def __init__(self, command, log):
    self.command, self.log = command, log
    self.port = free_port()
    self.endpoint = 'localhost:%d' % self.port
    self.process = None
    self.starts = 0

  def start(self):
    self.stop()
    self.starts += 1
    with open(self.log, 'ab') as out:
      self.process = subprocess.Popen(
          shlex.split(self.command.replace('{port}', str(self.port))),
          stdout=out, stderr=out, stdin=subprocess.DEVNULL,
          start_new_session=True)
    if not answers(self.endpoint, 120):
      raise SystemExit('server did not come up; see ' + self.log)
    time.sleep(0.5)

  def ok(self):
    return (
        self.process is not None and self.process.poll() is None and
        answers(self.endpoint, 5))

  def stop(self):
    if self.process is not None and self.process.poll() is None:
      os.killpg(self.process.pid, signal.SIGTERM)
      try:
        self.process.wait(15)
      except subprocess.TimeoutExpired:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def parse():
  p = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  p.add_argument('endpoint', help="host:port, or 'auto' with --serve, or "
                 "'none' for the fnapi-inprocess suites")
  p.add_argument('suite', choices=sorted(suites.SUITES))
  p.add_argument('-k', help='pytest -k expression')
  p.add_argument('--env', default='LOOPBACK',
                 choices=['LOOPBACK', 'EXTERNAL', 'PROCESS', 'DOCKER'])
  p.add_argument('--env-config', default='',
                 help='EXTERNAL: worker pool host:port, or "pool" to start one '
                 'here; PROCESS: JSON, or "boot" for process_boot.py; '
                 'DOCKER: image')
  p.add_argument('--opt', action='append', default=[],
                 help='extra pipeline option, e.g. --opt=--parallelism=2')
  p.add_argument('--timeout', type=int, default=60, help='seconds per test')
  p.add_argument('--limit', type=int, default=3600, help='seconds in all')
  p.add_argument('--no-force', action='store_true',
                 help='do not redirect pipelines that name no runner')
  p.add_argument('--force-all', action='store_true',
                 help="also redirect pipelines pinned to 'FnApiRunner'")
  p.add_argument('--unskip', action='store_true',
                 help='also run tests the SDK skips with @unittest.skip')
  p.add_argument('--only', help='file with test ids (first column); run those')
  p.add_argument('--again', action='store_true',
                 help='run again what did not pass in the result directory, '
                 'and put the new outcomes in place of the old')
  p.add_argument('--serve', help='command that starts a Job Service; {port} '
                 'is replaced; restarted if it dies or a test hangs')
  p.add_argument('--out', help='result directory')
  p.add_argument('--baseline', help='results.tsv of an earlier run: report '
                 'tests that passed there and do not pass now')
  p.add_argument('--name', default='', help='label of the runner under test')
  return p.parse_args()


def locate(path, beam):
  kind, rest = path.split(':', 1)
  return os.path.join(beam if kind == 'beam' else HERE, rest)


def main():
  a = parse()
  out = os.path.abspath(
      a.out or os.path.join(HERE, 'results', '%s-%s' % (
          a.name or a.endpoint.replace(':', '_'), a.suite)))
  os.makedirs(out, exist_ok=True)
  record, done_file = os.path.join(out, 'record.jsonl'), os.path.join(out, 'done')
  log_path = os.path.join(out, 'pytest.log')
  old = collections.OrderedDict()
  if a.again:
    with open(record) as f:
      for line in f:
        e = json.loads(line)
        if e['event'] == 'finish':
          e.setdefault('outcome', 'error')
          old[e['id']] = e
    with open(os.path.join(out, 'summary.json')) as f:
      spent = json.load(f)['seconds']
    a.only = os.path.join(out, 'again')
    with open(a.only, 'w') as f:
      f.writelines(i + '\n' for i, e in old.items() if e['outcome'] in BAD)
    log_path = os.path.join(out, 'pytest-again.log')
  for stale in (record, done_file, log_path):
    if os.path.exists(stale):
      os.unlink(stale)
  beam = subprocess.check_output(
      [sys.executable, '-c',
       'import importlib.util as u;'
       'print(u.find_spec("apache_beam").submodule_search_locations[0])'],
      text=True).strip()

  server = None
  if a.serve:
    server = Server(a.serve, os.path.join(out, 'server.log'))
    server.start()
    a.endpoint = server.endpoint
  elif a.endpoint != 'none' and not answers(a.endpoint, 10):
    raise SystemExit('nothing listens at ' + a.endpoint)

  env = dict(os.environ)
  env['PATH'] = os.path.dirname(sys.executable) + os.pathsep + env['PATH']
  env['PYTHONPATH'] = HERE + os.pathsep + env.get('PYTHONPATH', '')
  env['PYTHONDONTWRITEBYTECODE'] = '1'
  pool = None
  if a.env_config == 'pool':
    port = free_port()
    pool = subprocess.Popen(
        [sys.executable, '-m', 'apache_beam.runners.worker.worker_pool_main',
         '--service_port=%d' % port], env=env,
        stdout=open(os.path.join(out, 'pool.log'), 'wb'),
        stderr=subprocess.STDOUT, start_new_session=True)
    a.env_config = 'localhost:%d' % port
    if not answers(a.env_config, 60):
      raise SystemExit('worker pool did not come up')
  elif a.env_config == 'boot':
    a.env_config = json.dumps(
        {'command': BOOT,
         'env': {'BEAMLINE_TEST_PYTHON': sys.executable, 'PYTHONPATH': HERE}})

  paths, extra, *more = suites.SUITES[a.suite]
  a.opt = list(more[0] if more else []) + a.opt
  inprocess = a.endpoint == 'none'
  command = [
      sys.executable, '-m', 'pytest', '-c', os.path.join(HERE, 'pytest.ini'),
      '--rootdir', HERE, '-p', 'beam_conformance_plugin', '-q',
      '--timeout=%d' % a.timeout, '--timeout-method=signal', '--tb=native',
      '--continue-on-collection-errors'
  ] + extra + (['-k', a.k] if a.k else [])
  env.update(BC_RECORD=record, BC_DONE=done_file)
  if not inprocess:
    env.update(
        BC_ENDPOINT=a.endpoint, BC_ENV_TYPE=a.env, BC_ENV_CONFIG=a.env_config,
        BC_EXTRA_OPTIONS=' '.join(a.opt), 
        BC_FORCE='0' if a.no_force else 'all' if a.force_all else '1')
    options = ['--runner=PortableRunner', '--job_endpoint=' + a.endpoint,
               '--environment_type=' + a.env,
               '--temp_location=' + tempfile.mkdtemp(prefix='bc-temp-')]
    if a.env_config:
      options.append('--environment_config=' + shlex.quote(a.env_config))
    if a.suite not in ('portable',) and not a.suite.startswith('portable-'):
      command.append('--test-pipeline-options=' + ' '.join(options + a.opt))
  if a.unskip:
    env['BC_UNSKIP'] = '1'
  if a.only:
    env['BC_ONLY'] = os.path.abspath(a.only)
  command += [locate(p, beam) for p in paths]

  began = time.time()
  results, errors, notes = collections.OrderedDict(), {}, []
  restarts, internal, collected, stopped = 0, 0, 0, ''
  offset, current, current_since = 0, None, 0.0

  def drain():
    nonlocal offset, current, current_since, collected
    if not os.path.exists(record):
      return
    with open(record) as f:
      f.seek(offset)
      for line in iter(f.readline, ''):
        if not line.endswith('\n'):
          break
        offset += len(line.encode())
        e = json.loads(line)
        if e['event'] == 'start':
          current, current_since = e['id'], time.time()
        elif e['event'] == 'finish':
          results[e['id']] = e
          current = None
        elif e['event'] == 'collected':
          collected = max(collected, e['n'])
        elif e['event'] == 'collect_error':
          errors[e['id']] = e['message']

  child = None
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  try:
    while True:
      with open(done_file, 'w') as f:
        f.writelines(i + '\n' for i in results)
      with open(log_path, 'ab') as log:
        child = subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=out,
            stdin=subprocess.DEVNULL, start_new_session=True)
      why = ''
      seen_timeouts = sum(r['outcome'] == 'timeout' for r in results.values())
      while child.poll() is None:
        time.sleep(0.5)
        drain()
        now = time.time()
        if now - began > a.limit:
          why = 'limit'
        elif current and now - current_since > slow.bound(current, a.timeout) + 30:
          why = 'hang'
        elif server is not None:
          timeouts = sum(r['outcome'] == 'timeout' for r in results.values())
          if not server.ok():
            why = 'server died'
            notes.append('server died during or after %s' % (
                current or next(reversed(results), '?')))
          elif timeouts > seen_timeouts:
            why = 'restart after a timeout'
        if why:
          os.killpg(child.pid, signal.SIGKILL)
          child.wait()
      drain()
      if current:  # the process died, or was ended, inside this test
        if why not in ('restart after a timeout', 'limit'):
          results[current] = {
              'id': current, 'jobs': -1, 'left': -1, 'message': why or 'crash',
              'outcome': 'timeout' if why == 'hang' else 'crash',
              'seconds': round(time.time() - current_since, 3)}
        current = None
      elif not why and child.returncode in (0, 1, 5):
        break
      elif not why:
        internal += 1
        notes.append('pytest ended with code %d after %s; resumed' % (
            child.returncode, next(reversed(results), '?')))
        if internal > 5:
          stopped = 'pytest keeps failing; see pytest.log'
          break
      if why == 'limit':
        stopped = 'stopped by --limit'
        break
      restarts += 1
      if restarts > 200:
        stopped = 'too many restarts'
        break
      if server is not None:
        server.start()
      elif not inprocess and not answers(a.endpoint, 30):
        stopped = 'endpoint is gone; last test: %s' % next(
            reversed(results), '?')
        break
  finally:
    if child is not None and child.poll() is None:
      os.killpg(child.pid, signal.SIGKILL)
    if server is not None:
      server.stop()
    if pool is not None:
      os.killpg(pool.pid, signal.SIGTERM)

  if not stopped and len(results) != collected:
    stopped = 'INCOMPLETE: %d tests collected' % collected
  seconds = time.time() - began
  if old:
    for i, e in results.items():
      if e['outcome'] != old[i]['outcome']:
        notes.append('%s: %s, again: %s' % (i, old[i]['outcome'], e['outcome']))
    old.update(results)
    results, seconds = old, seconds + spent
    with open(record, 'w') as f:
      f.writelines(json.dumps(e) + '\n' for e in results.values())
  write(a, out, results, errors, notes, seconds, restarts, stopped, inprocess)


def brief(message):
  """The line of a failure's text that says most (and what follows it)."""
  lines = [x.strip() for x in message.strip().splitlines() if x.strip()]
  told = [x[2:].strip() for x in lines if x.startswith('E ')]
  for some in (told, lines):
    for i in reversed(range(len(some))):
      if any(w in some[i] for w in ('Error', 'Exception', 'Timeout', 'rror:',
                                    'assert', 'failed in state')):
        text = ' '.join(' '.join(some[i:i + 5]).split())
        return text[:400]
  return ' '.join((lines or [''])[-1].split())[:400]


def write(a, out, results, errors, notes, seconds, restarts, stopped, inprocess):
  rows = list(results.values())
  reached = [r for r in rows if r['jobs'] != 0] if not inprocess else rows

  def counts(some):
    c = collections.Counter(r['outcome'] for r in some)
    return {k: c[k] for k in ('pass', 'fail', 'refused', 'error', 'timeout', 'crash',
                              'skip', 'xfail', 'xpass') if c[k]}

  with open(os.path.join(out, 'results.tsv'), 'w') as f:
    for r in sorted(rows, key=lambda r: r['id']):
      f.write('%s\t%s\t%.2f\t%d\t%s\n' % (
          r['id'], r['outcome'], r['seconds'], r['jobs'],
          '' if r['outcome'] == 'pass' else
          ' '.join(r['message'].split())[:600] if r['outcome'] == 'refused' else
          brief(r['message'])))
  with open(os.path.join(out, 'features.tsv'), 'w') as f:
    for r in sorted(rows, key=lambda r: r['id']):
      if r.get('features'):
        f.write('%s\t%s\t%s\n' % (
            r['id'], r['outcome'], ' '.join(r['features'])))
  root = ElementTree.Element('testsuite', {
      'name': a.suite, 'tests': str(len(rows)), 'time': '%.3f' % seconds,
      'failures': str(sum(r['outcome'] in ('fail', 'refused', 'xpass') for r in rows)),
      'errors': str(sum(r['outcome'] in ('error', 'timeout', 'crash')
                        for r in rows)),
      'skipped': str(sum(r['outcome'] in ('skip', 'xfail') for r in rows))})
  for r in rows:
    cls, name = r['id'].rsplit('::', 1)
    case = ElementTree.SubElement(root, 'testcase', {
        'classname': cls.replace('::', '.'), 'name': name,
        'time': '%.3f' % r['seconds']})
    tag = {'fail': 'failure', 'refused': 'failure', 'xpass': 'failure', 'skip': 'skipped',
           'xfail': 'skipped', 'pass': None}.get(r['outcome'], 'error')
    if tag:
      text = ''.join(
          ch for ch in r['message'] if ch >= ' ' or ch in '\n\t')
      child = ElementTree.SubElement(case, tag, {
          'message': (text.strip().splitlines() or [r['outcome']])[-1][:300]})
      child.text = text
  ElementTree.ElementTree(root).write(
      os.path.join(out, 'junit.xml'), encoding='unicode', xml_declaration=True)

  summary = {
      'runner': a.name, 'endpoint': a.endpoint, 'suite': a.suite, 'env': a.env,
      'timeout': a.timeout, 'opt': a.opt,
      'k': None if a.again else a.k, 'seconds': round(seconds, 1),
      'total': len(rows), 'all': counts(rows),
      'reached_endpoint': {'total': len(reached), **counts(reached)},
      'jobs': sum(max(r['jobs'], 0) for r in rows),
      'left_running': [r['id'] for r in rows if r['left'] > 0],
      'restarts': restarts, 'collect_errors': errors, 'notes': notes,
      'stopped': stopped}
  worse = []
  if a.baseline:
    before = {}
    with open(a.baseline) as f:
      for line in f:
        cells = line.rstrip('\n').split('\t')
        before[cells[0]] = cells[1]
    worse = sorted(r['id'] for r in rows
                   if before.get(r['id']) == 'pass' and r['outcome'] != 'pass')
    summary['regressions'] = worse
  with open(os.path.join(out, 'summary.json'), 'w') as f:
    json.dump(summary, f, indent=1)
    f.write('\n')
  for r in rows:
    if r['outcome'] in BAD:
      print('%-8s %7.2fs %s' % (r['outcome'], r['seconds'], r['id']))
  for i in errors:
    print('collect-error    ', i)
  for i in worse:
    print('REGRESSION       ', i)
  line = ' '.join('%s=%d' % kv for kv in counts(rows).items())
  print('SUITE %s on %s (%s, %s): total=%d %s | tests that reached the endpoint'
        '=%d pass=%d | jobs=%d seconds=%.0f restarts=%d%s' % (
            a.suite, a.name or '-', a.endpoint, a.env, len(rows), line,
            len(reached), counts(reached).get('pass', 0), summary['jobs'],
            seconds, restarts, ' ' + stopped if stopped else ''))
  ok = not stopped and not errors and not worse
  if not a.baseline:
    ok = ok and not any(r['outcome'] in BAD for r in rows)
  sys.exit(0 if ok else 1)


if __name__ == '__main__':
  main()
