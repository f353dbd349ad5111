"""Windows: the standard ones, the user's own, merging ones, and the timestamps of their groups."""

import apache_beam as beam
from apache_beam import coders
from apache_beam.transforms import window
from apache_beam.transforms.window import (
    FixedWindows, GlobalWindows, IntervalWindow, Sessions, SlidingWindows, TimestampCombiner,
    TimestampedValue)
from apache_beam.utils.timestamp import Timestamp

from harness import case, check


def keyed(p, times, label='Times'):
  return p | label >> beam.Create(times) | label + 'Keyed' >> beam.Map(
      lambda t: TimestampedValue(('k', t), t))


class _See(beam.DoFn):
  """A group with its window and its timestamp."""
  def process(self, element, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam):
    key, values = element
    yield key, sorted(values), (float(window.start), float(window.end)), float(timestamp)


def just_before(end):
  return float(Timestamp(end) - 0.001)


@case(matrix=True)
def fixed_windows(p):
  seen = keyed(p, [0, 1, 9, 10, 25, -1]) | beam.WindowInto(FixedWindows(10)) | beam.GroupByKey(
  ) | beam.ParDo(_See())
  check(seen, [('k', [-1], (-10, 0), just_before(0)), ('k', [0, 1, 9], (0, 10), just_before(10)),
               ('k', [10], (10, 20), just_before(20)), ('k', [25], (20, 30), just_before(30))])


@case()
def fixed_windows_with_offset(p):
  seen = keyed(p, [0, 3, 4]) | beam.WindowInto(FixedWindows(5, offset=3)) | beam.GroupByKey(
  ) | beam.MapTuple(lambda k, vs: sorted(vs))
  check(seen, [[0], [3, 4]])


@case(matrix=True)
def sliding_windows(p):
  seen = keyed(p, [1, 6, 12]) | beam.WindowInto(SlidingWindows(10, 5)) | beam.GroupByKey(
  ) | beam.MapTuple(lambda k, vs: sorted(vs))
  check(seen, [[1], [1, 6], [6, 12], [12]])


@case()
def sliding_windows_with_gaps(p):
  """The period is longer than the window: some elements are in no window."""
  seen = keyed(p, [1, 6, 12]) | beam.WindowInto(SlidingWindows(5, 10)) | beam.GroupByKey(
  ) | beam.MapTuple(lambda k, vs: sorted(vs))
  check(seen, [[1], [12]])


@case(matrix=True)
def sessions(p):
  seen = keyed(p, [0, 4, 5, 20, 24, 40]) | beam.WindowInto(Sessions(10)) | beam.GroupByKey(
  ) | beam.ParDo(_See())
  check(seen, [('k', [0, 4, 5], (0, 15), just_before(15)),
               ('k', [20, 24], (20, 34), just_before(34)), ('k', [40], (40, 50), just_before(50))])


@case(matrix=True)
def sessions_that_touch(p):
  """[0, 5) and [5, 10) only touch: they are two sessions. And each key has its own."""
  pairs = p | beam.Create([('a', 0), ('a', 5), ('b', 2), ('b', 6), ('a', 30)]) | 'Stamp' >> (
      beam.Map(lambda kv: TimestampedValue(kv, kv[1])))
  seen = pairs | beam.WindowInto(Sessions(5)) | beam.GroupByKey() | beam.ParDo(_See())
  check(seen, [('a', [0], (0, 5), just_before(5)), ('a', [5], (5, 10), just_before(10)),
               ('b', [2, 6], (2, 11), just_before(11)), ('a', [30], (30, 35), just_before(35))])


@case(matrix=True)
def sessions_combined(p):
  """A lifted combiner in merging windows."""
  totals = keyed(p, [0, 4, 20, 22]) | beam.WindowInto(Sessions(10)) | beam.CombinePerKey(sum)
  check(totals, [('k', 4), ('k', 42)])


@case(options=('--experiments=pre_optimize=none', ))
def sessions_combined_not_lifted_by_the_client(p):
  sessions_combined(p)


