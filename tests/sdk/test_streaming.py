"""Jobs whose input never ends, in real time: they run until they are cancelled or drained."""

import subprocess
import threading
import time

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2 as jobs
from apache_beam.testing import test_stream
from apache_beam.transforms import trigger, userstate
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfoTiming

import conftest
import harness
import wire
from cases import requirements

SPACE = 'beamline.tests.streaming'
# What must come of an endless source within this time; it makes ten elements a second.
SECONDS = wire.CALL_SECONDS


@pytest.fixture
def stub(endpoint):
  with wire.job_service(endpoint) as service:
    yield service


def _seen(x, name):
  Metrics.counter(SPACE, name).inc()
  return x


def _grouped(key_and_values):
  Metrics.counter(SPACE, 'grouped').inc(len(list(key_and_values[1])))
  return key_and_values


def impulses(seconds):
  """For ever, from now on: the SDK's default is since it was imported."""
  return PeriodicImpulse(Timestamp.now(), fire_interval=seconds)


def endless(endpoint):
  """Starts a job that counts what its source makes, and what leaves windows of a second."""
  pipeline = beam.Pipeline(
      options=PipelineOptions(harness.portable_options(endpoint, extra=['--streaming'])))
  (  # pylint: disable=expression-not-assigned
      pipeline | impulses(0.1) | 'See' >> beam.Map(_seen, 'made')
      | beam.Map(lambda x: ('k', x)) | beam.WindowInto(FixedWindows(1)) | beam.GroupByKey()
      | 'Grouped' >> beam.Map(_grouped))
  return pipeline.run()


def counted(stub, result, name):
  """As it is now: the client asks once, and keeps the answer."""
  found = stub.GetJobMetrics(
      jobs.GetJobMetricsRequest(job_id=result._job_id),  # pylint: disable=protected-access
      timeout=wire.CALL_SECONDS).metrics.committed
  return sum(coders.VarIntCoder().decode(info.payload) for info in found
             if (info.labels.get('NAMESPACE'), info.labels.get('NAME')) == (SPACE, name))


def wait_for_windows(stub, result):
  deadline = time.monotonic() + SECONDS
  while counted(stub, result, 'grouped') < 10:
    assert time.monotonic() < deadline, 'made %d, grouped %d, %s' % (
        counted(stub, result, 'made'), counted(stub, result, 'grouped'), result.state)
    time.sleep(0.2)


def _by_the_job_service(endpoint, job_id):
  with wire.job_service(endpoint) as stub:
    answer = stub.Drain(jobs.DrainJobRequest(job_id=job_id), timeout=wire.CALL_SECONDS)
    return jobs.JobState.Enum.Name(answer.state)


def _by_the_command(endpoint, job_id):
  command = [conftest.BINARY, 'jobs', '--endpoint', endpoint, 'drain', job_id]
  return subprocess.check_output(command, text=True, timeout=wire.CALL_SECONDS).strip()


@pytest.mark.parametrize('drain', [_by_the_job_service, _by_the_command])
def test_drain(drain, endpoint, stub):
  """The source stops, its last window closes, and everything it made is accounted for."""
  result = endless(endpoint)
  try:
    wait_for_windows(stub, result)
    job_id = result._job_id  # pylint: disable=protected-access
    assert drain(endpoint, job_id) == 'DRAINING'
    seen = wire.states(stub, job_id, SECONDS)
    assert seen[-1] == jobs.JobState.DRAINED and jobs.JobState.DRAINING in seen, seen
    assert counted(stub, result, 'made') == counted(stub, result, 'grouped') >= 10
  finally:
    harness.cancel_quietly(result)


def test_cancel(endpoint, stub):
  result = endless(endpoint)
  try:
    wait_for_windows(stub, result)
    result.cancel()
    job_id = result._job_id  # pylint: disable=protected-access
    assert wire.states(stub, job_id, SECONDS)[-1] == jobs.JobState.CANCELLED
  finally:
    harness.cancel_quietly(result)


def test_what_ends_can_be_drained_too(endpoint, stub):
  """A bounded job ends by itself; a drain lets it."""
  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint)))
  harness.check(pipeline | beam.Create([1, 2]) | beam.Map(_once_drained), [1, 2])
  _DRAINED.clear()
  result = pipeline.run()
  job_id = result._job_id  # pylint: disable=protected-access
  try:
    stub.Drain(jobs.DrainJobRequest(job_id=job_id), timeout=wire.CALL_SECONDS)
    _DRAINED.set()
    assert wire.states(stub, job_id, SECONDS)[-1] == jobs.JobState.DRAINED
    assert harness.checks_passed(result) == 1
  finally:
    _DRAINED.set()
    harness.cancel_quietly(result)


