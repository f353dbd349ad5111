"""pytest plugin: point the Beam Python SDK's own tests at one Job Service.

Loaded by run_suite.py with `-p beam_conformance_plugin`.  It takes the place of
the SDK's conftest.py, which the wheel does not ship, and adds:

* --test-pipeline-options (same meaning as in the SDK's conftest.py);
* "force" mode: every beam.Pipeline built with no runner, or with the default
  DirectRunner (or PrismRunner by name), is sent to the endpoint too (many tests build their own
  PipelineOptions and so would ignore --test-pipeline-options); BC_FORCE=all
  also redirects the runner names 'FnApiRunner' and 'BundleBasedDirectRunner',
  to which the SDK pins some tests (often because they assume one bundle);
* per test, the number of jobs submitted to the endpoint; a test that passes
  with 0 jobs says nothing about the runner;
* jobs a test leaves unfinished (hang, timeout, failure) are cancelled, so that
  they do not burden the tests that follow;
* whether Prepare refused the pipeline as not supported (UNIMPLEMENTED), and
  what it named: such a test is `refused`, which is not the same as `fail`;
* one JSON line per test start and end, so that the driver can resume after a
  crash or a hang that even SIGALRM cannot break.

Configuration comes through the environment (set by run_suite.py):
  BC_ENDPOINT BC_ENV_TYPE BC_ENV_CONFIG BC_EXTRA_OPTIONS BC_FORCE BC_RECORD
  BC_DONE BC_ONLY BC_UNSKIP
"""
import copy
import json
import os
import shlex
import threading
import time

import grpc
import pytest

import slow

RECORD = os.environ.get('BC_RECORD')
DIRECT_NAMES = {
    'directrunner', 'switchingdirectrunner', 'apache_beam.runners.directrunner',
    'apache_beam.runners.direct.direct_runner.switchingdirectrunner',
    'prismrunner',  # the ordered_window_elements examples name it
}


def endpoint_args():
  """Pipeline options (argv form) that select the endpoint under test."""
  args = [
      '--runner=PortableRunner',
      '--job_endpoint=' + os.environ['BC_ENDPOINT'],
      '--environment_type=' + os.environ.get('BC_ENV_TYPE', 'LOOPBACK'),
  ]
  if os.environ.get('BC_ENV_CONFIG'):
    args.append('--environment_config=' + os.environ['BC_ENV_CONFIG'])
  return args + shlex.split(os.environ.get('BC_EXTRA_OPTIONS', ''))


class _Jobs:
  """Jobs submitted since the current test began."""
  def __init__(self):
    self.lock = threading.Lock()
    self.jobs = []
    self.submitted = 0
    self.features = set()
    self.refusals = []

  def add(self, service, job_id):
    with self.lock:
      self.jobs.append((service, job_id))

  def take(self):
    with self.lock:
      jobs, self.jobs = self.jobs, []
    return jobs


JOBS = _Jobs()
_current = {}


def _emit(obj):
  if RECORD:
    with open(RECORD, 'a') as f:
      f.write(json.dumps(obj) + '\n')


def _install_job_tracking():
  import proto_features
  from apache_beam.runners.portability import portable_runner
  original_run = portable_runner.JobServiceHandle.run
  original_submit = portable_runner.JobServiceHandle.submit
  original_prepare = portable_runner.JobServiceHandle.prepare

  def submit(self, proto_pipeline):
    JOBS.submitted += 1  # counts pipelines rejected in Prepare as well
    try:
      JOBS.features.update(proto_features.features(proto_pipeline))
    except Exception as e:  # never the test's business
      JOBS.features.add('unreadable:' + repr(e)[:100])
    return original_submit(self, proto_pipeline)

  def prepare(self, proto_pipeline):
    try:
      return original_prepare(self, proto_pipeline)
    except grpc.RpcError as e:
      if e.code() == grpc.StatusCode.UNIMPLEMENTED:
        JOBS.refusals.append(e.details())
      raise

  def run(self, preparation_id):
    result = original_run(self, preparation_id)
    JOBS.add(self.job_service, result[0])
    return result

  portable_runner.JobServiceHandle.submit = submit
  portable_runner.JobServiceHandle.prepare = prepare
  portable_runner.JobServiceHandle.run = run


