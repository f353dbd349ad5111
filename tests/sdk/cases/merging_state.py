"""User state and timers in windows that merge: an element is seen in the merged window, with the state and
timers of all that were merged into it."""

import apache_beam as beam
from apache_beam import coders
from apache_beam.portability import common_urns
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import userstate, window
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import on_timer
from apache_beam.transforms.window import IntervalWindow, Sessions, TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from harness import case, check

from .requirements import Requiring, expire

# Two sessions of 'a', the first of which two far apart make one with a third, and one of 'b'.
CLICKS = [('a', 0), ('a', 16), ('a', 8), ('b', 3), ('a', 40), ('a', 44), ('b', 4)]
SESSIONS = [('a', 0, 26, [0, 8, 16]), ('a', 40, 54, [40, 44]), ('b', 3, 14, [3, 4])]


def clicks(p):
  return p | beam.Create(CLICKS) | beam.Map(
      lambda kv: TimestampedValue(kv, kv[1])) | beam.WindowInto(Sessions(10))


def of(key, interval, values):
  return key, int(interval.start), int(interval.end), sorted(values)


class _AtTheEnd(beam.DoFn):
  BAG = userstate.BagStateSpec('bag', coders.VarIntCoder())
  EXPIRY = userstate.TimerSpec('expiry', TimeDomain.WATERMARK)

  # The SDK declares only timers that are a parameter here; nobody sets this one.
  def process(
      self, element, bag=beam.DoFn.StateParam(BAG), unused=beam.DoFn.TimerParam(EXPIRY)):
    bag.add(element[1])

  @on_timer(EXPIRY)
  def expired(
      self, key=beam.DoFn.KeyParam, interval=beam.DoFn.WindowParam,
      bag=beam.DoFn.StateParam(BAG)):
    yield of(key, interval, bag.read())


def at_the_end():
  return Requiring(
      _AtTheEnd(), common_urns.requirements.REQUIRES_ON_WINDOW_EXPIRATION.urn, expire)


@case(matrix=True)
def sessions_expire_once(p):
  check(clicks(p) | at_the_end(), SESSIONS)


class _Gap(beam.DoFn):
  """Each element sets the timer for the end of its session as it is then."""
  BAG = userstate.BagStateSpec('bag', coders.VarIntCoder())
  END = userstate.TimerSpec('end', TimeDomain.WATERMARK)

  def process(
      self, element, interval=beam.DoFn.WindowParam, bag=beam.DoFn.StateParam(BAG),
      end=beam.DoFn.TimerParam(END)):
    bag.add(element[1])
    end.set(interval.end)

  @on_timer(END)
  def ended(
      self, key=beam.DoFn.KeyParam, interval=beam.DoFn.WindowParam,
      bag=beam.DoFn.StateParam(BAG)):
    yield of(key, interval, bag.read())


@case(matrix=True)
def session_timers(p):
  check(clicks(p) | beam.ParDo(_Gap()), SESSIONS)


class _FirstSets(_Gap):
  """Only the first element of what is then a session sets the timer."""
  def process(
      self, element, interval=beam.DoFn.WindowParam, bag=beam.DoFn.StateParam(_Gap.BAG),
      end=beam.DoFn.TimerParam(_Gap.END)):
    if not list(bag.read()):
      end.set(interval.end)
    bag.add(element[1])


@case(matrix=True)
def session_timers_set_once(p):
  """They follow the end of the session, for which they were set."""
  check(clicks(p) | beam.ParDo(_FirstSets()), SESSIONS)


class _InRealTime(beam.DoFn):
  BAG = userstate.BagStateSpec('bag', coders.VarIntCoder())
  SOON = userstate.TimerSpec('soon', TimeDomain.REAL_TIME)

  def process(self, element, bag=beam.DoFn.StateParam(BAG), soon=beam.DoFn.TimerParam(SOON)):
    bag.add(element[1])
    soon.set(Timestamp.now() + 3600)

  @on_timer(SOON)
  def fired(
      self, key=beam.DoFn.KeyParam, interval=beam.DoFn.WindowParam,
      bag=beam.DoFn.StateParam(BAG)):
    yield of(key, interval, bag.read())


@case(matrix=True)
def session_timers_in_processing_time(p):
  check(clicks(p) | beam.ParDo(_InRealTime()), SESSIONS)


class _AllKinds(beam.DoFn):
  SUM = userstate.CombiningValueStateSpec('sum', sum)
  SET = userstate.SetStateSpec('set', coders.VarIntCoder())
  LIST = userstate.OrderedListStateSpec('list', coders.VarIntCoder())
  END = userstate.TimerSpec('end', TimeDomain.WATERMARK)

  def process(
      self, element, interval=beam.DoFn.WindowParam, total=beam.DoFn.StateParam(SUM),
      known=beam.DoFn.StateParam(SET), ordered=beam.DoFn.StateParam(LIST),
      end=beam.DoFn.TimerParam(END)):
    total.add(element[1])
    known.add(element[1] % 8)
    ordered.add((Timestamp(element[1]), element[1]))
    end.set(interval.end)

  @on_timer(END)
  def ended(
      self, key=beam.DoFn.KeyParam, total=beam.DoFn.StateParam(SUM),
      known=beam.DoFn.StateParam(SET), ordered=beam.DoFn.StateParam(LIST)):
    yield key, total.read(), sorted(known.read()), [value for _, value in ordered.read()]


