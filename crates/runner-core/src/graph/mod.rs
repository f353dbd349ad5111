//! 1 · The pipeline as a graph: validated whole, and asked questions.
//!
//! [`QueryablePipeline`] holds the pipeline's components and, in topological order, its *primitives*:
//! the transforms that something will execute. A composite that the runner has an implementation for
//! (Reshuffle, say) is a primitive; any other composite is only a name around its parts.

mod coders;
mod primitive;
mod supported;
mod test_stream;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use beam_model::pipeline::{Coder, Components, PCollection, PTransform, Pipeline, WindowingStrategy};
use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};

pub use primitive::{PrimitiveKind, kind_of, main_input, pardo_payload, side_inputs};
pub use supported::unsupported;
pub use test_stream::{test_stream_payload, test_stream_url};

use crate::backend::Refusal;
use crate::fault::Fault;

/// A pipeline reduced to what is executed.
#[derive(Clone, Debug)]
pub struct QueryablePipeline {
    pub components: Components,
    /// Ids of the primitives; producers before consumers.
    primitives: Vec<String>,
    /// Flattens that a worker is to execute: those that change the coder.
    worker_flattens: BTreeSet<String>,
}

/// Who makes and who reads each PCollection.
#[derive(Debug, Default)]
pub struct Network {
    pub producer: HashMap<String, String>,
    /// Reading transforms with the tag they read it by, in topological order of the transforms.
    pub consumers: HashMap<String, Vec<(String, String)>>,
}

impl QueryablePipeline {
    /// Validates the pipeline as a whole and orders its primitives. The refusal names every fault.
    pub fn new(pipeline: &Pipeline) -> Result<Self, Refusal> {
        let components = pipeline.components.clone().unwrap_or_default();
        let mut refusal = Refusal::default();
        let primitives = validate::check(pipeline, &components, &mut refusal);
        refusal.clone().into_result()?;
        let mut graph = Self { components, primitives, worker_flattens: BTreeSet::new() };
        for name in graph.sort().err().unwrap_or_default() {
            refusal.invalid(name, "is on a cycle: it needs, over other transforms, what it makes itself");
        }
        refusal.into_result()?;
        Ok(graph)
    }

    pub fn primitives(&self) -> &[String] {
        &self.primitives
    }

    /// Replaces the primitive `old` by `new` ones, whose transforms and PCollections the caller has
    /// added to the components already.
    pub fn replace(&mut self, old: &str, new: Vec<String>) {
        self.primitives.retain(|id| id != old);
        self.primitives.extend(new);
    }

    /// Adds a Flatten of one input that a worker is to execute.
    pub fn add_worker_flatten(&mut self, id: String) {
        self.worker_flattens.insert(id.clone());
        self.primitives.push(id);
    }

    /// Who executes a primitive.
    pub fn kind(&self, id: &str) -> Result<PrimitiveKind, Fault> {
        if self.worker_flattens.contains(id) {
            return Ok(PrimitiveKind::Sdk);
        }
        let urn = primitive::urn(self.transform(id)?);
        kind_of(urn).ok_or_else(|| Fault::runner(format!("transform {urn:?} cannot be executed")))
    }

    /// Orders the primitives topologically, keeping the given order where the graph leaves a choice.
    /// The error is the names of all transforms on cycles.
    pub fn sort(&mut self) -> Result<(), Vec<String>> {
        let mut graph = DiGraph::<&str, ()>::new();
        // petgraph's order follows the node order from the last to the first.
        let nodes: Vec<_> = self.primitives.iter().rev().map(|id| graph.add_node(id)).collect();
        let mut producer = HashMap::new();
        for node in &nodes {
            for output in self.transform_outputs(graph[*node]) {
                producer.insert(output, *node);
            }
        }
        for node in &nodes {
            let Some(transform) = self.components.transforms.get(graph[*node]) else { continue };
            for source in transform.inputs.values().filter_map(|input| producer.get(input.as_str())) {
                graph.add_edge(*source, *node, ());
            }
        }
        match toposort(&graph, None) {
            Ok(order) => {
                self.primitives = order.into_iter().map(|node| graph[node].to_owned()).collect();
                Ok(())
            }
            Err(_) => {
                let is_cycle =
                    |nodes: &&Vec<NodeIndex>| nodes.len() > 1 || graph.contains_edge(nodes[0], nodes[0]);
                let cycles = tarjan_scc(&graph);
                let on_cycle = cycles.iter().filter(is_cycle).flatten();
                Err(on_cycle.map(|node| self.name(graph[*node])).collect())
            }
        }
    }