# Over LOOPBACK, workers know whether the test has drained their job.
_DRAINED = threading.Event()


def _once_drained(x):
  assert _DRAINED.wait(SECONDS)
  return x


def late(endpoint, build):
  """Runs a TestStream whose last two elements come when their window is over, and beyond lateness."""
  pipeline = beam.Pipeline(
      options=PipelineOptions(harness.portable_options(endpoint, extra=['--streaming'])))
  stream = (
      test_stream.TestStream().advance_watermark_to(5).add_elements([('k', 1), ('k', 2)])
      .advance_watermark_to(25).add_elements([TimestampedValue(('k', 3), 6)])
      .add_elements([TimestampedValue(('k', 4), 6)]).advance_watermark_to_infinity())
  build(pipeline | stream | beam.WindowInto(FixedWindows(10)))
  result = harness.run_pipeline(pipeline)
  assert harness.checks_passed(result) == 1
  return result


def dropped(stub, result, step):
  """The committed counts of elements that a step of this name dropped."""
  found = stub.GetJobMetrics(
      jobs.GetJobMetricsRequest(job_id=result._job_id),  # pylint: disable=protected-access
      timeout=wire.CALL_SECONDS).metrics.committed
  return [coders.VarIntCoder().decode(info.payload) for info in found
          if 'dropped' in info.labels.get('NAME', '').lower() and step in info.labels['PTRANSFORM']]


def test_late_elements_are_dropped_and_counted(endpoint, stub):
  result = late(endpoint, lambda pairs: harness.check(
      pairs | 'Grouped' >> beam.GroupByKey() | beam.MapTuple(lambda k, vs: (k, sorted(vs))),
      [('k', [1, 2])]))
  assert dropped(stub, result, 'Grouped') == [2]


class _Keep(beam.DoFn):
  BAG = userstate.BagStateSpec('bag', coders.VarIntCoder())

  def process(self, element, bag=beam.DoFn.StateParam(BAG)):
    bag.add(element[1])
    yield element[0], len(list(bag.read()))


def test_late_elements_do_not_reach_state(endpoint, stub):
  """The state of their window is gone."""
  result = late(endpoint, lambda pairs: harness.check(
      pairs | 'Keep' >> beam.ParDo(_Keep()), [('k', 1), ('k', 2)]))
  assert dropped(stub, result, 'Keep') == [2]


def test_sorted_by_time_with_late_data(endpoint, stub):
  """An element waits until nothing earlier can come that is not too late; what is too late is dropped."""
  pipeline = beam.Pipeline(
      options=PipelineOptions(harness.portable_options(endpoint, extra=['--streaming'])))

  def at(*times):
    return [TimestampedValue(('k', time), time) for time in times]

  stream = (
      test_stream.TestStream().add_elements(at(3, 1, 2)).advance_watermark_to(6)
      .add_elements(at(4, 5)).advance_watermark_to(20).add_elements(at(9, 12, 11))
      .advance_watermark_to_infinity())
  times = (
      pipeline | stream | beam.WindowInto(
          FixedWindows(100), trigger=trigger.AfterWatermark(), allowed_lateness=10,
          accumulation_mode=trigger.AccumulationMode.DISCARDING)
      | 'Sorted' >> requirements.sorted_by_time())
  # Each with the latest before it: that of 4 and 5 is late and not too late, that of 9 is too late.
  harness.check(times, [(t, t) for t in (1, 2, 3, 4, 5, 11, 12)])
  result = harness.run_pipeline(pipeline)
  assert harness.checks_passed(result) == 1
  assert dropped(stub, result, 'Sorted') == [1]


@pytest.mark.parametrize('lateness, groups, left_out', [(100, [('k', [1], True)], []), (0, [], [1])])
def test_elements_moved_back_in_time(lateness, groups, left_out, endpoint, stub):
  """What a DoFn puts before the watermark is late: it waits for nobody, and nobody takes it for more."""
  pipeline = beam.Pipeline(
      options=PipelineOptions(harness.portable_options(endpoint, extra=['--streaming'])))
  stream = (
      test_stream.TestStream().advance_watermark_to(15).add_elements([TimestampedValue(('k', 1), 20)])
      .advance_watermark_to(30).advance_watermark_to_infinity())

  def told(element, pane=beam.DoFn.PaneInfoParam):
    return element[0], list(element[1]), pane.timing == PaneInfoTiming.LATE

  grouped = (
      pipeline | stream | beam.Map(lambda pair: TimestampedValue(pair, 5)) | beam.WindowInto(
          FixedWindows(10), allowed_lateness=lateness, accumulation_mode=trigger.AccumulationMode.DISCARDING,
          trigger=trigger.AfterWatermark(late=trigger.AfterCount(1)))
      | 'Grouped' >> beam.GroupByKey() | beam.Map(told))
  harness.check(grouped, groups)
  result = harness.run_pipeline(pipeline)
  assert harness.checks_passed(result) == 1
  assert dropped(stub, result, 'Grouped') == left_out


