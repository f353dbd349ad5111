#!/usr/bin/env python3
"""Prints Beam's wire protocol as .proto files from the descriptors that a released SDK carries.

The wheel of the Beam Python SDK contains every message and service of the portability
protocol as serialized descriptors, with the URN options on the enum values. This program
turns them back into .proto files: names, numbers, types and options, and no prose.

    python proto/regenerate.py            # rewrite the files beside this program
    python proto/regenerate.py --check    # exit 1 if the files differ from what would be written

Run it with the Python that has `apache-beam` of the version in BEAM_VERSION installed.
"""

import argparse
import importlib
import pathlib
import sys

from google.protobuf import descriptor_pb2, text_format

HERE = pathlib.Path(__file__).resolve().parent
MODEL = 'apache_beam.portability.api.org.apache.beam.model'
MODULES = [
    'pipeline.v1.beam_runner_api_pb2',
    'pipeline.v1.endpoints_pb2',
    'pipeline.v1.external_transforms_pb2',
    'pipeline.v1.metrics_pb2',
    'pipeline.v1.schema_pb2',
    'pipeline.v1.standard_window_fns_pb2',
    'job_management.v1.beam_artifact_api_pb2',
    'job_management.v1.beam_expansion_api_pb2',
    'job_management.v1.beam_job_api_pb2',
    'fn_execution.v1.beam_fn_api_pb2',
    'fn_execution.v1.beam_provision_api_pb2',
    'interactive.v1.beam_interactive_api_pb2',
]
F = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    getattr(F, 'TYPE_' + name.upper()): name
    for name in (
        'double float int64 uint64 int32 fixed64 fixed32 bool string bytes '
        'uint32 sfixed32 sfixed64 sint32 sint64').split()
}


