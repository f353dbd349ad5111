//! A bundle processed step by step in the caller's own time, without a wire: for simulations that say
//! themselves what happens between two elements.

use std::sync::Arc;

use beam_model::fn_execution::process_bundle_split_response::ChannelSplit;
use beam_model::fn_execution::state_key::Type;
use beam_model::fn_execution::{
    BundleApplication, DelayedBundleApplication, Elements, ProcessBundleDescriptor, ProcessBundleResponse,
    RemoteGrpcPort, elements,
};
use beam_model::pipeline::ApiServiceDescriptor;
use bytes::Bytes;
use prost::Message;

use super::bundle::{Execution, Wires};
use super::element::Element;
use super::script::Script;
use super::split::RunningBundle;
use super::state::StateAccess;

/// What a bundle asks for and gives out.
pub trait BundleHost: Send + Sync {
    /// All of a key's value.
    fn get(&self, key: &Type) -> Result<Vec<u8>, String>;
    fn append(&self, key: &Type, data: &[u8]) -> Result<(), String>;
    fn clear(&self, key: &Type) -> Result<(), String>;
    /// Output and timers.
    fn output(&self, frame: Elements) -> Result<(), String>;
}

struct State(Arc<dyn BundleHost>);

impl StateAccess for State {
    fn get(&self, _: &str, key: &Type) -> Result<Vec<u8>, String> {
        self.0.get(key)
    }

    fn append(&self, _: &str, key: &Type, data: &[u8]) -> Result<(), String> {
        self.0.append(key, data)
    }

    fn clear(&self, _: &str, key: &Type) -> Result<(), String> {
        self.0.clear(key)
    }
}

/// What a bundle gave back while it ran.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalSplit {
    /// What it keeps of an element that was cut, as far as the function says so.
    pub primary_roots: Vec<BundleApplication>,
    pub residual_roots: Vec<DelayedBundleApplication>,
    pub channel: ChannelSplit,
}

/// One attempt of a bundle with one data source.
pub struct LocalBundle<'a> {
    execution: Execution<'a>,
    source: String,
    elements: Vec<Element>,
    /// How many elements were begun.
    begun: usize,
}

impl<'a> LocalBundle<'a> {
    /// The descriptor as a worker gets it: all of its endpoints are named.
    pub fn with_endpoints(mut descriptor: ProcessBundleDescriptor) -> ProcessBundleDescriptor {
        let endpoint = Some(ApiServiceDescriptor { url: "local".to_owned(), authentication: None });
        for transform in descriptor.transforms.values_mut() {
            let Some(spec) = &mut transform.spec else { continue };
            if spec.urn.starts_with("beam:runner:") {
                let mut port = RemoteGrpcPort::decode(spec.payload.clone()).unwrap();
                port.api_service_descriptor.clone_from(&endpoint);
                spec.payload = port.encode_to_vec().into();
            }
        }
        descriptor.timer_api_service_descriptor.clone_from(&endpoint);
        descriptor.state_api_service_descriptor = endpoint;
        descriptor
    }

    /// A bundle of this input for `source`. `descriptor` is one that [`Self::with_endpoints`] has returned.
    ///
    /// Errors: what the descriptor or the input has that no worker could read.
    pub fn new(
        descriptor: &'a ProcessBundleDescriptor,
        script: &Script,
        instruction: &str,
        host: Arc<dyn BundleHost>,
        source: &str,
        blocks: &[Bytes],
    ) -> Result<Self, String> {
        let output = host.clone();
        let wires = Wires {
            instruction: instruction.to_owned(),
            output: Box::new(move |frame| output.output(frame)),
            state: Arc::new(State(host)),
            running: Arc::new(RunningBundle::new(1)),
            samples: None,
            disconnect: Box::new(|| {}),
        };
        let execution = Execution::new(descriptor, script, None, wires)?;
        let mut elements = Vec::new();
        for block in blocks {
            elements.extend(execution.split(source, block)?);
        }
        Ok(Self { execution, source: source.to_owned(), elements, begun: 0 })
    }

    /// How many elements there are, and how many were begun.
    pub fn progress(&self) -> (usize, usize) {
        (self.elements.len(), self.begun)
    }

    /// Processes the next element. False: there is none.
    pub fn process_next(&mut self) -> Result<bool, String> {
        let Some(element) = self.elements.get(self.begun).cloned() else { return Ok(false) };
        self.begun += 1;
        self.execution.take(&self.source, element)?;
        Ok(true)
    }

    /// Keeps that many of the elements that were not begun and gives the rest back, if there is one.
    pub fn split_after(&mut self, kept: usize) -> Option<LocalSplit> {
        let first = self.begun + kept;
        if first >= self.elements.len() {
            return None;
        }
        self.elements.truncate(first);
        let channel = self.channel(first, first);
        Some(LocalSplit { primary_roots: Vec::new(), residual_roots: Vec::new(), channel })
    }

    /// Processes a part of the next element and gives back the rest of it, with all elements after it. `None`: there
    /// is none to split, or it has come to its end and was the last.
    pub fn split_within(&mut self) -> Result<Option<LocalSplit>, String> {
        let (taken, residual_roots, primary_roots) =
            self.execution.stopping(|execution| match self.elements.get(self.begun) {
                Some(element) => execution.take(&self.source, element.clone()).map(|()| true),
                None => Ok(false),
            });
        if !taken? {
            return Ok(None);
        }
        self.begun += 1;
        let whole = residual_roots.is_empty();
        if whole && self.begun >= self.elements.len() {
            return Ok(None);
        }
        self.elements.truncate(self.begun);
        let channel = self.channel(if whole { self.begun } else { self.begun - 1 }, self.begun);
        Ok(Some(LocalSplit { primary_roots, residual_roots, channel }))
    }

    /// So many elements are processed as a whole, and those from `first` on not at all.
    fn channel(&self, whole: usize, first: usize) -> ChannelSplit {
        let index = |count: usize| i64::try_from(count).unwrap();
        ChannelSplit {
            transform_id: self.source.clone(),
            last_primary_element: index(whole) - 1,
            first_residual_element: index(first),
        }
    }

    /// Timers that fire.
    pub fn fire(&mut self, timers: &elements::Timers) -> Result<(), String> {
        self.execution.fire(timers)
    }

    /// Gives out what is left.
    pub fn finish(self) -> Result<ProcessBundleResponse, String> {
        self.execution.finish()
    }
}