    fn transform_outputs(&self, id: &str) -> impl Iterator<Item = &str> {
        self.components.transforms.get(id).into_iter().flat_map(|t| t.outputs.values()).map(String::as_str)
    }

    pub fn network(&self) -> Network {
        let mut network = Network::default();
        for id in &self.primitives {
            let Some(transform) = self.components.transforms.get(id) else { continue };
            for output in transform.outputs.values() {
                network.producer.insert(output.clone(), id.clone());
            }
            for (tag, input) in &transform.inputs {
                network.consumers.entry(input.clone()).or_default().push((id.clone(), tag.clone()));
            }
        }
        network
    }

    /// What the user calls the transform, or its id if it has no name.
    pub fn name(&self, transform_id: &str) -> String {
        user_name(&self.components, transform_id)
    }

    pub fn transform(&self, id: &str) -> Result<&PTransform, Fault> {
        self.components.transforms.get(id).ok_or_else(|| missing("transform", id))
    }

    pub fn pcollection(&self, id: &str) -> Result<&PCollection, Fault> {
        self.components.pcollections.get(id).ok_or_else(|| missing("PCollection", id))
    }

    pub fn windowing_strategy(&self, pcollection: &str) -> Result<&WindowingStrategy, Fault> {
        let id = &self.pcollection(pcollection)?.windowing_strategy_id;
        self.components.windowing_strategies.get(id).ok_or_else(|| missing("windowing strategy", id))
    }

    pub fn coder(&self, id: &str) -> Result<&Coder, Fault> {
        self.components.coders.get(id).ok_or_else(|| missing("coder", id))
    }

    /// The environment that the transform runs in: its own, or the pipeline's only one.
    pub fn environment_id(&self, transform_id: &str) -> Result<String, Fault> {
        let own = &self.transform(transform_id)?.environment_id;
        if !own.is_empty() {
            return Ok(own.clone());
        }
        let mut all = self.components.environments.keys();
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => Err(Fault::runner(format!("transform {} names no environment", self.name(transform_id)))),
        }
    }

    /// Whether two coders encode alike: same URN, payload and components, whatever their ids.
    pub fn same_coder(&self, a: &str, b: &str) -> bool {
        coders::same_coder(&self.components.coders, a, b)
    }

    /// Adds a coder and returns its id; an equal one that is there already is used again.
    pub fn add_coder(&mut self, hint: &str, coder: Coder) -> String {
        if let Some((id, _)) = self.components.coders.iter().find(|(_, known)| **known == coder) {
            return id.clone();
        }
        let id = fresh(&self.components.coders, hint);
        self.components.coders.insert(id.clone(), coder);
        id
    }

    pub fn add_pcollection(&mut self, hint: &str, pcollection: PCollection) -> String {
        let id = fresh(&self.components.pcollections, hint);
        self.components.pcollections.insert(id.clone(), pcollection);
        id
    }

    pub fn add_transform(&mut self, hint: &str, transform: PTransform) -> String {
        let id = fresh(&self.components.transforms, hint);
        self.components.transforms.insert(id.clone(), transform);
        id
    }
}

/// What the user calls the transform, or its id if it has no name.
pub fn user_name(components: &Components, transform_id: &str) -> String {
    match components.transforms.get(transform_id) {
        Some(transform) if !transform.unique_name.is_empty() => transform.unique_name.clone(),
        _ => transform_id.to_owned(),
    }
}

/// An id that begins with `hint` and is not taken.
fn fresh<V>(taken: &BTreeMap<String, V>, hint: &str) -> String {
    if !taken.contains_key(hint) {
        return hint.to_owned();
    }
    let mut n = 2_u64;
    loop {
        let id = format!("{hint}_{n}");
        if !taken.contains_key(&id) {
            return id;
        }
        n += 1;
    }
}

fn missing(what: &str, id: &str) -> Fault {
    Fault::runner(format!("{what} {id:?} is not in the pipeline"))
}

/// The distinct values of a transform's input or output map.
pub fn distinct(map: &BTreeMap<String, String>) -> BTreeSet<&str> {
    map.values().map(String::as_str).collect()
}
