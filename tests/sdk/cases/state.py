"""User state and timers, on bounded input."""

import apache_beam as beam
from apache_beam import coders
from apache_beam.transforms import userstate
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import on_timer
from apache_beam.transforms.window import FixedWindows, SlidingWindows, TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from harness import case, check

LETTERS = [('a', 1), ('b', 10), ('a', 2), ('c', 100), ('b', 20), ('a', 3)]


class _CountInState(beam.DoFn):
  """Hands on each element with how many of its key came before it."""
  SEEN = userstate.ReadModifyWriteStateSpec('seen', coders.VarIntCoder())

  def process(self, element, seen=beam.DoFn.StateParam(SEEN)):
    count = seen.read() or 0
    seen.write(count + 1)
    yield element[0], count


@case(matrix=True)
def value_state(p):
  seen = p | beam.Create(LETTERS) | beam.ParDo(_CountInState())
  check(seen, [('a', 0), ('a', 1), ('a', 2), ('b', 0), ('b', 1), ('c', 0)])


class _Bags(beam.DoFn):
  """Clears its bag at every third element, then goes on adding to it."""
  BAG = userstate.BagStateSpec('bag', coders.VarIntCoder())
  SUM = userstate.CombiningValueStateSpec('sum', sum)

  def process(self, element, bag=beam.DoFn.StateParam(BAG), total=beam.DoFn.StateParam(SUM)):
    bag.add(1)
    total.add(1)
    held = len(list(bag.read()))
    if held == 3:
      bag.clear()
      bag.add(1)
    yield element[0], held, total.read()


@case(matrix=True)
def bag_and_combining_state(p):
  seen = p | beam.Create([('k', i) for i in range(5)]) | beam.ParDo(_Bags())
  check(seen, [('k', 1, 1), ('k', 2, 2), ('k', 3, 3), ('k', 2, 4), ('k', 3, 5)])


class _FirstOfEach(beam.DoFn):
  SET = userstate.SetStateSpec('set', coders.VarIntCoder())

  def process(self, element, known=beam.DoFn.StateParam(SET)):
    if element[1] not in set(known.read()):
      known.add(element[1])
      yield element


@case(matrix=True)
def set_state(p):
  seen = p | beam.Create([('k', 1), ('k', 2), ('k', 1), ('l', 1), ('k', 2)]) | beam.ParDo(_FirstOfEach())
  check(seen, [('k', 1), ('k', 2), ('l', 1)])


class _InWindows(beam.DoFn):
  BAG = userstate.BagStateSpec('bag', coders.VarIntCoder())
  END = userstate.TimerSpec('end', TimeDomain.WATERMARK)

  def process(
      self, element, window=beam.DoFn.WindowParam, bag=beam.DoFn.StateParam(BAG),
      end=beam.DoFn.TimerParam(END)):
    bag.add(element[1])
    end.set(window.end)

  @on_timer(END)
  def ended(
      self, key=beam.DoFn.KeyParam, bag=beam.DoFn.StateParam(BAG), time=beam.DoFn.TimestampParam):
    yield key, sorted(bag.read()), float(time)


@case(matrix=True)
def state_and_timers_by_window(p):
  seen = p | beam.Create([1, 2, 11, 12, 13]) | beam.Map(
      lambda t: TimestampedValue(('k', t), t)) | beam.WindowInto(FixedWindows(10)) | beam.ParDo(
          _InWindows())
  check(seen, [('k', [1, 2], 10.0), ('k', [11, 12, 13], 20.0)])


class _Looping(beam.DoFn):
  """A timer that sets itself again, three times."""
  LEFT = userstate.ReadModifyWriteStateSpec('left', coders.VarIntCoder())
  TICK = userstate.TimerSpec('tick', TimeDomain.WATERMARK)

  def process(self, element, left=beam.DoFn.StateParam(LEFT), tick=beam.DoFn.TimerParam(TICK)):
    left.write(3)
    tick.set(Timestamp(element[1]))

  @on_timer(TICK)
  def ticked(
      self, key=beam.DoFn.KeyParam, left=beam.DoFn.StateParam(LEFT), tick=beam.DoFn.TimerParam(TICK),
      time=beam.DoFn.TimestampParam):
    remaining = left.read()
    if remaining > 1:
      left.write(remaining - 1)
      tick.set(time + 10)
    yield key, float(time)


