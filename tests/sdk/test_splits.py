"""Running bundles are shared with idle workers, and asked how far they are; workers are asked for their own metrics."""

import os
import tempfile
import threading
import time

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.metrics import Metrics
from apache_beam.metrics.execution import MetricsEnvironment
from apache_beam.metrics.metricbase import MetricName
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_job_api_pb2 as jobs
from apache_beam.transforms.core import RestrictionProvider

import harness
import wire

SPACE = 'beamline.tests.splits'
ELEMENTS = 100
PAUSE = 0.015  # seconds for each
SECONDS = wire.CALL_SECONDS  # nothing here may take longer
FAIL_FIRST = '--inject_bundle_failures=first_attempt'
INFOS = common_urns.monitoring_info_specs
READ_INDEX = INFOS.DATA_CHANNEL_READ_INDEX.spec.urn
WORK_LEFT = INFOS.WORK_REMAINING.spec.urn


@pytest.fixture
def stub(endpoint):
  with wire.job_service(endpoint) as service:
    yield service


# --- Work that takes its time

_LOCK = threading.Lock()
_RUNNING = [0, 0]  # in this process: now, at most
_BEGUN = [0]  # elements
# Work is held up in its middle until this is set. Over LOOPBACK, tests can wait for something before.
_GO_ON = threading.Event()
_GO_ON.set()


def wait_until(condition):
  """What comes of it if it does not come true is for the test to see."""
  deadline = time.monotonic() + SECONDS
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.01)


def slow(element, company):
  """Tells by which process it was done."""
  with _LOCK:
    _RUNNING[0] += 1
    _RUNNING[1] = max(_RUNNING)
    _BEGUN[0] += 1
    begun = _BEGUN[0]
  company.come()
  if begun == ELEMENTS // 10:
    company.wait()
  if begun == ELEMENTS // 2:
    _GO_ON.wait(SECONDS)
  time.sleep(PAUSE)
  Metrics.counter(SPACE, 'done').inc()
  Metrics.distribution(SPACE, 'process', process_wide=True).update(element)
  with _LOCK:
    _RUNNING[0] -= 1
  return element, os.getpid()


class Company:
  """So many workers are to be at the work at once. The first waits for the others when it has most of the work
  before it: who gets a part of that does not depend on how soon."""
  def __init__(self, workers):
    self.workers = workers
    self.processes = tempfile.mkdtemp(prefix='beamline-splits-')

  def come(self):
    open(os.path.join(self.processes, str(os.getpid())), 'w', encoding='utf-8').close()

  def wait(self):
    wait_until(lambda: max(_RUNNING[1], len(os.listdir(self.processes))) >= self.workers)


def meet(folder, workers):
  """Returns when so many are here."""
  os.close(tempfile.mkstemp(dir=folder)[0])
  wait_until(lambda: len(os.listdir(folder)) >= workers)
  return []


def when_there_are_workers(pipeline, numbers, company):
  """These come together, when two workers have been started for something else: a small bundle is not worth that.
  And as one bundle, which what comes out of a Reshuffle is not."""
  folder, workers = tempfile.mkdtemp(prefix='beamline-splits-'), company.workers
  nothing = pipeline | 'For two' >> beam.Create([1, 1]) | 'Read' >> beam.ParDo(
      _Count(), lambda _: meet(folder, workers))
  numbers = pipeline | 'Numbers' >> beam.Create(numbers)
  keyed = (numbers, nothing) | beam.Flatten() | 'By themselves' >> beam.Map(lambda number: (number, None))
  return keyed | beam.GroupByKey() | beam.Keys()


def elements(pipeline, company):
  """So little data is one bundle."""
  return when_there_are_workers(pipeline, range(ELEMENTS), company) | 'Slow' >> beam.Map(slow, company)


class _Range(RestrictionProvider):
  def initial_restriction(self, element):
    return OffsetRange(0, element)

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return restriction.size()


class _Count(beam.DoFn):
  """One restriction for all."""
  def process(self, element, work, tracker=beam.DoFn.RestrictionParam(_Range())):  # pylint: disable=arguments-differ
    position = tracker.current_restriction().start
    while tracker.try_claim(position):
      yield from work(position)
      position += 1


