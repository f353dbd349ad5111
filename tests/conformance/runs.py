"""What `make conformance` runs: each suite, how it is submitted, and in which environment."""

import collections

# `options` are pipeline options of every job; `about` says on the page what is special about it. A run `beside` the
# others mostly waits, for minutes.
Run = collections.namedtuple('Run', 'suite environment options about beside', defaults=[False])


def _loopback(suite, about, options=()):
  return Run(suite, 'LOOPBACK', tuple(options), about)


# PortableRunnerTest, by the ways in which the client can submit the same pipelines.
WAYS = collections.OrderedDict([
    ('portable', _loopback('portable', 'batch')),
    ('portable-streaming', _loopback('portable-streaming', 'streaming')),
    ('portable-unoptimized', _loopback('portable-unoptimized', 'unoptimized')),
    ('portable-optimized', _loopback('portable-optimized', 'optimized')),
])

# The same again, where workers are two processes, and where every bundle has one element.
VARIANTS = collections.OrderedDict([
    ('portable-external', Run(
        'portable', 'EXTERNAL', ('--sdk_worker_parallelism=2',), 'EXTERNAL, two worker processes')),
    ('portable-element', _loopback(
        'portable', 'one element a bundle', ['--bundle_size=element'])),
])

# The shortest come first, so that what is broken altogether shows early.
RUNS = collections.OrderedDict([
    *WAYS.items(),
    ('skipped-by-sdk', _loopback('skipped-by-sdk', 'what the SDK skips for every runner')),
    ('validatesrunner', _loopback('validatesrunner', 'all that is marked so in the SDK')),
    ('validatesrunner-streaming', Run(
        'validatesrunner-streaming', 'LOOPBACK', (), 'the same with `--streaming`', beside=True)),
    ('time', _loopback('time', 'TestStream, triggers, windows, state and timers')),
    ('core', _loopback('core', 'the unit tests that build pipelines')),
    ('examples', _loopback('examples', 'the tests of the examples')),
    *VARIANTS.items(),
])
# What stands for one run each, or for several.
CHOICES = {name: [name] for name in RUNS}
CHOICES['portable'] = list(WAYS)
CHOICES['all'] = list(RUNS)