@case(matrix=True)
def looping_timers(p):
  seen = p | beam.Create([('a', 1), ('b', 5)]) | beam.ParDo(_Looping())
  check(seen, [(k, float(t + 10 * i)) for k, t in [('a', 1), ('b', 5)] for i in range(3)])


class _Tagged(beam.DoFn):
  """Timers of one family told apart by tags; one is cleared again."""
  FAMILY = userstate.TimerSpec('family', TimeDomain.WATERMARK)

  def process(self, element, family=beam.DoFn.TimerParam(FAMILY)):
    for number in range(3):
      family.set(Timestamp(10 - number), dynamic_timer_tag='tag%d' % number)
    family.clear(dynamic_timer_tag='tag1')

  @on_timer(FAMILY)
  def fired(self, tag=beam.DoFn.DynamicTimerTagParam, time=beam.DoFn.TimestampParam):
    yield tag, float(time)


@case(matrix=True)
def timers_with_tags(p):
  seen = p | beam.Create([('k', 1)]) | beam.ParDo(_Tagged())
  check(seen, [('tag0', 10.0), ('tag2', 8.0)])


class _Ordered(beam.DoFn):
  """What fires first is seen first, whichever was set first."""
  LOG = userstate.ReadModifyWriteStateSpec('log', coders.StrUtf8Coder())
  EARLY = userstate.TimerSpec('early', TimeDomain.WATERMARK)
  LATE = userstate.TimerSpec('late', TimeDomain.WATERMARK)

  def process(
      self, element, late=beam.DoFn.TimerParam(LATE), early=beam.DoFn.TimerParam(EARLY)):
    late.set(Timestamp(20))
    early.set(Timestamp(10))

  @on_timer(EARLY)
  def on_early(self, log=beam.DoFn.StateParam(LOG)):
    log.write((log.read() or '') + 'early')

  @on_timer(LATE)
  def on_late(self, log=beam.DoFn.StateParam(LOG)):
    yield (log.read() or '') + 'late'


@case(matrix=True)
def timers_in_order(p):
  check(p | beam.Create([('k', 1), ('l', 2)]) | beam.ParDo(_Ordered()), ['earlylate', 'earlylate'])


class _InRealTime(beam.DoFn):
  BAG = userstate.BagStateSpec('bag', coders.VarIntCoder())
  SOON = userstate.TimerSpec('soon', TimeDomain.REAL_TIME)

  def process(self, element, bag=beam.DoFn.StateParam(BAG), soon=beam.DoFn.TimerParam(SOON)):
    bag.add(element[1])
    soon.set(Timestamp.now() + 3600)

  @on_timer(SOON)
  def fired(self, key=beam.DoFn.KeyParam, bag=beam.DoFn.StateParam(BAG)):
    yield key, sorted(bag.read())
    bag.clear()


@case(matrix=True)
def processing_time_timers_fire_before_the_job_ends(p):
  check(p | beam.Create(LETTERS) | beam.ParDo(_InRealTime()), [('a', [1, 2, 3]), ('b', [10, 20]), ('c', [100])])


class _OrderedList(beam.DoFn):
  """Reads and clears ranges of a list that is ordered by time, also of what it just added."""
  LIST = userstate.OrderedListStateSpec('list', coders.StrUtf8Coder())

  def process(self, element, ordered=beam.DoFn.StateParam(LIST)):
    key, times = element
    for t in times:
      ordered.add((Timestamp(t), 'at %d' % t))
    yield key, 'all', [v for _, v in ordered.read()]
    yield key, 'some', [v for _, v in ordered.read_range(Timestamp(2), Timestamp(4))]
    ordered.clear_range(Timestamp(2), Timestamp(4))
    yield key, 'left', [v for _, v in ordered.read()]


@case(matrix=True)
def ordered_list_state(p):
  seen = p | beam.Create([('k', [5, 3, 2]), ('l', [1])]) | beam.ParDo(_OrderedList())
  check(seen, [
      ('k', 'all', ['at 2', 'at 3', 'at 5']), ('k', 'some', ['at 2', 'at 3']), ('k', 'left', ['at 5']),
      ('l', 'all', ['at 1']), ('l', 'some', []), ('l', 'left', ['at 1'])])