class Printer:
  """Prints one file descriptor; `lines` is the text so far."""
  def __init__(self, descriptor):
    self.proto = descriptor_pb2.FileDescriptorProto()
    descriptor.CopyToProto(self.proto)
    self.lines = []

  def put(self, depth, text):
    self.lines.append('  ' * depth + text if text else '')

  def file(self):
    self.put(0, 'syntax = "proto3";')
    self.put(0, '')
    self.put(0, 'package %s;' % self.proto.package)
    if self.proto.dependency:
      self.put(0, '')
    for dependency in self.proto.dependency:
      self.put(0, 'import "%s";' % dependency)
    self.extensions(0, self.proto.extension)
    for enum in self.proto.enum_type:
      self.put(0, '')
      self.enum(0, enum)
    for message in self.proto.message_type:
      self.put(0, '')
      self.message(0, message)
    for service in self.proto.service:
      self.put(0, '')
      self.service(service)
    return '\n'.join(self.lines) + '\n'

  def options(self, options):
    """`name = value` for each option; extensions are named in parentheses."""
    found = []
    for field, value in options.ListFields():
      name = '(%s)' % field.full_name if field.is_extension else field.name
      if field.message_type is not None:
        text = '{ %s }' % text_format.MessageToString(value, as_one_line=True)
      elif field.enum_type is not None:
        text = field.enum_type.values_by_number[value].name
      elif isinstance(value, bool):
        text = 'true' if value else 'false'
      elif isinstance(value, str):
        text = '"%s"' % text_format.text_encoding.CEscape(value, as_utf8=True)
      else:
        text = str(value)
      found.append('%s = %s' % (name, text))
    return found

  def suffix(self, options):
    found = self.options(options)
    return ' [%s]' % ', '.join(found) if found else ''

  def body_options(self, depth, options, leave_out=()):
    for option in self.options(options):
      if option.split(' ')[0] not in leave_out:
        self.put(depth, 'option %s;' % option)

  def extensions(self, depth, extensions):
    by_extendee = {}
    for extension in extensions:
      by_extendee.setdefault(extension.extendee, []).append(extension)
    for extendee, fields in by_extendee.items():
      self.put(depth, '')
      self.put(depth, 'extend %s {' % extendee.lstrip('.'))
      for field in fields:
        self.field(depth + 1, field, {})
      self.put(depth, '}')

  def enum(self, depth, enum):
    self.put(depth, 'enum %s {' % enum.name)
    self.body_options(depth + 1, enum.options)
    for value in enum.value:
      self.put(
          depth + 1,
          '%s = %d%s;' % (value.name, value.number, self.suffix(value.options)))
    self.reserved(depth + 1, enum, inclusive_end=True)
    self.put(depth, '}')

  def reserved(self, depth, owner, inclusive_end=False):
    ranges = []
    for item in owner.reserved_range:
      last = item.end if inclusive_end else item.end - 1
      ranges.append(
          str(item.start) if item.start == last else '%d to %d' % (item.start, last))
    if ranges:
      self.put(depth, 'reserved %s;' % ', '.join(ranges))
    if owner.reserved_name:
      self.put(
          depth, 'reserved %s;' % ', '.join('"%s"' % n for n in owner.reserved_name))

  def message(self, depth, message):
    self.put(depth, 'message %s {' % message.name)
    self.body_options(depth + 1, message.options, leave_out=('map_entry',))
    self.reserved(depth + 1, message)
    for enum in message.enum_type:
      self.enum(depth + 1, enum)
    maps = {}
    for nested in message.nested_type:
      if nested.options.map_entry:
        maps[nested.name] = nested
      else:
        self.message(depth + 1, nested)
    self.extensions(depth + 1, message.extension)
    open_oneof = None
    for field in message.field:
      index = None
      if field.HasField('oneof_index') and not field.proto3_optional:
        index = field.oneof_index
      if index != open_oneof:
        if open_oneof is not None:
          self.put(depth + 1, '}')
        if index is not None:
          self.put(depth + 1, 'oneof %s {' % message.oneof_decl[index].name)
        open_oneof = index
      self.field(depth + (1 if index is None else 2), field, maps)
    if open_oneof is not None:
      self.put(depth + 1, '}')
    self.put(depth, '}')

  def type_name(self, field):
    return SCALARS.get(field.type) or field.type_name

  def field(self, depth, field, maps):
    entry = maps.get(field.type_name.split('.')[-1]) if field.type_name else None
    if entry is not None and field.type_name.endswith('.' + entry.name):
      key, value = entry.field
      declared = 'map<%s, %s>' % (self.type_name(key), self.type_name(value))
    elif field.label == F.LABEL_REPEATED:
      declared = 'repeated ' + self.type_name(field)
    elif field.proto3_optional:
      declared = 'optional ' + self.type_name(field)
    else:
      declared = self.type_name(field)
    self.put(
        depth,
        '%s %s = %d%s;' % (declared, field.name, field.number, self.suffix(field.options)))

  def service(self, service):
    self.put(0, 'service %s {' % service.name)
    for method in service.method:
      self.put(
          1,
          'rpc %s(%s%s) returns (%s%s);' % (
              method.name,
              'stream ' if method.client_streaming else '',
              method.input_type,
              'stream ' if method.server_streaming else '',
              method.output_type))
    self.put(0, '}')


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--check', action='store_true', help='only compare')
  check = parser.parse_args().check
  import apache_beam
  wanted = (HERE / 'BEAM_VERSION').read_text().strip()
  if apache_beam.__version__ != wanted:
    sys.exit(
        'BEAM_VERSION says %s, but apache-beam %s is installed' %
        (wanted, apache_beam.__version__))
  differing = []
  for module in MODULES:
    descriptor = importlib.import_module(MODEL + '.' + module).DESCRIPTOR
    path = HERE / descriptor.name
    text = Printer(descriptor).file()
    if path.exists() and path.read_text() == text:
      continue
    differing.append(descriptor.name)
    if not check:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)
  for name in differing:
    print('%s %s' % ('differs:' if check else 'wrote', name))
  sys.exit(1 if check and differing else 0)


if __name__ == '__main__':
  main()
