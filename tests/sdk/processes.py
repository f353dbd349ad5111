"""What a process is, for tests and for the workers that they ask."""

import os
import pathlib


def pid():
  return os.getpid()


def arguments(process='self'):
  """What it was started with; nothing if it has ended."""
  try:
    return pathlib.Path('/proc/%s/cmdline' % process).read_bytes().decode().replace('\0', ' ')
  except (FileNotFoundError, ProcessLookupError):
    return ''


def worker_id():
  """As the container's boot program tells it to the worker; nothing if none has started it."""
  return os.environ.get('WORKER_ID', '')


def children(process):
  """The process ids of its children, by all of its threads."""
  found = []
  for thread in pathlib.Path('/proc/%d/task' % process).glob('*/children'):
    try:
      found += thread.read_text().split()
    except (FileNotFoundError, ProcessLookupError):
      pass  # a thread that has ended meanwhile; others have its children now
  return found


def has_socket(process):
  """Whether it has opened any connection yet."""
  try:
    links = [os.readlink(link) for link in pathlib.Path('/proc/%s/fd' % process).iterdir()]
  except (FileNotFoundError, ProcessLookupError):
    return False
  return any(link.startswith('socket:') for link in links)
