"""Side inputs: every view, empty ones, several at once, and windows that are mapped."""

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import FixedWindows, SlidingWindows, TimestampedValue

from harness import case, check

from .windows import ByParity


def stamped(p, label, times):
  return p | label >> beam.Create(times) | label + 'Stamped' >> beam.Map(
      lambda t: TimestampedValue(t, t))


@case(matrix=True)
def side_singleton(p):
  side = p | 'Side' >> beam.Create([10])
  check(
      p | beam.Create([1, 2]) | beam.Map(lambda x, s: x + s, pvalue.AsSingleton(side)), [11, 12])


@case()
def side_singleton_default(p):
  side = p | 'Side' >> beam.Create([])
  check(
      p | beam.Create([1, 2])
      | beam.Map(lambda x, s: x + s, pvalue.AsSingleton(side, default_value=5)), [6, 7])


@case(matrix=True)
def side_iterable(p):
  side = p | 'Side' >> beam.Create(range(100))
  check(
      p | beam.Create([1, 2]) | beam.Map(lambda x, s: (x, sum(s), sum(s)), pvalue.AsIter(side)),
      [(1, 4950, 4950), (2, 4950, 4950)])


@case(matrix=True)
def side_list(p):
  side = p | 'Side' >> beam.Create([3, 1, 2])
  check(
      p | beam.Create(['a']) | beam.Map(lambda x, s: (x, sorted(s), len(s)), pvalue.AsList(side)),
      [('a', [1, 2, 3], 3)])


@case(matrix=True)
def side_dict(p):
  side = p | 'Side' >> beam.Create([('a', 1), ('b', 2)])
  check(
      p | beam.Create(['a', 'b', 'c']) | beam.Map(lambda x, s: (x, s.get(x)), pvalue.AsDict(side)),
      [('a', 1), ('b', 2), ('c', None)])


@case(matrix=True)
def side_multimap(p):
  side = p | 'Side' >> beam.Create([('a', 1), ('b', 2), ('a', 3)])
  check(
      p | beam.Create(['a', 'b', 'c'])
      | beam.Map(lambda x, s: (x, sorted(s[x])), pvalue.AsMultiMap(side)),
      [('a', [1, 3]), ('b', [2]), ('c', [])])


@case()
def side_empty(p):
  side = p | 'Side' >> beam.Create([])
  pairs = p | 'Pairs' >> beam.Create([]) | beam.Map(lambda x: (x, x))
  check(
      p | beam.Create([1]) | beam.Map(
          lambda x, l, i, d, m: (x, list(l), list(i), dict(d), list(m[7])), pvalue.AsList(side),
          pvalue.AsIter(side), pvalue.AsDict(pairs), pvalue.AsMultiMap(pairs)),
      [(1, [], [], {}, [])])


@case()
def side_several(p):
  source = p | beam.Create(range(4))
  total = source | beam.CombineGlobally(sum)
  check(
      source | 'Shares' >> beam.Map(
          lambda x, t, all_, squares: (x, t, len(all_), squares[x]), pvalue.AsSingleton(total),
          pvalue.AsList(source),
          pvalue.AsDict(source | 'Squares' >> beam.Map(lambda x: (x, x * x)))),
      [(x, 6, 4, x * x) for x in range(4)])


@case(matrix=True)
def side_of_a_side(p):
  """Each step waits for the one before, through side inputs only."""
  one = p | 'One' >> beam.Create([1])
  two = p | 'Two' >> beam.Create([2]) | 'UseOne' >> beam.Map(
      lambda x, s: x + s, pvalue.AsSingleton(one))
  three = p | 'Three' >> beam.Create([3]) | 'UseTwo' >> beam.Map(
      lambda x, s: x + s, pvalue.AsSingleton(two))
  check(three, [6])


@case(matrix=True)
def side_of_its_own_stage(p):
  """The main input and the side input come from one ParDo: fusion must not join what waits."""
  doubled = p | beam.Create([1, 2, 3]) | 'Double' >> beam.Map(lambda x: x * 2)
  check(
      doubled | 'Share' >> beam.Map(lambda x, all_: (x, sum(all_)), pvalue.AsIter(doubled)),
      [(2, 12), (4, 12), (6, 12)])


