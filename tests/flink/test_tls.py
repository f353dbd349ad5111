"""A Flink cluster whose REST endpoint speaks TLS, and wants to see a client certificate."""

import ssl
import subprocess
import sys

import pytest
from apache_beam.portability.api import beam_job_api_pb2 as jobs

import harness
import wire
import wordcount
from beamline_server import BeamlineServer, ServerError
from conftest import BINARY, ROOT, RUNNER_JAR

JOB_SECONDS = 150
TEXT = str(ROOT / 'tests' / 'data' / 'kinglear.txt')
PASSWORD = 'password'
# Flink's own default is one without forward secrecy, which neither Beamline nor today's OpenSSL offers.
CIPHERS = {
    'security.ssl.algorithms':
    'TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384'
}


def _run(*command):
  return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


class _Certificates:
  """The cluster's, made as Flink's own documentation says, and one for clients."""
  def __init__(self, folder):
    self.keystore, self.truststore = str(folder / 'rest.keystore'), str(folder / 'rest.truststore')
    self.ca, self.client, self.key = (str(folder / name) for name in ('ca.pem', 'client.pem', 'client-key.pem'))
    store = ('-keystore', self.keystore, '-storepass', PASSWORD, '-alias', 'flink.rest')
    _run('keytool', '-genkeypair', *store, '-dname', 'CN=flink', '-ext', 'SAN=ip:127.0.0.1', '-keyalg', 'RSA',
         '-validity', '2')
    (folder / 'ca.pem').write_text(_run('keytool', '-exportcert', '-rfc', *store))
    _run('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=beamline', '-days', '2', '-keyout',
         self.key, '-out', self.client)
    _run('keytool', '-importcert', '-noprompt', '-keystore', self.truststore, '-storepass', PASSWORD, '-alias', 'client',
         '-file', self.client)

  def of_flink(self):
    prefix = 'security.ssl.rest.'
    return {
        prefix + 'enabled': 'true', prefix + 'authentication-enabled': 'true', prefix + 'keystore': self.keystore,
        prefix + 'truststore': self.truststore, prefix + 'keystore-password': PASSWORD,
        prefix + 'key-password': PASSWORD, prefix + 'truststore-password': PASSWORD
    }

  def context(self):
    context = ssl.create_default_context(cafile=self.ca)
    context.load_cert_chain(self.client, self.key)
    return context

  def flags(self):
    return ['--flink-ca-file', self.ca, '--flink-client-certificate', self.client, '--flink-client-key', self.key]


@pytest.fixture(scope='module')
def certificates(tmp_path_factory):
  return _Certificates(tmp_path_factory.mktemp('certificates'))


@pytest.fixture(scope='module')
def guarded(new_cluster, certificates):  # pylint: disable=redefined-outer-name
  return new_cluster(1, {**CIPHERS, **certificates.of_flink()}, certificates.context())


def _server(master, flags):
  return BeamlineServer(BINARY, ['--backend=flink', '--flink-master', master, '--flink-runner-jar', str(RUNNER_JAR), *flags])


def test_wordcount(guarded, certificates, tmp_path):  # pylint: disable=redefined-outer-name
  prefix = str(tmp_path / 'counts')
  with _server(guarded.master, certificates.flags()) as server:
    subprocess.run(
        [sys.executable, '-m', 'apache_beam.examples.wordcount', '--input', TEXT, '--output', prefix,
         *harness.portable_options(server.endpoint, ('LOOPBACK', None))], check=True, timeout=JOB_SECONDS)
  counts, files = wordcount.written_count(prefix)
  assert wordcount.compare(wordcount.plain_count(TEXT), counts, files)
  assert guarded.get('/jars')['files'] == []
  assert [job['state'] for job in guarded.get('/jobs/overview')['jobs']] == ['FINISHED']


def _why(master, flags):
  """The error of a job that cannot get there."""
  with _server(master, flags) as server:
    with wire.job_service(server.endpoint) as stub:
      job_id = wire.submit(stub, wire.impulse_proto())
      assert wire.states(stub, job_id)[-1] == jobs.JobState.FAILED
      [error] = wire.errors(wire.messages(stub, job_id))
      print(error)
      return error


def test_what_is_missing_is_told(guarded, certificates):  # pylint: disable=redefined-outer-name
  ca = ['--flink-ca-file', certificates.ca]
  assert 'it wants a client certificate: give one by --flink-client-certificate' in _why(guarded.master, ca)
  assert 'give the one that has by --flink-ca-file' in _why(guarded.master, [])
  other_host = guarded.master.replace('127.0.0.1', 'localhost')
  assert 'its certificate is for another host' in _why(other_host, ca)
  # Flink leads those who do not speak TLS to where it does.
  without_tls = guarded.master.replace('https://', '')
  assert 'it leads to %s, where nothing is sent to' % guarded.master in _why(without_tls, ca)
  with pytest.raises(ServerError, match='it has no certificate in PEM .* keytool -exportcert'):
    _server(guarded.master, ['--flink-ca-file', certificates.keystore]).start()


def test_flinks_default_cipher_suite_is_told(new_cluster, certificates):  # pylint: disable=redefined-outer-name
  context = certificates.context()
  context.set_ciphers('AES128-SHA')
  unsafe = new_cluster(0, certificates.of_flink(), context)
  error = _why(unsafe.master, certificates.flags())
  assert 'no cipher suite that both sides know' in error and 'set security.ssl.algorithms' in error


def test_a_port_without_tls_is_told(new_cluster):
  plain = new_cluster(0)
  assert 'the port does not speak TLS: give http://' in _why('https://' + plain.master, [])