@case(matrix=True)
def all_kinds_of_state_in_sessions(p):
  check(clicks(p) | beam.ParDo(_AllKinds()),
        [('a', 24, [0], [0, 8, 16]), ('a', 84, [0, 4], [40, 44]), ('b', 7, [3, 4], [3, 4])])


class _MergeEven(window.WindowFn):
  """Windows that begin at an even second merge, wherever they are; the others never do."""
  def assign(self, context):
    return [IntervalWindow(context.timestamp, context.timestamp + 1000)]

  def merge(self, context):
    even = [w for w in context.windows if w.start % 2 == 0]
    if len(even) > 1:
      context.merge(even, IntervalWindow(min(w.start for w in even), max(w.end for w in even)))

  def get_window_coder(self):
    return coders.coders.IntervalWindowCoder()


@case(matrix=True)
def state_in_custom_windows_that_merge(p):
  times = [('k', t) for t in (1, 2, 100, 101, 102)]
  seen = p | beam.Create(times) | beam.Map(
      lambda kv: TimestampedValue(kv, kv[1])) | beam.WindowInto(_MergeEven())
  expected = [('k', 1, 1001, [1]), ('k', 101, 1101, [101]), ('k', 2, 1102, [2, 100, 102])]
  check(seen | 'Expire' >> at_the_end(), expected, 'CheckExpired')
  check(seen | 'Timers' >> beam.ParDo(_FirstSets()), expected, 'CheckTimers')


@case(matrix=True)
def sessions_grouped_before(p):
  """The Python SDK says of sessions that are merged already that they merge; nothing comes of it."""
  again = clicks(p) | beam.GroupByKey() | beam.FlatMapTuple(
      lambda k, vs: [(k, v) for v in vs]).with_output_types(tuple[str, int])
  check(again | at_the_end(), SESSIONS)


class _SeenSoFar(beam.DoFn):
  """Tells with each element, and at the end, what its session holds, and which value was written last."""
  BAG = userstate.BagStateSpec('bag', coders.VarIntCoder())
  LAST = userstate.ReadModifyWriteStateSpec('last', coders.VarIntCoder())
  END = userstate.TimerSpec('end', TimeDomain.WATERMARK)

  def process(
      self, element, interval=beam.DoFn.WindowParam, bag=beam.DoFn.StateParam(BAG),
      last=beam.DoFn.StateParam(LAST), end=beam.DoFn.TimerParam(END)):
    yield 'at %d' % element[1], of(element[0], interval, bag.read()), last.read() or 0
    bag.add(element[1])
    last.write(element[1])
    end.set(interval.end)

  @on_timer(END)
  def ended(
      self, key=beam.DoFn.KeyParam, interval=beam.DoFn.WindowParam, bag=beam.DoFn.StateParam(BAG),
      last=beam.DoFn.StateParam(LAST)):
    yield 'ended', of(key, interval, bag.read()), last.read()


def sessions_of_a_stream(p):
  """As time goes on: sessions join, end, and what is late is dropped, though it would meet a session.

  Not a case: test_scripted_streams.py runs it, as all TestStreams."""
  at = lambda t: TimestampedValue(('k', t), t)
  stream = TestStream(coders.TupleCoder((coders.StrUtf8Coder(), coders.VarIntCoder())))
  stream.advance_watermark_to(0)
  # The value of the later of two sessions that join is kept, whichever was written last.
  for t in (16, 0, 8):
    stream.add_elements([at(t)])
  # At 30 the windows of 19 and 20 are over, at 40 that of 25, though the session that they overlap
  # is not. That of 22 is not over, but the first session is, and they do not meet.
  stream.advance_watermark_to(24).add_elements([at(29)]).advance_watermark_to(30)
  stream.add_elements([at(19)]).add_elements([at(22)]).add_elements([at(20), at(31)])
  stream.advance_watermark_to(40).add_elements([at(25), at(40)])
  stream.advance_watermark_to_infinity()
  seen = p | stream | beam.WindowInto(Sessions(10)) | beam.ParDo(_SeenSoFar())
  check(seen, [
      ('at 16', ('k', 16, 26, []), 0), ('at 0', ('k', 0, 10, []), 0),
      ('at 8', ('k', 0, 26, [0, 16]), 16), ('ended', ('k', 0, 26, [0, 8, 16]), 8),
      ('at 29', ('k', 29, 39, []), 0), ('at 22', ('k', 22, 39, [29]), 29),
      ('at 31', ('k', 22, 41, [22, 29]), 22), ('at 40', ('k', 22, 50, [22, 29, 31]), 31),
      ('ended', ('k', 22, 50, [22, 29, 31, 40]), 40)])