@case()
def windows_again(p):
  """Grouped in small windows, then again in large ones."""
  minutes = keyed(p, range(0, 20)) | 'Small' >> beam.WindowInto(FixedWindows(5)) | (
      'SumSmall' >> beam.CombinePerKey(sum))
  larger = minutes | 'Large' >> beam.WindowInto(FixedWindows(10)) | 'SumLarge' >> (
      beam.CombinePerKey(sum))
  check(larger | beam.Values(), [45, 145])
  check(larger | 'All' >> beam.WindowInto(GlobalWindows()) | 'SumAll' >> beam.CombinePerKey(sum),
        [('k', 190)], 'CheckAll')


class _TwoWindowsEach(window.NonMergingWindowFn):
  """A window function of the user's own that uses intervals: [t, t + 4) and [t - 1, t + 3)."""
  def assign(self, context):
    t = context.timestamp
    return [IntervalWindow(t, t + 4), IntervalWindow(t - 1, t + 3)]

  def get_window_coder(self):
    return coders.coders.IntervalWindowCoder()


@case(matrix=True)
def custom_windows(p):
  seen = keyed(p, [1, 2]) | beam.WindowInto(_TwoWindowsEach()) | beam.GroupByKey() | beam.ParDo(
      _See())
  check(seen, [('k', [1], (0, 4), just_before(4)), ('k', [1, 2], (1, 5), just_before(5)),
               ('k', [2], (2, 6), just_before(6))])


class _MergeEven(window.WindowFn):
  """Windows that begin at an even second merge, wherever they are; the others never do."""
  def assign(self, context):
    return [IntervalWindow(context.timestamp, context.timestamp + 1000)]

  def merge(self, context):
    even = [w for w in context.windows if w.start % 2 == 0]
    if even:
      context.merge(even, IntervalWindow(min(w.start for w in even), max(w.end for w in even)))

  def get_window_coder(self):
    return coders.coders.IntervalWindowCoder()


@case(matrix=True)
def custom_merging_windows(p):
  seen = keyed(p, [1, 2, 100, 101, 102]) | beam.WindowInto(_MergeEven()) | beam.GroupByKey(
  ) | beam.MapTuple(lambda k, vs: sorted(vs))
  check(seen, [[1], [101], [2, 100, 102]])


class ParityWindow(window.BoundedWindow):
  """A window that is not an interval, so that no runner can read it."""
  def __init__(self, end, parity):
    super().__init__(end)
    self.parity = parity

  def __eq__(self, other):
    return isinstance(other, ParityWindow) and (self.end, self.parity) == (
        other.end, other.parity)

  def __hash__(self):
    return hash((self.end, self.parity))


class ParityWindowCoder(coders.Coder):
  def encode(self, value):
    return ('%s|%s' % (value.end.micros, value.parity)).encode()

  def decode(self, encoded):
    micros, parity = encoded.decode().split('|')
    return ParityWindow(Timestamp(micros=int(micros)), parity)

  def is_deterministic(self):
    return True


class ByParity(window.NonMergingWindowFn):
  def assign(self, context):
    t = context.timestamp
    end = Timestamp((int(t) // 100 + 1) * 100)
    return [ParityWindow(end, 'odd' if int(t) % 2 else 'even')]

  def get_window_coder(self):
    return ParityWindowCoder()


@case(matrix=True)
def windows_of_the_users_own_type(p):
  seen = keyed(p, [1, 2, 4, 101, 102]) | beam.WindowInto(ByParity()) | beam.GroupByKey(
  ) | beam.MapTuple(lambda k, vs: sorted(vs))
  check(seen, [[1], [2, 4], [101], [102]])


@case(matrix=True)
def timestamps_of_groups(p):
  times = keyed(p, [1, 3, 7])
  for name, combiner, expected in [
      ('Earliest', TimestampCombiner.OUTPUT_AT_EARLIEST, 1.0),
      ('Latest', TimestampCombiner.OUTPUT_AT_LATEST, 7.0),
      ('End', TimestampCombiner.OUTPUT_AT_EOW, just_before(10))]:
    seen = times | name >> beam.WindowInto(
        FixedWindows(10), timestamp_combiner=combiner) | name + 'Group' >> beam.GroupByKey(
        ) | name + 'See' >> beam.ParDo(_See())
    check(seen, [('k', [1, 3, 7], (0, 10), expected)], 'Check' + name)