class _ForEver(beam.DoFn):
  """Sets a timer a second ahead, which sets itself again, and again. With `waits` it goes on only when the job is
  drained: one that is not fails two seconds after the end of its input."""
  TICK = userstate.TimerSpec('tick', TimeDomain.REAL_TIME)
  TICKED = userstate.ReadModifyWriteStateSpec('ticked', coders.BooleanCoder())

  def __init__(self, waits):
    self.waits = waits

  def process(self, element, tick=beam.DoFn.TimerParam(TICK)):
    tick.set(Timestamp.now() + 1)
    yield 'element'

  @userstate.on_timer(TICK)
  def ticked(self, tick=beam.DoFn.TimerParam(TICK), before=beam.DoFn.StateParam(TICKED)):
    if self.waits and before.read():
      assert _DRAINED.wait(SECONDS)
    before.write(True)
    Metrics.counter(SPACE, 'ticks').inc()
    tick.set(Timestamp.now() + 1)
    yield 'tick'


def for_ever(endpoint, source, *options, waits=False):
  options = harness.portable_options(endpoint, extra=['--last_timers_seconds=2', *options])
  pipeline = beam.Pipeline(options=PipelineOptions(options))
  (  # pylint: disable=expression-not-assigned
      pipeline | source | beam.Map(lambda x: ('k', x)) | 'ForEver' >> beam.ParDo(_ForEver(waits))
      | 'See' >> beam.Map(_seen, 'made'))
  return pipeline.run()


@pytest.mark.parametrize('source, options', [
    (lambda: impulses(3), ['--streaming']), (lambda: beam.Create([1, 2]), [])], ids=['endless', 'bounded'])
def test_a_timer_that_is_set_for_ever_does_not_keep_a_job_from_draining(source, options, endpoint, stub):
  _DRAINED.clear()
  result = for_ever(endpoint, source(), *options, waits=True)
  job_id = result._job_id  # pylint: disable=protected-access
  try:
    deadline = time.monotonic() + SECONDS
    while not counted(stub, result, 'ticks') > 0:
      assert time.monotonic() < deadline, result.state
      time.sleep(0.1)
    stub.Drain(jobs.DrainJobRequest(job_id=job_id), timeout=wire.CALL_SECONDS)
    _DRAINED.set()
    assert wire.states(stub, job_id, SECONDS)[-1] == jobs.JobState.DRAINED
    told = [message.message_response.message_text for message in wire.messages(stub, job_id)]
    assert any('1 processing-time timers of ForEver were left out' in text for text in told), told
  finally:
    _DRAINED.set()
    harness.cancel_quietly(result)


@pytest.mark.parametrize('options', [['--streaming'], []])
def test_a_bounded_job_with_a_timer_that_is_set_for_ever_fails(options, endpoint):
  began = time.monotonic()
  result = for_ever(endpoint, beam.Create([1, 2]), *options)
  with pytest.raises(RuntimeError, match='ForEver goes on setting processing-time timers 2 s after the end'):
    harness.wait_or_cancel(result)
  assert time.monotonic() - began < SECONDS


class _Polls(beam.DoFn):
  """Asks again and again for what takes a second, as one does that waits for something outside."""
  BEGAN = userstate.ReadModifyWriteStateSpec('began', coders.FloatCoder())
  POLL = userstate.TimerSpec('poll', TimeDomain.REAL_TIME)

  def process(self, element, began=beam.DoFn.StateParam(BEGAN), poll=beam.DoFn.TimerParam(POLL)):
    began.write(time.time())
    poll.set(Timestamp.now() + 0.1)

  @userstate.on_timer(POLL)
  def polled(
      self, key=beam.DoFn.KeyParam, began=beam.DoFn.StateParam(BEGAN), poll=beam.DoFn.TimerParam(POLL)):
    if time.time() < began.read() + 1:
      poll.set(Timestamp.now() + 0.1)
    else:
      yield key


@pytest.mark.parametrize('options', [['--streaming'], []])
def test_timers_may_wait_for_what_comes_after_the_end_of_their_input(options, endpoint):
  pipeline = beam.Pipeline(options=PipelineOptions(harness.portable_options(endpoint, extra=options)))
  harness.check(
      pipeline | beam.Create([('a', 1), ('b', 2)]) | beam.ParDo(_Polls()), ['a', 'b'])
  assert harness.checks_passed(harness.run_pipeline(pipeline)) == 1
