"""Triggers on bounded input: which panes come depends on how elements meet; what must hold of them
does not. Discarding panes together are the input, accumulating ones grow to it, and their indices,
timings and first and last marks are in order."""

import collections

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows, GlobalWindows, Sessions, TimestampedValue
from apache_beam.utils.windowed_value import PaneInfoTiming

from harness import case, check, check_with

DISCARDING = trigger.AccumulationMode.DISCARDING
ACCUMULATING = trigger.AccumulationMode.ACCUMULATING
# The SDK asks for this where a trigger may finish before its window does.
UNSAFE = ('--allow_unsafe_triggers', )
NUMBERS = [('ab'[i % 2], i) for i in range(20)]
OF_KEY = {'a': list(range(0, 20, 2)), 'b': list(range(1, 20, 2))}


def _pane(element, pane=beam.DoFn.PaneInfoParam):
  key, values = element
  return key, (pane.index, pane.is_first, pane.is_last, pane.timing, sorted(values))


def panes(p, label, fires, mode, windows=None, elements=None):
  """(key, (index, is_first, is_last, timing, values)) of each pane."""
  return (
      p | label >> beam.Create(elements or NUMBERS)
      | label + ' stamped' >> beam.MapTuple(lambda k, v: TimestampedValue((k, v), v))
      | label + ' windows' >> beam.WindowInto(
          windows or GlobalWindows(), trigger=fires, accumulation_mode=mode)
      | label + ' grouped' >> beam.GroupByKey() | label + ' seen' >> beam.Map(_pane))


class _InOrder:
  """Matches the panes of NUMBERS in one window."""
  def __init__(self, accumulating, least=1, last=True):
    self.accumulating, self.least, self.last = accumulating, least, last

  def __call__(self, actual):
    of_key = collections.defaultdict(list)
    for key, pane in actual:
      of_key[key].append(pane)
    assert set(of_key) == set(OF_KEY), actual
    for key, some in of_key.items():
      some.sort()
      assert [pane[0] for pane in some] == list(range(len(some))), some
      assert [pane[1] for pane in some] == [i == 0 for i in range(len(some))], some
      if self.last:
        assert [pane[2] for pane in some] == [i == len(some) - 1 for i in range(len(some))], some
      self._values(OF_KEY[key], [pane[4] for pane in some])

  def _values(self, expected, of_panes):
    if self.accumulating:
      assert of_panes[-1] == expected, of_panes
      for before, after in zip(of_panes, of_panes[1:]):
        assert set(before) <= set(after), of_panes
    else:
      assert sorted(v for values in of_panes for v in values) == expected, of_panes
      assert all(len(values) >= self.least for values in of_panes[:-1]), of_panes


@case(matrix=True)
def after_count_repeatedly(p):
  fires = trigger.Repeatedly(trigger.AfterCount(3))
  check_with(panes(p, 'Discarded', fires, DISCARDING), _InOrder(False, 3), 'CheckDiscarded')
  check_with(panes(p, 'Accumulated', fires, ACCUMULATING), _InOrder(True), 'CheckAccumulated')


def _at_least_four(actual):
  assert {key for key, _ in actual} <= set(OF_KEY), actual
  for key in OF_KEY:
    some = sorted(pane for k, pane in actual if k == key)
    # What comes after the only firing is dropped: the trigger is finished.
    assert len(some) == 1 and len(some[0][4]) >= 4, actual


@case(options=UNSAFE)
def after_count_fires_once(p):
  check_with(panes(p, 'Once', trigger.AfterCount(4), DISCARDING), _at_least_four)


@case(matrix=True)
def always(p):
  check_with(panes(p, 'Always', trigger.Always(), DISCARDING), _InOrder(False))


@case(matrix=True)
def never(p):
  """Only the pane of the window's end, which every window has."""
  def one_pane(actual):
    assert sorted((key, pane[4]) for key, pane in actual) == sorted(OF_KEY.items()), actual

  # pylint: disable=protected-access
  check_with(panes(p, 'Never', trigger._Never(), DISCARDING), one_pane)


@case(options=UNSAFE)
def composite_triggers(p):
  for name, fires in [
      ('AfterAny', trigger.Repeatedly(trigger.AfterAny(trigger.AfterCount(2), trigger.AfterCount(50)))),
      ('AfterAll', trigger.Repeatedly(trigger.AfterAll(trigger.AfterCount(2), trigger.AfterCount(3)))),
      ('AfterEach', trigger.AfterEach(
          trigger.AfterCount(2), trigger.AfterCount(2), trigger.Repeatedly(trigger.AfterCount(1)))),
      ('OrFinally', trigger.OrFinally(
          trigger.Repeatedly(trigger.AfterCount(2)), trigger.AfterCount(1000))),
      ('ProcessingTime', trigger.Repeatedly(trigger.AfterProcessingTime(1))),
      ('EarlyAndLate', trigger.AfterWatermark(
          early=trigger.AfterCount(2), late=trigger.AfterCount(1))),
  ]:
    check_with(panes(p, name, fires, DISCARDING), _InOrder(False), 'Check' + name)
    check_with(panes(p, name + '2', fires, ACCUMULATING), _InOrder(True), 'Check2' + name)


