"""An EXTERNAL worker pool whose workers speak the Fn API, badly."""

import collections
import concurrent.futures
import queue
import threading

import grpc
from apache_beam.portability.api import beam_fn_api_pb2 as fn
from apache_beam.portability.api import beam_fn_api_pb2_grpc as fn_grpc

SINK = 'beam:runner:sink:v1'


class FakePool(fn_grpc.BeamFnExternalWorkerPoolServicer):
  """Starts workers as threads. `speak(worker, request)` answers each ProcessBundle request with the
  Elements messages to send; afterwards the worker says that the bundle is done."""
  def __init__(self, speak):
    self.speak = speak
    self.workers = {}
    self.requests = collections.Counter()
    self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    fn_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(self, self.server)
    self.address = '127.0.0.1:%d' % self.server.add_insecure_port('127.0.0.1:0')

  def __enter__(self):
    self.server.start()
    return self

  def __exit__(self, *unused):
    # First, since the server stops and starts workers after its job has ended too.
    self.server.stop(0).wait(5)
    for worker in list(self.workers.values()):
      worker.close()

  def StartWorker(self, request, unused_context):
    self.requests['start'] += 1
    worker = FakeWorker(request.worker_id, request.control_endpoint.url, self)
    self.workers[request.worker_id] = worker
    worker.thread.start()
    return fn.StartWorkerResponse()

  def StopWorker(self, request, unused_context):
    worker = self.workers.pop(request.worker_id, None)
    if worker:
      worker.close()
    return fn.StopWorkerResponse()


class FakeWorker:
  def __init__(self, worker_id, control, pool):
    self.pool = pool
    self.metadata = [('worker_id', worker_id)]
    self.channel = grpc.insecure_channel(control)
    self.control = fn_grpc.BeamFnControlStub(self.channel)
    self.data = queue.Queue()
    self.responses = queue.Queue()
    self.data_channels = {}
    self.thread = threading.Thread(target=self._run, daemon=True)

  def close(self):
    self.responses.put(None)
    self.data.put(None)
    self.channel.close()

  def _run(self):
    try:
      for request in self.control.Control(iter(self.responses.get, None), metadata=self.metadata):
        kind = request.WhichOneof('request')
        self.pool.requests[kind] += 1
        response = fn.InstructionResponse(instruction_id=request.instruction_id)
        if kind == 'process_bundle':
          self._process(request)
          response.process_bundle.SetInParent()
        elif kind is not None:
          getattr(response, kind).SetInParent()
        self.responses.put(response)
    except (grpc.RpcError, ValueError):
      pass  # the server has ended the worker, or the test has

  def descriptor(self, request):
    return self.control.GetProcessBundleDescriptor(
        fn.GetProcessBundleDescriptorRequest(
            process_bundle_descriptor_id=request.process_bundle.process_bundle_descriptor_id),
        metadata=self.metadata, timeout=10)

  def _process(self, request):
    descriptor = self.descriptor(request)
    for transform_id, transform in descriptor.transforms.items():
      if transform.spec.urn == SINK:
        port = fn.RemoteGrpcPort.FromString(transform.spec.payload)
        self._send(port.api_service_descriptor.url,
                   self.pool.speak(request.instruction_id, transform_id))

  def _send(self, url, elements):
    if url not in self.data_channels:
      stub = fn_grpc.BeamFnDataStub(grpc.insecure_channel(url))
      self.data_channels[url] = stub.Data(iter(self.data.get, None), metadata=self.metadata)
    for message in elements:
      self.data.put(message)
