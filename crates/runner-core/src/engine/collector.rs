//! What takes in elements and gives some out later: a GroupByKey, or what waits for side inputs, of which the engine knows only what it
//! has asked of it and how far that has been answered.

use std::collections::VecDeque;

use beam_model::time::{EventTime, ProcessingTime};

use super::holds::Holds;
use super::{Block, Engine, EngineAction};
use crate::plan::NodeId;

/// What a collector says when it has done what it was asked.
#[derive(Clone, Copy, Debug)]
pub struct Collected {
    /// Its output watermark must not pass this; [`EventTime::MAX`] if it has nothing buffered.
    pub hold: EventTime,
    /// When it is to be told the processing time next.
    pub wake: Option<ProcessingTime>,
}

pub(super) struct CollectorState {
    /// What it has been asked and has not answered, in order.
    asks: VecDeque<Ask>,
    /// Of elements that it has been given and has not answered for.
    unanswered: Holds,
    /// The input watermark that it has been told, and that it has answered for.
    told: EventTime,
    answered: EventTime,
    /// Of what it has buffered.
    hold: EventTime,
    output: EventTime,
}

enum Ask {
    Add(Vec<EventTime>),
    Advance(EventTime),
}

impl Default for CollectorState {
    fn default() -> Self {
        Self {
            asks: VecDeque::new(),
            unanswered: Holds::default(),
            told: EventTime::MIN,
            answered: EventTime::MIN,
            hold: EventTime::MAX,
            output: EventTime::MIN,
        }
    }
}

impl CollectorState {
    /// Whether it has answered everything.
    pub(super) fn is_idle(&self) -> bool {
        self.asks.is_empty()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.output == EventTime::MAX
    }

    /// Whether it has elements, or may have: what has not been answered counts.
    pub(super) fn has_elements(&self) -> bool {
        !self.is_idle() || self.hold != EventTime::MAX
    }

    /// What it has buffered holds its output back.
    pub(super) fn holds_back(&self) -> bool {
        self.hold != EventTime::MAX
    }

    fn answer(&mut self, answer: Collected) {
        match self.asks.pop_front() {
            Some(Ask::Add(holds)) => holds.into_iter().for_each(|hold| self.unanswered.release(hold)),
            Some(Ask::Advance(watermark)) => self.answered = self.answered.max(watermark),
            None => {}
        }
        self.hold = answer.hold;
    }

    /// The watermark of what it gives out.
    pub(super) fn output(&mut self) -> EventTime {
        let reached = self.answered.min(self.hold).min(self.unanswered.earliest());
        self.output = self.output.max(reached);
        self.output
    }
}

impl<B: Clone> Engine<B> {
    pub(super) fn collect(&mut self, node: NodeId, blocks: Vec<Block<B>>) {
        let Some(collector) = self.collectors.get_mut(&node) else { return };
        let holds: Vec<_> = blocks.iter().map(|block| block.hold).collect();
        holds.iter().for_each(|hold| collector.unanswered.add(*hold));
        collector.asks.push_back(Ask::Add(holds));
        self.actions.push(EngineAction::Collect { node, blocks, now: self.clock.now() });
    }

    /// Tells a collector how far the watermark of its input is, if that is news.
    pub(super) fn advance_collector(&mut self, node: NodeId, watermark: EventTime) {
        if self.collectors.get(&node).is_some_and(|collector| collector.told < watermark) {
            self.tell(node, watermark);
        }
    }

    /// Tells a collector what time it is.
    pub(super) fn poke_collector(&mut self, node: NodeId) {
        if let Some(told) = self.collectors.get(&node).map(|collector| collector.told) {
            self.tell(node, told);
        }
    }

    fn tell(&mut self, node: NodeId, watermark: EventTime) {
        let Some(collector) = self.collectors.get_mut(&node) else { return };
        collector.told = watermark;
        collector.asks.push_back(Ask::Advance(watermark));
        self.actions.push(EngineAction::Advance { node, watermark, now: self.clock.now() });
    }

    /// A collector gives out elements, and if `done` has answered the oldest thing it was asked.
    pub(super) fn collected(&mut self, node: NodeId, blocks: Vec<Block<B>>, done: Option<Collected>) {
        // What comes without having been asked for changes nothing.
        if self.collectors.get(&node).is_none_or(CollectorState::is_idle) {
            return;
        }
        for output in self.plan.nodes[node.0].outputs() {
            self.deliver(output, blocks.clone());
        }
        let Some(done) = done else { return };
        if let Some(collector) = self.collectors.get_mut(&node) {
            collector.answer(done);
        }
        self.changed.insert(node);
        self.node_waits(node, done.wake);
    }

    /// Has a collector told the time at `until`; at once if that has passed.
    fn node_waits(&mut self, node: NodeId, until: Option<ProcessingTime>) {
        if until.is_some_and(|until| until <= self.clock.now()) {
            self.poke_collector(node);
        } else {
            self.clock.node_waits(node, until);
        }
    }
}
