"""Map state, which the Python SDK has no class for: the DoFn speaks the state protocol itself, through
the connection that one of its other states has."""

import apache_beam as beam
from apache_beam import coders
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_fn_api_pb2, beam_runner_api_pb2
from apache_beam.transforms import userstate

from harness import case, check

from .requirements import Requiring

TEXT = coders.StrUtf8Coder()
ENTRY = coders.TupleCoder([TEXT, coders.IterableCoder(TEXT)])


class _Multimap:
  """The protocol's view of a multimap whose keys and values are texts."""
  def __init__(self, bag):
    # pylint: disable=protected-access
    handler = bag._state_handler
    self.wire = getattr(handler, '_underlying', handler)
    of = bag._state_key.bag_user_state
    self.place = {
        'transform_id': of.transform_id, 'user_state_id': 'map', 'window': of.window, 'key': of.key
    }

  def _of_key(self, key):
    return beam_fn_api_pb2.StateKey(multimap_user_state=beam_fn_api_pb2.StateKey.MultimapUserState(
        map_key=TEXT.get_impl().encode_nested(key), **self.place))

  @property
  def _keys(self):
    return beam_fn_api_pb2.StateKey(
        multimap_keys_user_state=beam_fn_api_pb2.StateKey.MultimapKeysUserState(**self.place))

  @property
  def _entries(self):
    return beam_fn_api_pb2.StateKey(
        multimap_entries_user_state=beam_fn_api_pb2.StateKey.MultimapEntriesUserState(**self.place))

  def _read(self, state_key, coder):
    data, token = b'', b''
    while True:
      page, token = self.wire.get_raw(state_key, token)
      data += page
      if not token:
        break
    stream, found = coders.coder_impl.create_InputStream(data), []
    while stream.size() > 0:
      found.append(coder.get_impl().decode_from_stream(stream, True))
    return found

  def get(self, key):
    return self._read(self._of_key(key), TEXT)

  def put(self, key, value):
    self.wire.append_raw(self._of_key(key), TEXT.get_impl().encode_nested(value)).get()

  def remove(self, key):
    self.wire.clear(self._of_key(key)).get()

  def keys(self):
    return self._read(self._keys, TEXT)

  def entries(self):
    return [(key, sorted(values)) for key, values in self._read(self._entries, ENTRY)]

  def clear(self):
    self.wire.clear(self._keys).get()


def _declare(payload):
  coder_id = next(iter(payload.state_specs.values())).bag_spec.element_coder_id
  payload.state_specs['map'].CopyFrom(beam_runner_api_pb2.StateSpec(
      multimap_spec=beam_runner_api_pb2.MultimapStateSpec(
          key_coder_id=coder_id, value_coder_id=coder_id),
      protocol=beam_runner_api_pb2.FunctionSpec(urn=common_urns.user_state.MULTIMAP.urn)))


class _Maps(beam.DoFn):
  """Each element is a list of words to the map, whose answers are handed on."""
  BAG = userstate.BagStateSpec('bag', TEXT)

  def process(self, element, bag=beam.DoFn.StateParam(BAG)):
    multimap = _Multimap(bag)
    for name, *words in element[1]:
      answer = getattr(multimap, name)(*words)
      if answer is not None:
        yield element[0], name, sorted(answer)


@case(matrix=True)
def map_state(p):
  said = [
      ('put', 'x', '1'), ('put', 'x', '2'), ('put', 'y', '3'), ('get', 'x'), ('get', 'z'),
      ('keys',), ('entries',), ('remove', 'x'), ('get', 'x'), ('keys',), ('put', 'x', '4'),
      ('get', 'x'), ('clear',), ('keys',), ('put', 'y', '5'), ('get', 'y')]
  seen = p | beam.Create([('k', said), ('l', [('keys',)])]) | Requiring(
      _Maps(), common_urns.requirements.REQUIRES_STATEFUL_PROCESSING.urn, _declare)
  check(seen, [
      ('k', 'get', ['1', '2']), ('k', 'get', []), ('k', 'keys', ['x', 'y']),
      ('k', 'entries', [('x', ['1', '2']), ('y', ['3'])]), ('k', 'get', []),
      ('k', 'keys', ['y']), ('k', 'get', ['4']), ('k', 'keys', []), ('k', 'get', ['5']),
      ('l', 'keys', [])])


@case(matrix=True)
def map_state_of_several_bundles(p):
  """What one element put is there for the next of its key."""
  said = [('k', [('put', 'x', str(i))]) for i in range(3)]
  put = p | beam.Create(said) | Requiring(
      _CountsThenReads(), common_urns.requirements.REQUIRES_STATEFUL_PROCESSING.urn, _declare)
  check(put | beam.CombinePerKey(max), [('k', 3)])


class _CountsThenReads(beam.DoFn):
  BAG = userstate.BagStateSpec('bag', TEXT)

  def process(self, element, bag=beam.DoFn.StateParam(BAG)):
    multimap = _Multimap(bag)
    for name, *words in element[1]:
      getattr(multimap, name)(*words)
    yield element[0], len(multimap.get('x'))