def restriction(pipeline, company):
  return when_there_are_workers(pipeline, [ELEMENTS], company) | 'Slow' >> beam.ParDo(
      _Count(), lambda position: [slow(position, company)])


def start(endpoint, work, environment=('LOOPBACK', None), options=(), workers=2):
  """Starts a job whose check is that every number was done once."""
  _RUNNING[:], _BEGUN[:] = [0, 0], [0]
  arguments = harness.portable_options(endpoint, environment, ['--sdk_workers=2', *options])
  pipeline = beam.Pipeline(options=PipelineOptions(arguments))

  def all_once(results):
    assert sorted(number for number, _ in results) == list(range(ELEMENTS)), results
    for pid in {pid for _, pid in results}:
      Metrics.counter(SPACE, 'process %d' % pid).inc()

  harness.check_with(work(pipeline, Company(workers)), all_once)
  return pipeline.run()


def finish(result):
  harness.wait_or_cancel(result)
  assert harness.checks_passed(result) == 1


def metrics_of(stub, result):
  return stub.GetJobMetrics(
      jobs.GetJobMetricsRequest(job_id=result._job_id),  # pylint: disable=protected-access
      timeout=wire.CALL_SECONDS).metrics


def named(infos, name):
  labels = ('NAMESPACE', SPACE), ('NAME', name)
  return [info for info in infos if all(info.labels.get(key) == value for key, value in labels)]


def counted(infos, name):
  return sum(coders.VarIntCoder().decode(info.payload) for info in named(infos, name))


def distribution(infos, name):
  """Count, sum, least and most."""
  info, = named(infos, name)
  stream = coders.coder_impl.create_InputStream(info.payload)
  return tuple(stream.read_var_int64() for _ in range(4))


def processes(infos):
  return [info.labels['NAME'] for info in infos if info.labels.get('NAMESPACE') == SPACE and
          info.labels['NAME'].startswith('process ')]


# --- Splits

WORK = {'between_elements': elements, 'within_an_element': restriction}


def over_work(test):
  return pytest.mark.parametrize('work', WORK.values(), ids=WORK)(test)


@over_work
def test_an_idle_worker_gets_a_part_of_the_bundle_that_runs(work, endpoint, external, stub):
  """Two processes."""
  result = start(endpoint, work, external)
  finish(result)
  metrics = metrics_of(stub, result)
  assert len(processes(metrics.committed)) == 2
  assert counted(metrics.committed, 'done') == ELEMENTS
  assert process_wide(metrics) == (ELEMENTS, sum(range(ELEMENTS)), 0, ELEMENTS - 1)


@over_work
@pytest.mark.parametrize('options', [(), (FAIL_FIRST,)], ids=['well', 'first_attempts_fail'])
def test_what_is_given_back_is_done_once(options, work, endpoint, stub):
  result = start(endpoint, work, options=options)
  finish(result)
  assert _RUNNING == [0, 2]
  metrics = metrics_of(stub, result)
  assert counted(metrics.committed, 'done') == ELEMENTS
  attempted = counted(metrics.attempted, 'done')
  if options:
    # Another attempt is at what was left to the bundle, not at what others have done. But it may be split as well,
    # and then others make two attempts at that.
    assert 2 * ELEMENTS <= attempted < 3 * ELEMENTS
  else:
    assert attempted == ELEMENTS


@over_work
def test_a_bundle_that_is_to_be_whole_is_not_split(work, endpoint):
  finish(start(endpoint, work, options=('--bundle_size=unbounded',), workers=1))
  assert _RUNNING == [0, 1]


# --- Checkpoints


class _EndlessRange(_Range):
  def truncate(self, element, restriction):
    return None


class _Endless(beam.DoFn):
  """Never stops by itself."""
  @beam.DoFn.unbounded_per_element()
  def process(self, element, tracker=beam.DoFn.RestrictionParam(_EndlessRange())):
    position = tracker.current_restriction().start
    while tracker.try_claim(position):
      time.sleep(0.005)
      Metrics.counter(SPACE, 'done').inc()
      Metrics.distribution(SPACE, 'read').update(position)
      yield position
      position += 1