def _install_force_mode():
  from apache_beam import pipeline as pipeline_module
  from apache_beam.options.pipeline_options import PipelineOptions
  from apache_beam.options.pipeline_options import PortableOptions
  from apache_beam.options.pipeline_options import StandardOptions
  from apache_beam.runners.direct import direct_runner
  original = pipeline_module.Pipeline.__init__

  if os.environ.get('BC_FORCE') == 'all':
    DIRECT_NAMES.update(('fnapirunner', 'bundlebaseddirectrunner'))

  def is_default(runner):
    if runner is None:
      return True
    if isinstance(runner, str):
      return runner.lower() in DIRECT_NAMES
    return type(runner) is direct_runner.SwitchingDirectRunner

  def init(self, runner=None, options=None, argv=None, display_data=None):
    named = runner
    if named is None and isinstance(options, PipelineOptions):
      named = options.view_as(StandardOptions).runner
    if named is None and options is None and isinstance(argv, list):
      named = PipelineOptions(argv).view_as(StandardOptions).runner
    if is_default(named) and (options is None or
                              isinstance(options, PipelineOptions)):
      if options is None:
        options = PipelineOptions(argv if isinstance(argv, list) else [])
      else:
        saved = options.view_as(StandardOptions).runner
        options.view_as(StandardOptions).runner = None
        try:
          forced = copy.deepcopy(options)
        finally:
          options.view_as(StandardOptions).runner = saved
        options = forced
      wanted = PipelineOptions(endpoint_args())
      options.view_as(StandardOptions).runner = 'PortableRunner'
      mine, theirs = (
          options.view_as(PortableOptions), wanted.view_as(PortableOptions))
      mine.job_endpoint = theirs.job_endpoint
      mine.environment_type = theirs.environment_type
      mine.environment_config = theirs.environment_config
      runner, argv = None, None
    original(self, runner, options, argv, display_data)

  pipeline_module.Pipeline.__init__ = init


def pytest_addoption(parser):
  parser.addoption(
      '--test-pipeline-options',
      help='Options to use in test pipelines (same as the SDK\'s conftest).')


def pytest_configure(config):
  for marker in ('it_validatesrunner', 'it_postcommit', 'no_direct', 'no_xdist',
                 'examples_postcommit', 'sickbay_direct', 'uses_mock_api',
                 'sickbay_streaming', 'sickbay_dataflow', 'sickbay_spark',
                 'sickbay_flink', 'sickbay_batch', 'sickbay_prism',
                 'no_sickbay_batch', 'no_sickbay_streaming', 'uses_dill',
                 'uses_java_expansion_service', 'uses_python_expansion_service',
                 'xlang_transforms', 'xlang_sql_expansion_service',
                 'dataframes', 'require_docker_in_docker', 'gemini_postcommit',
                 'it_dataflow', 'uses_transform_service', 'vertex_ai_postcommit',
                 'uses_gcp_java_expansion_service', 'uses_feast', 'uses_tft',
                 'uses_pytorch', 'uses_sklearn', 'uses_tensorflow',
                 'uses_keras', 'uses_tf', 'uses_onnx', 'uses_xgboost',
                 'xlang_wrapper_generation', 'load_test', 'timeout'):
    config.addinivalue_line('markers', marker + ': SDK marker')
  from apache_beam.options import pipeline_options
  from apache_beam.testing.test_pipeline import TestPipeline
  TestPipeline.pytest_test_pipeline_options = config.getoption(
      'test_pipeline_options', default='') or ''
  pipeline_options.enable_all_additional_type_checks()
  if os.environ.get('BC_ENDPOINT'):
    _install_job_tracking()
    if os.environ.get('BC_FORCE', '1') != '0':
      _install_force_mode()


def canonical_id(item):
  """module::Class::test, independent of where the wheel is installed."""
  parts = [item.module.__name__]
  if item.cls is not None:
    parts.append(item.cls.__name__)
  parts.append(item.name)
  return '::'.join(parts)


