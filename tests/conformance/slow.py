"""Tests that take longer than the bound of the others by what they do, each with a bound of its own."""

import pathlib

FILE = pathlib.Path(__file__).resolve().parent / 'slow.tsv'


def bounds():
  """Test -> seconds, from slow.tsv: test, seconds, reason."""
  found = {}
  for line in FILE.read_text(encoding='utf-8').splitlines():
    if line and not line.startswith('#'):
      test, seconds, _ = line.split('\t')
      found[test] = int(seconds)
  return found


def bound(test, otherwise):
  """The bound of `test`, named as in a record (module::Class::test), in seconds."""
  return max((seconds for name, seconds in bounds().items() if test.endswith('::' + name)),
             default=otherwise)