def _on_time(actual):
  """The last pane of each window is that of its end, and the early ones are before it."""
  of_key = collections.defaultdict(list)
  for key, pane in actual:
    of_key[key].append(pane)
  for some in of_key.values():
    some.sort()
    timings = [pane[3] for pane in some]
    assert timings[-1] == PaneInfoTiming.ON_TIME, some
    assert set(timings[:-1]) <= {PaneInfoTiming.EARLY}, some


@case(matrix=True)
def early_panes_come_before_the_one_on_time(p):
  fires = trigger.AfterWatermark(early=trigger.AfterCount(2))
  seen = panes(p, 'Early', fires, ACCUMULATING, FixedWindows(100))
  check_with(seen, _InOrder(True))
  check_with(seen, _on_time, 'CheckTimings')


@case(matrix=True)
def triggers_in_sessions(p):
  """Firings and merging together: nothing is lost, whatever fires before its session is whole."""
  elements = [('k', t) for t in (0, 4, 8, 50, 54, 100)]

  def in_sessions(actual):
    assert sorted(v for _, pane in actual for v in pane[4]) == [0, 4, 8, 50, 54, 100], actual

  check_with(
      panes(p, 'Sessions', trigger.Repeatedly(trigger.AfterCount(2)), DISCARDING, Sessions(10),
            elements), in_sessions)


@case(matrix=True)
def combined_panes(p):
  """A lifted combiner under a trigger that accumulates."""
  totals = (
      p | beam.Create(NUMBERS) | beam.WindowInto(
          GlobalWindows(), trigger=trigger.Repeatedly(trigger.AfterCount(1)),
          accumulation_mode=ACCUMULATING)
      | beam.CombinePerKey(sum))
  check(totals | beam.CombinePerKey(max), [('a', 90), ('b', 100)])


@case(matrix=True)
def triggered_side_input(p):
  """Panes of a side input that discards: all of them are there when it is bounded."""
  side = (
      p | 'Side' >> beam.Create([('k', i) for i in range(6)]) | beam.WindowInto(
          GlobalWindows(), trigger=trigger.Repeatedly(trigger.AfterCount(2)),
          accumulation_mode=DISCARDING)
      | beam.GroupByKey() | beam.FlatMapTuple(lambda k, vs: vs))
  check(
      p | beam.Create(['x']) | beam.Map(lambda x, s: (x, sorted(s)), pvalue.AsIter(side)),
      [('x', [0, 1, 2, 3, 4, 5])])


class _Closing(beam.WindowInto):
  """Windows whose behaviour at their end is not the SDK's only one."""
  def __init__(self, on_time, closing):
    super().__init__(
        FixedWindows(100), trigger=trigger.AfterWatermark(early=trigger.AfterCount(1)),
        accumulation_mode=DISCARDING)
    self.windowing = _Windowing(self.windowing, on_time, closing)


class _Windowing(beam.core.Windowing):
  def __init__(self, plain, on_time, closing):
    super().__init__(
        plain.windowfn, plain.triggerfn, plain.accumulation_mode, plain.timestamp_combiner)
    self.on_time, self.closing = on_time, closing

  def to_runner_api(self, context):
    proto = super().to_runner_api(context)
    proto.on_time_behavior, proto.closing_behavior = self.on_time, self.closing
    return proto


def _closed(p, label, on_time, closing):
  return (
      p | label >> beam.Create(NUMBERS)
      | label + ' stamped' >> beam.MapTuple(lambda k, v: TimestampedValue((k, v), v))
      | label + ' windows' >> _Closing(on_time, closing)
      | label + ' grouped' >> beam.GroupByKey() | label + ' seen' >> beam.Map(_pane))


def _no_empty_pane(actual):
  _all_values(actual)
  assert all(pane[4] for _, pane in actual), actual


def _one_on_time(actual):
  _all_values(actual)
  for key in OF_KEY:
    on_time = [pane for k, pane in actual if k == key and pane[3] == PaneInfoTiming.ON_TIME]
    assert len(on_time) == 1, actual


def _all_values(actual):
  for key, values in OF_KEY.items():
    assert sorted(v for k, pane in actual if k == key for v in pane[4]) == values, actual


@case(matrix=True)
def empty_panes(p):
  """At the end of a window all of whose elements have fired: a pane of nothing, if it is asked for."""
  always, if_nonempty = api.OnTimeBehavior.FIRE_ALWAYS, api.OnTimeBehavior.FIRE_IF_NONEMPTY
  close = api.ClosingBehavior.EMIT_IF_NONEMPTY
  check_with(_closed(p, 'Always', always, close), _one_on_time, 'CheckAlways')
  check_with(_closed(p, 'IfNonempty', if_nonempty, close), _no_empty_pane, 'CheckIfNonempty')


@case(matrix=True)
def synchronized_processing_time(p):
  """A group of what a processing-time trigger fired waits for the same time of its own."""
  fires = trigger.Repeatedly(trigger.AfterProcessingTime(1))
  first = panes(p, 'First', fires, DISCARDING)
  again = (
      first | beam.MapTuple(lambda key, pane: (key, pane[4])) | beam.GroupByKey()
      | beam.FlatMapTuple(lambda key, lists: ((key, v) for vs in lists for v in vs)))
  check(again, NUMBERS)