def _ids(variable):
  path = os.environ.get(variable)
  if not path or not os.path.exists(path):
    return None
  with open(path) as f:
    return {line.split('\t')[0].strip() for line in f if line.strip()}


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config, items):
  done, only = _ids('BC_DONE'), _ids('BC_ONLY')
  keep, drop = [], []
  for item in items:
    name = canonical_id(item)
    skip = (done is not None and name in done) or (
        only is not None and name not in only)
    (drop if skip else keep).append(item)
  if drop:
    config.hook.pytest_deselected(items=drop)
    items[:] = keep
  if os.environ.get('BC_UNSKIP') == '1':
    for item in items:
      _unskip(item)
  for item in items:
    seconds = slow.bound(canonical_id(item), None)
    if seconds:
      item.add_marker(pytest.mark.timeout(seconds))
  _emit({'event': 'collected', 'n': len(items)})


def _unskip(item):
  """Undoes @unittest.skip/skipIf on one test method."""
  if item.cls is None:
    return
  function = getattr(item.cls, item.name, None)
  if getattr(function, '__unittest_skip__', False) and hasattr(
      function, '__wrapped__'):
    setattr(item.cls, item.name, function.__wrapped__)
    item.own_markers[:] = [
        m for m in item.own_markers if m.name not in ('skip', 'skipif')]


def pytest_collectreport(report):
  if report.failed:
    _emit({
        'event': 'collect_error',
        'id': report.nodeid,
        'message': str(report.longrepr)[-2000:]
    })


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
  name = canonical_id(item)
  JOBS.take()
  JOBS.submitted = 0
  JOBS.features = set()
  JOBS.refusals = []
  _current.clear()
  _current.update({'id': name, 'outcome': None, 'message': '', 'phases': {}})
  _emit({'event': 'start', 'id': name, 't': time.time()})
  began = time.time()
  try:
    return (yield)
  finally:
    seconds = time.time() - began
    jobs, left = JOBS.take(), 0
    if jobs:
      left = _cancel_unfinished(jobs, _current.get('outcome') == 'pass')
    outcome, message = _current.get('outcome'), _current.get('message', '')
    # One that passes because it wants an exception, whichever, was not run either.
    if JOBS.refusals and outcome in ('pass', 'fail', 'error'):
      outcome, message = 'refused', JOBS.refusals[-1]
    record = {
        'event': 'finish',
        'id': name,
        'outcome': outcome or 'error',
        'seconds': round(seconds, 3),
        'jobs': JOBS.submitted,
        'left': left,
        'features': sorted(JOBS.features),
        'message': message or ('' if outcome else 'pytest gave no report')
    }
    _emit(record)


def _cancel_unfinished(jobs, passed):
  """Cancels what the test left running; returns how many jobs that was."""
  from apache_beam.portability.api import beam_job_api_pb2 as pb
  terminal = (
      pb.JobState.DONE, pb.JobState.DRAINED, pb.JobState.FAILED,
      pb.JobState.CANCELLED)
  left = 0
  for service, job_id in jobs:
    try:
      deadline = time.time() + (1.0 if passed else 0.0)
      while True:
        state = service.GetState(
            pb.GetJobStateRequest(job_id=job_id), timeout=5).state
        if state in terminal or time.time() >= deadline:
          break
        time.sleep(0.1)
      if state not in terminal:
        left += 1
        service.Cancel(pb.CancelJobRequest(job_id=job_id), timeout=5)
    except Exception as e:  # the server may be gone: the driver notices
      _emit({'event': 'cancel_error', 'id': _current.get('id'), 'e': repr(e)[:300]})
  return left


def pytest_runtest_logreport(report):
  # Failing subtests are reported one by one; their test fails as well.
  text = ''
  if report.failed or report.skipped:
    text = (
        report.longrepr[2] if isinstance(report.longrepr, tuple) else str(
            report.longrepr or ''))
  order = {None: 0, 'pass': 1, 'skip': 2, 'xfail': 2, 'xpass': 3, 'fail': 4,
           'error': 5, 'timeout': 6}
  outcome = None
  if report.failed:
    outcome = 'fail' if report.when == 'call' else 'error'
    if 'from pytest-timeout' in text:
      outcome = 'timeout'
  elif report.skipped:
    outcome = 'xfail' if hasattr(report, 'wasxfail') else 'skip'
  elif report.when == 'call':
    outcome = 'xpass' if hasattr(report, 'wasxfail') else 'pass'
  if order[outcome] > order[_current.get('outcome')]:
    _current['outcome'] = outcome
    if text:
      _current['message'] = text[-4000:]
