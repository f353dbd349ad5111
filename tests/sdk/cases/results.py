"""What a job tells its author besides its outputs: metrics, and finalized bundles."""

import os

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter

from harness import case, check

SPACE = 'beamline.tests.metrics'


class _Measure(beam.DoFn):
  def process(self, element):
    Metrics.counter(SPACE, 'elements').inc()
    Metrics.counter(SPACE, 'total').inc(element)
    Metrics.distribution(SPACE, 'sizes').update(element)
    Metrics.gauge(SPACE, 'last').set(7)
    Metrics.string_set(SPACE, 'names').add('even' if element % 2 == 0 else 'odd')
    yield element


def _one(result, name, kind):
  found, = result.metrics().query(
      MetricsFilter().with_namespace(SPACE).with_name(name))[kind]
  return found


def _after_metrics(result, unused_folder):
  assert _one(result, 'elements', 'counters').committed == 100
  assert _one(result, 'total', 'counters').committed == 4950
  sizes = _one(result, 'sizes', 'distributions').committed
  assert (sizes.count, sizes.sum, sizes.min, sizes.max) == (100, 4950, 0, 99)
  assert _one(result, 'last', 'gauges').committed.value == 7
  assert _one(result, 'names', 'string_sets').committed == {'even', 'odd'}
  step = _one(result, 'elements', 'counters').key.step
  assert 'Measured' in step, step


@case(after=_after_metrics, matrix=True)
def metrics(p):
  check(p | beam.Create(range(100)) | 'Measured' >> beam.ParDo(_Measure()), range(100))


def _after_same_metric(result, unused_folder):
  found = result.metrics().query(
      MetricsFilter().with_namespace(SPACE).with_name('shared'))['counters']
  counts = {('Once' if 'Once' in f.key.step else 'Twice', f.committed) for f in found}
  assert len(found) == 2 and counts == {('Once', 3), ('Twice', 6)}, found


@case(after=_after_same_metric)
def one_metric_in_two_steps(p):
  def count(x, by):
    Metrics.counter(SPACE, 'shared').inc(by)
    return x

  source = p | beam.Create([1, 2, 3])
  check(source | 'Once' >> beam.Map(count, by=1), [1, 2, 3], 'CheckOnce')
  check(source | 'Twice' >> beam.Map(count, by=2), [1, 2, 3], 'CheckTwice')


class _Finalize(beam.DoFn):
  """Leaves a file for each element when its bundle has been committed."""
  def __init__(self, folder):
    self.folder = folder

  def process(self, element, finalizer=beam.DoFn.BundleFinalizerParam):
    path = os.path.join(self.folder, 'committed-%s' % element)
    finalizer.register(lambda: open(path, 'w', encoding='utf-8').close())
    yield element


def _after_finalized(unused_result, folder):
  assert sorted(os.listdir(folder)) == ['committed-%d' % i for i in range(5)]


@case(folder=True, after=_after_finalized, matrix=True)
def bundles_finalized(p, folder):
  check(p | beam.Create(range(5)) | beam.ParDo(_Finalize(folder)), range(5))


class _FinalizeBadly(beam.DoFn):
  def process(self, element, finalizer=beam.DoFn.BundleFinalizerParam):
    def fail():
      raise RuntimeError('in a finalization callback')

    finalizer.register(fail)
    yield element


@case()
def finalization_that_fails(p):
  """The bundle is committed: an exception in a callback must not fail the job."""
  check(p | beam.Create([1, 2]) | beam.ParDo(_FinalizeBadly()), [1, 2])