@case(matrix=True)
def side_windowed(p):
  main = stamped(p, 'Main', range(0, 20, 2)) | 'MainWindows' >> beam.WindowInto(FixedWindows(5))
  side = stamped(p, 'Side', range(0, 20)) | 'SideWindows' >> beam.WindowInto(FixedWindows(5))
  check(
      main | beam.Map(lambda x, s: (x, sorted(s)), pvalue.AsList(side)),
      [(x, list(range(x // 5 * 5, x // 5 * 5 + 5))) for x in range(0, 20, 2)])


@case(matrix=True)
def side_window_mapped(p):
  """The side input's windows are coarser: a main window looks into the one that holds its end."""
  main = stamped(p, 'Main', [1, 6, 11, 16]) | 'MainWindows' >> beam.WindowInto(FixedWindows(5))
  side = (
      stamped(p, 'Side', [2, 8, 12, 13]) | 'SideWindows' >> beam.WindowInto(FixedWindows(10))
      | 'Keyed' >> beam.Map(lambda x: ('k', x)))
  check(
      main | beam.Map(lambda x, s: (x, sorted(s['k'])), pvalue.AsMultiMap(side)),
      [(1, [2, 8]), (6, [2, 8]), (11, [12, 13]), (16, [12, 13])])


@case()
def side_global_for_windowed_main(p):
  main = stamped(p, 'Main', [1, 6]) | beam.WindowInto(SlidingWindows(10, 5))
  side = p | 'Side' >> beam.Create([100])
  check(
      main | beam.Map(lambda x, s: x + s, pvalue.AsSingleton(side)), [101, 101, 106, 106])


@case()
def side_window_without_elements(p):
  main = stamped(p, 'Main', [1, 11]) | 'MainWindows' >> beam.WindowInto(FixedWindows(10))
  side = stamped(p, 'Side', [2]) | 'SideWindows' >> beam.WindowInto(FixedWindows(10))
  check(
      main | beam.Map(lambda x, s: (x, list(s)), pvalue.AsIter(side)), [(1, [2]), (11, [])])


@case()
def side_large(p):
  """More than one page of state: 4 MB in an iterable, and 2,000 keys in a map."""
  large = p | 'Large' >> beam.Create(range(64)) | 'Fill' >> beam.Map(
      lambda i: bytes([i]) * (1 << 16))
  table = p | 'Table' >> beam.Create([(i, str(i)) for i in range(2000)])
  check(
      p | beam.Create([5]) | beam.Map(
          lambda x, s, t: (x, sum(len(v) for v in s), t[1999], len(t)), pvalue.AsIter(large),
          pvalue.AsDict(table)), [(5, 1 << 22, '1999', 2000)])


@case(matrix=True)
def side_in_the_users_own_windows(p):
  """Windows that no runner can read: the SDK maps a main window to the side window that its last
  millisecond is in, which is an odd one."""
  main = stamped(p, 'Main', [1, 2, 101]) | 'MainWindows' >> beam.WindowInto(ByParity())
  side = stamped(p, 'Side', [3, 4, 5, 102, 103]) | 'SideWindows' >> beam.WindowInto(ByParity())
  check(
      main | beam.Map(lambda x, s: (x, sorted(s)), pvalue.AsIter(side)),
      [(1, [3, 5]), (2, [3, 5]), (101, [103])])


class _Repeated(RestrictionProvider):
  def initial_restriction(self, element):
    return OffsetRange(0, element)

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return restriction.size()


class _Repeat(beam.DoFn):
  def process(self, element, side, tracker=beam.DoFn.RestrictionParam(_Repeated())):
    at = tracker.current_restriction().start
    while tracker.try_claim(at):
      yield element, at, sorted(side)
      at += 1


@case(matrix=True)
def side_windowed_for_a_splittable(p):
  main = stamped(p, 'Main', [1, 2, 11]) | 'MainWindows' >> beam.WindowInto(FixedWindows(10))
  side = stamped(p, 'Side', [3, 13]) | 'SideWindows' >> beam.WindowInto(FixedWindows(10))
  check(
      main | beam.Map(lambda x: x % 10) | beam.ParDo(_Repeat(), pvalue.AsIter(side)),
      [(1, 0, [3]), (2, 0, [3]), (2, 1, [3]), (1, 0, [13])])


@case(matrix=True)
def side_keys_of_a_map(p):
  """A map that is gone through, not only looked up."""
  side = p | 'Side' >> beam.Create([('a', 1), ('b', 2)])
  check(
      p | beam.Create([0]) | beam.Map(lambda x, s: sorted(s.items()), pvalue.AsDict(side)),
      [[('a', 1), ('b', 2)]])
