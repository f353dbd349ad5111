"""Real pipelines as data: what the tests of this folder share.

A case is a function that builds a pipeline and checks its results inside the pipeline. Each check
counts itself with a metric, and `run_case` compares the committed count with the number of checks
that were built: a runner that loses the elements, or the checks, cannot pass.
"""

import dataclasses
import os
import typing

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2 as jobs
from apache_beam.runners.portability import portable_runner
from apache_beam.testing.util import assert_that, equal_to

import wire

NAMESPACE = 'beamline.tests'
CHECKED = 'checked'


@dataclasses.dataclass
class Case:
  """A pipeline to run.

  build: takes a pipeline (and a folder of its own, if `folder` is set) and adds to it.
  after: called with the PipelineResult, the pipeline's folder, and the options it ran with.
  options: pipeline options it needs. loopback_only: it looks at state shared with the client.
  matrix: run under every bundle size, parallelism and fault, too.
  stream: it has a TestStream, of which a job has but one, and which makes a streaming job of it.
  """
  name: str
  build: typing.Callable
  after: typing.Optional[typing.Callable] = None
  options: tuple = ()
  loopback_only: bool = False
  matrix: bool = False
  stream: bool = False
  folder: bool = False


CASES = {}


def case(**how):
  """Registers the function below it under its own name."""
  def register(build):
    assert build.__name__ not in CASES, build.__name__
    CASES[build.__name__] = Case(build.__name__, build, **how)
    return build

  return register


class _Counted:
  """A matcher that counts that it ran, and passed."""
  def __init__(self, matcher):
    self.matcher = matcher

  def __call__(self, actual):
    self.matcher(actual)
    Metrics.counter(NAMESPACE, CHECKED).inc()


def check_with(pcollection, matcher, label='Check'):
  """Applies `matcher` to the whole PCollection, wherever its elements are windowed."""
  pipeline = pcollection.pipeline
  pipeline.beamline_checks = getattr(pipeline, 'beamline_checks', 0) + 1
  assert_that(pcollection, _Counted(matcher), label=label)


def check(pcollection, expected, label='Check'):
  """The PCollection holds exactly `expected`, in any order."""
  check_with(pcollection, equal_to(list(expected)), label)


class _InCase(beam.PTransform):
  """Puts a case under a label of its own, so that many cases fit in one pipeline."""
  def __init__(self, case_, folder):
    super().__init__()
    self.case, self.folder = case_, folder

  def expand(self, begin):
    if self.case.folder:
      self.case.build(begin.pipeline, self.folder)
    else:
      self.case.build(begin.pipeline)
    return pvalue.PDone(begin.pipeline)


def portable_options(endpoint, environment=('LOOPBACK', None), extra=()):
  kind, config = environment
  arguments = [
      '--runner=PortableRunner', '--job_endpoint=' + endpoint, '--environment_type=' + kind
  ]
  if config:
    arguments.append('--environment_config=' + config)
  return arguments + list(extra)


def checks_passed(result):
  """How many checks ran, by the job's committed counters."""
  found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE).with_name(CHECKED))
  return sum(counter.committed or 0 for counter in found['counters'])


def run_pipeline(pipeline):
  """Runs it to its end; a job that is still there when this fails is cancelled."""
  result = pipeline.run()
  wait_or_cancel(result)
  return result


def wait_or_cancel(result):
  finished = False
  try:
    result.wait_until_finish()
    finished = True
  finally:
    if not finished:
      cancel_quietly(result)


def cancel_quietly(result):
  """A failing test must not leave a job to disturb the next; its own error is the one to see."""
  try:
    if result.state not in ('DONE', 'FAILED', 'CANCELLED', 'DRAINED'):
      result.cancel()
  except Exception as e:  # pylint: disable=broad-except
    print('could not cancel the job:', e)


def build_cases(cases, arguments, folder):
  """One pipeline of all the cases, and the folder of each."""
  options = [*arguments]
  for one in cases:
    options += [o for o in one.options if o not in options]
  pipeline = beam.Pipeline(options=PipelineOptions(options))
  folders = {}
  for one in cases:
    folders[one.name] = os.path.join(str(folder), one.name)
    os.makedirs(folders[one.name])
    pipeline | one.name >> _InCase(one, folders[one.name])  # pylint: disable=expression-not-assigned
  return pipeline, folders


def check_result(result, checks, cases, folders):
  """Every check of the cases ran exactly once, and what they left behind is right."""
  assert result.state == 'DONE'
  assert checks_passed(result) == checks, 'checks that ran, and were committed'
  for one in cases:
    if one.after:
      one.after(result, folders[one.name])


def run_cases(cases, arguments, folder):
  """Runs the cases as one job."""
  pipeline, folders = build_cases(cases, arguments, folder)
  result = run_pipeline(pipeline)
  check_result(result, pipeline.beamline_checks, cases, folders)


class PreparedCases:
  """Cases made into a proto once, to be run as a job many times: making it takes longer than
  running it. `arguments` say where its workers are, and how the client optimizes it."""
  def __init__(self, cases, arguments, folder):
    pipeline, self.folders = build_cases(cases, arguments, folder)
    self.cases = cases
    self.checks = pipeline.beamline_checks
    self.proto = portable_runner.PortableRunner.get_proto_pipeline(pipeline, pipeline.options)
    self.inputs = self._files()

  def _files(self):
    return {
        os.path.join(parent, name)
        for folder in self.folders.values() for parent, _, names in os.walk(folder)
        for name in names
    }

  def run(self, stub, **options):
    """Runs them with these options of the job; what an earlier run wrote is removed first."""
    for path in self._files() - self.inputs:
      os.unlink(path)
    job_id = wire.submit(stub, self.proto, **options)
    result = portable_runner.PipelineResult(
        stub, job_id, stub.GetMessageStream(jobs.JobMessagesRequest(job_id=job_id)),
        stub.GetStateStream(jobs.GetJobStateRequest(job_id=job_id)))
    wait_or_cancel(result)
    check_result(result, self.checks, self.cases, self.folders)