class _Large(beam.DoFn):
  """Adds a megabyte for each element, and counts what is there."""
  BAG = userstate.BagStateSpec('bag', coders.BytesCoder())

  def process(self, element, bag=beam.DoFn.StateParam(BAG)):
    for i in range(16):
      bag.add(bytes([i]) * (1 << 16))
    yield sum(len(value) for value in bag.read())


@case()
def state_of_many_pages(p):
  """More than a worker takes in one answer to a state request."""
  seen = p | beam.Create([('k', i) for i in range(6)]) | beam.ParDo(_Large())
  check(seen, [n << 20 for n in range(1, 7)])


class _SetAndClear(beam.DoFn):
  """Of what is set and cleared in one bundle only the last word counts."""
  GONE = userstate.TimerSpec('gone', TimeDomain.WATERMARK)
  MOVED = userstate.TimerSpec('moved', TimeDomain.WATERMARK)

  def process(self, element, gone=beam.DoFn.TimerParam(GONE), moved=beam.DoFn.TimerParam(MOVED)):
    gone.set(Timestamp(10))
    gone.clear()
    moved.set(Timestamp(10))
    moved.clear()
    moved.set(Timestamp(30))

  @on_timer(GONE)
  def on_gone(self):
    yield 'gone'

  @on_timer(MOVED)
  def on_moved(self, time=beam.DoFn.TimestampParam):
    yield float(time)


@case(matrix=True)
def timers_set_and_cleared(p):
  check(p | beam.Create([('k', 1), ('l', 2)]) | beam.ParDo(_SetAndClear()), [30.0, 30.0])


class _SetsAnother(beam.DoFn):
  FIRST = userstate.TimerSpec('first', TimeDomain.WATERMARK)
  SECOND = userstate.TimerSpec('second', TimeDomain.WATERMARK)

  def process(self, element, first=beam.DoFn.TimerParam(FIRST)):
    first.set(Timestamp(10))

  @on_timer(FIRST)
  def on_first(self, second=beam.DoFn.TimerParam(SECOND), time=beam.DoFn.TimestampParam):
    second.set(time + 5)
    yield 'first', float(time)

  @on_timer(SECOND)
  def on_second(self, time=beam.DoFn.TimestampParam):
    yield 'second', float(time)


@case(matrix=True)
def timers_set_by_timers(p):
  check(p | beam.Create([('k', 1)]) | beam.ParDo(_SetsAnother()), [('first', 10.0), ('second', 15.0)])


class _ByWindow(beam.DoFn):
  SEEN = userstate.CombiningValueStateSpec('seen', sum)

  def process(self, element, seen=beam.DoFn.StateParam(SEEN)):
    seen.add(1)
    yield element[1], seen.read()


@case(matrix=True)
def state_in_overlapping_windows(p):
  """One element in two windows counts in the state of both."""
  seen = p | beam.Create([1]) | beam.Map(lambda t: TimestampedValue(('k', t), t)) | beam.WindowInto(
      SlidingWindows(10, 5)) | beam.ParDo(_ByWindow())
  check(seen, [(1, 1), (1, 1)])


class _Numbers(beam.DoFn):
  """Makes three elements of each, numbered by key in the order in which they are made."""
  COUNT = userstate.ReadModifyWriteStateSpec('count', coders.VarIntCoder())

  def process(self, element, count=beam.DoFn.StateParam(COUNT)):
    before = count.read() or 0
    count.write(before + 3)
    for number in range(before, before + 3):
      yield element[0], number


class _InTheirOrder(beam.DoFn):
  """Says of each element whether it is the one after the last."""
  LAST = userstate.ReadModifyWriteStateSpec('last', coders.VarIntCoder())

  def process(self, element, last=beam.DoFn.StateParam(LAST)):
    expected = last.read() or 0
    last.write(element[1] + 1)
    yield element[0], element[1] == expected


@case(matrix=True)
def elements_of_a_key_in_order(p):
  """From one step with state to the next, elements of a key come as they were made."""
  seen = (
      p | beam.Create([('abc'[i % 3], i) for i in range(30)]) | 'Number' >> beam.ParDo(_Numbers())
      | 'Between' >> beam.Map(lambda pair: pair).with_output_types(tuple[str, int])
      | 'Look' >> beam.ParDo(_InTheirOrder()))
  check(seen, [(key, True) for key in 'abc' for _ in range(30)])