@pytest.mark.parametrize('options', [(), (FAIL_FIRST,)], ids=['well', 'first_attempts_fail'])
def test_what_never_ends_is_checkpointed(options, endpoint, stub):
  """Else nothing of it would ever be seen. Each number comes once."""
  arguments = harness.portable_options(endpoint, extra=['--streaming', '--sdk_workers=2', *options])
  pipeline = beam.Pipeline(options=PipelineOptions(arguments))
  pipeline | beam.Create([1 << 60]) | beam.ParDo(_Endless())  # pylint: disable=expression-not-assigned
  result = pipeline.run()
  try:
    deadline = time.monotonic() + SECONDS
    while counted(metrics_of(stub, result).committed, 'done') < 100:
      assert time.monotonic() < deadline
      time.sleep(0.1)
    job_id = result._job_id  # pylint: disable=protected-access
    stub.Drain(jobs.DrainJobRequest(job_id=job_id), timeout=wire.CALL_SECONDS)
    assert wire.states(stub, job_id, SECONDS)[-1] == jobs.JobState.DRAINED
  finally:
    harness.cancel_quietly(result)
  committed = metrics_of(stub, result).committed
  done = counted(committed, 'done')
  assert distribution(committed, 'read') == (done, sum(range(done)), 0, done - 1)


# --- How far a bundle is


@over_work
def test_progress(work, endpoint, stub):
  """What a bundle has done is seen while it runs, but not as committed."""
  options = ('--bundle_size=unbounded', FAIL_FIRST)
  _GO_ON.clear()
  result = start(endpoint, work, options=options, workers=1)
  try:
    seen, read, left = watch(stub, result, work)
  finally:
    _GO_ON.set()
    harness.wait_or_cancel(result)
  assert part_done(seen), seen
  assert seen == sorted(seen), 'it goes back'
  metrics = metrics_of(stub, result)
  assert counted(metrics.committed, 'done') == ELEMENTS
  assert counted(metrics.attempted, 'done') == 2 * ELEMENTS
  assert part_read(read) if work is elements else part_left(left), (read, left)


def part_done(seen):
  return any(0 < count < ELEMENTS for count in seen)


def part_read(read):
  return any(0 < index < ELEMENTS - 1 for index in read)


def part_left(left):
  return any(0 < work < float('inf') for work in left)


def watch(stub, result, work):
  """What is seen while nothing of the work is committed: elements done, the index of the element that was read last,
  and how much work is left. Lets the work go on when it has been seen in its middle."""
  seen, read, left = [], [], []
  deadline = time.monotonic() + SECONDS
  while True:
    metrics = metrics_of(stub, result)
    if counted(metrics.committed, 'done'):
      return seen, read, left
    assert time.monotonic() < deadline, seen
    seen.append(counted(metrics.attempted, 'done'))
    read += [coders.VarIntCoder().decode(info.payload) for info in metrics.attempted if info.urn == READ_INDEX]
    left += [rest for info in metrics.attempted if info.urn == WORK_LEFT
             for rest in coders.IterableCoder(coders.FloatCoder()).decode(info.payload)]
    if part_done(seen) and (part_read(read) if work is elements else part_left(left)):
      _GO_ON.set()
    time.sleep(0.1)


# --- What workers have done as a whole


def process_wide(metrics):
  """The distribution of the processes, merged. It is there once, and only as attempted."""
  assert not named(metrics.committed, 'process')
  info, = named(metrics.attempted, 'process')
  assert 'PTRANSFORM' not in info.labels
  return distribution(metrics.attempted, 'process')


def test_workers_that_are_threads_of_one_process_are_not_counted_twice(endpoint, stub):
  result = start(endpoint, elements)
  finish(result)
  assert _RUNNING == [0, 2], 'there are two workers'
  # Earlier tests have counted here too.
  container = MetricsEnvironment.process_wide_container()
  so_far = container.get_distribution(MetricName(SPACE, 'process')).get_cumulative()
  assert process_wide(metrics_of(stub, result)) == (so_far.count, so_far.sum, so_far.min, so_far.max)
