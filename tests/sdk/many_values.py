"""What test_memory.py and test_past_memory.py have workers do; they import this, and nothing that only tests need."""

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import TimestampedValue


def filled(number, size):
  """Bytes that do not compress to nothing."""
  return (b'%020d' % (number * 7919 + 1)) * (size // 20)


def of_key(key, values, size):
  name = b'%08d' % key
  for value in range(values):
    yield name, name + b'%08d' % value + filled(key * value, size)


def of_all_keys(number, keys, size):
  """A value of each key; in two windows in turn."""
  for key in range(keys):
    name = b'%08d' % key
    value = name + b'%08d' % number + filled(key * number, size)
    yield TimestampedValue((name, value), number % 2 * 10)


def of_hot_key(start, values, size):
  for value in range(start, start + values):
    yield 'hot', b'%08d' % value + filled(value, size)
  yield 'cold %d' % start, b'%08d' % start


class CountGroups(beam.DoFn):
  def process(self, element):
    key, values = element
    values = list(values)
    assert len(set(values)) == len(values)
    assert all(value[:8] == key for value in values), 'a value of another key'
    Metrics.counter('memory', 'groups').inc()
    Metrics.counter('memory', 'values').inc(len(values))


class TwiceOverValues(beam.DoFn):
  def process(self, element):
    key, values = element
    kind = type(values).__name__
    total = sum(int(value[:8]) for value in values)
    count = sum(1 for _ in values)
    yield key, kind, count, total
