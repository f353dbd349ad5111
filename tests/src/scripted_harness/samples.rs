//! Elements that functions have failed at.

use std::collections::BTreeMap;
use std::sync::Mutex;

use beam_model::fn_execution::sample_data_response::ElementList;
use beam_model::fn_execution::{SampleDataResponse, SampledElement, sampled_element};

use super::element::Element;

/// What one worker keeps, until it is asked for it.
#[derive(Default)]
pub(super) struct Samples(Mutex<Vec<(String, SampledElement)>>);

impl Samples {
    /// A bundle has failed at an element of a PCollection. What was first with it counts.
    pub(super) fn add(&self, instruction: &str, pcollection: &str, element: &Element, error: &str) {
        let mut samples = self.0.lock().unwrap();
        if samples.iter().any(|(_, sample)| of(sample) == instruction) {
            return;
        }
        let exception = sampled_element::Exception {
            instruction_id: instruction.to_owned(),
            transform_id: "user".to_owned(),
            error: error.to_owned(),
        };
        let sample = SampledElement {
            element: element.value.clone(),
            sample_timestamp: None,
            exception: Some(exception),
        };
        samples.push((pcollection.to_owned(), sample));
    }

    /// Those of these PCollections, which are not kept any longer.
    pub(super) fn take(&self, pcollections: &[String]) -> SampleDataResponse {
        let mut samples = self.0.lock().unwrap();
        let mut element_samples = BTreeMap::<String, ElementList>::new();
        for (pcollection, sample) in samples.extract_if(.., |(id, _)| pcollections.contains(id)) {
            element_samples.entry(pcollection).or_default().elements.push(sample);
        }
        SampleDataResponse { element_samples }
    }
}

fn of(sample: &SampledElement) -> &str {
    sample.exception.as_ref().map_or("", |exception| &exception.instruction_id)
}
