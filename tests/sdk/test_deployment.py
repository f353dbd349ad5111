"""The manifests of deploy/ hang together, and the programs in them know the flags that they are given."""

import re
import subprocess

import pytest
import yaml

from conftest import BINARY, ROOT

FOLDER = ROOT / 'deploy' / 'flink'
FILES = sorted(path.name for path in FOLDER.glob('*.yaml'))
OUR_IMAGES = ('beamline:latest', 'beamline-python:latest')
# The operator's name for the container that it adds to, and the REST port of Flink.
MAIN_CONTAINER = 'flink-main-container'
REST_PORT = 8081


def documents(name):
  return list(yaml.safe_load_all((FOLDER / name).read_text(encoding='utf-8')))


def all_documents():
  return [document for name in FILES for document in documents(name)]


def pod_specs(document):
  spec = document['spec']
  if document['kind'] == 'FlinkDeployment':
    return [spec['taskManager']['podTemplate']['spec']]
  return [spec['template']['spec']] if document['kind'] in ('Deployment', 'Job') else []


def containers(document):
  return [one for pod in pod_specs(document) for one in pod.get('initContainers', []) + pod['containers']]


def of_kind(kind):
  return [document for document in all_documents() if document['kind'] == kind]


def our_commands():
  """(file, arguments) of each container that runs Beamline."""
  return [(name, one['args']) for name in FILES for document in documents(name)
          for one in containers(document) if one.get('image') in OUR_IMAGES]


def split_command(arguments):
  """The arguments of Beamline, and those of the program that it starts."""
  at = arguments.index('--') if '--' in arguments else len(arguments)
  return arguments[:at], arguments[at + 1:]


def test_there_are_manifests():
  assert len(FILES) >= 5 and len(our_commands()) >= 2
  for document in all_documents():
    assert document['apiVersion'] and document['kind'] and document['metadata']['name']
  names = [(document['kind'], document['metadata']['name']) for document in all_documents()]
  assert len(names) == len(set(names))


@pytest.mark.parametrize('name, arguments', our_commands())
def test_the_program_knows_its_flags(name, arguments):
  ours, _ = split_command(arguments)
  told = subprocess.run([BINARY, ours[0], '--help'], capture_output=True, text=True, timeout=90, check=False)
  assert told.returncode == 0, (name, told.stderr)
  known = set(re.findall(r'--[a-z-]+', told.stdout))
  given = {argument.split('=', 1)[0] for argument in ours[1:]}
  assert given and given <= known, (name, given - known)


@pytest.mark.parametrize('name', FILES)
def test_volumes_and_ports_are_there(name):
  for document in documents(name):
    for pod in pod_specs(document):
      volumes = {volume['name'] for volume in pod.get('volumes', [])}
      for container in pod.get('initContainers', []) + pod['containers']:
        assert {mount['name'] for mount in container.get('volumeMounts', [])} <= volumes
        ports = {port['name'] for port in container.get('ports', [])}
        probed = {container[probe]['tcpSocket']['port'] for probe in container if probe.endswith('Probe')}
        assert probed <= ports


def test_the_service_leads_to_the_server():
  [service], [deployment] = of_kind('Service'), of_kind('Deployment')
  pod = deployment['spec']['template']
  assert service['spec']['selector'].items() <= pod['metadata']['labels'].items()
  assert deployment['spec']['selector']['matchLabels'].items() <= pod['metadata']['labels'].items()
  [server] = pod['spec']['containers']
  ports = {port['name']: port['containerPort'] for port in server['ports']}
  assert all(ports[port['targetPort']] == port['port'] for port in service['spec']['ports'])
  assert '--advertise-host=' + service['metadata']['name'] in server['args']


def test_everyone_names_the_same_places():
  [service] = of_kind('Service')
  endpoint = '--job_endpoint=%s:%d' % (service['metadata']['name'], service['spec']['ports'][0]['port'])
  masters = {'--flink-master=%s-rest:%d' % (one['metadata']['name'], REST_PORT)
             for one in of_kind('FlinkDeployment')}
  pools = set()
  for document in of_kind('FlinkDeployment'):
    template = containers(document)
    assert [one['name'] for one in template] == [MAIN_CONTAINER, 'beam-worker-pool']
    pools.add('localhost:%d' % template[1]['ports'][0]['containerPort'])
  for name, arguments in our_commands():
    ours, program = split_command(arguments)
    assert masters & set(ours), name
    overrides = [a.rsplit('EXTERNAL:', 1)[1] for a in ours if a.startswith('--environment-override=')]
    assert set(overrides) <= pools and (overrides or not program), name
  [client] = [one for document in of_kind('Job') for one in containers(document) if endpoint in one.get('args', [])]
  assert {'--environment_config=' + pool for pool in pools} & set(client['args'])
