//! `--environment-override`: environments of pipelines that run somewhere else than their author has said.
//!
//! A pipeline mostly asks for containers, by image (`beam:env:docker:v1`). Where there is a worker pool beside each
//! TaskManager, a mirror of the images, or no container runtime at all, the operator says what is to be used for them.

use std::collections::BTreeMap;
use std::str::FromStr;

use beam_model::pipeline::{
    AnyOfEnvironmentPayload, ApiServiceDescriptor, DockerPayload, Environment, ExternalPayload, Pipeline,
    ProcessPayload,
};
use beam_model::urns::standard_environments::environments;
use prost::Message;
use regex::Regex;
use serde::Deserialize;

/// How deep `beam:env:anyof:v1` may nest.
const MAX_NESTING: usize = 8;

/// One rule: containers whose whole image matches are replaced.
#[derive(Clone, Debug)]
pub struct EnvironmentOverride {
    image: Regex,
    replacement: Replacement,
}

#[derive(Clone, Debug)]
enum Replacement {
    /// Another image, in which `$1` and `${name}` are what groups of the expression have matched.
    Docker(String),
    External(ExternalPayload),
    Process(ProcessPayload),
}

/// As [`FromStr`] reads them, in the words of `--environment_type`.
const KINDS: [&str; 3] = ["DOCKER", "EXTERNAL", "PROCESS"];

/// What makes a text no rule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EnvironmentOverrideError {
    #[error(
        "{0:?} is no environment override: write REGEX=EXTERNAL:HOST:PORT, REGEX=DOCKER:IMAGE or REGEX=PROCESS:COMMAND, where \
         REGEX matches whole container images, e.g. 'apache/beam_python.*=EXTERNAL:localhost:50000'"
    )]
    Form(String),
    #[error("{expression:?} is no regular expression for container images: {reason}")]
    Expression { expression: String, reason: String },
    #[error("{kind} of an environment override does not say where: {reason}")]
    Config { kind: &'static str, reason: String },
}

/// `--environment_config` of an EXTERNAL environment as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExternalConfig {
    url: String,
    #[serde(default)]
    params: BTreeMap<String, String>,
}

/// `--environment_config` of a PROCESS environment as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessConfig {
    command: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    arch: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

impl FromStr for EnvironmentOverride {
    type Err = EnvironmentOverrideError;

    /// Reads `REGEX=KIND:CONFIG`. The expression may have equals signs of its own: it ends at the first one with a
    /// kind and a colon after it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || EnvironmentOverrideError::Form(text.to_owned());
        let split = text.match_indices('=').find_map(|(at, _)| {
            let (expression, rest) = (text.get(..at)?, text.get(at + 1..)?);
            let (kind, config) = rest.split_once(':')?;
            Some((expression, *KINDS.iter().find(|known| **known == kind)?, config))
        });
        let (expression, kind, config) = split.ok_or_else(form)?;
        if expression.is_empty() {
            return Err(form());
        }
        let image = Regex::new(&format!("^(?:{expression})$")).map_err(|error| {
            EnvironmentOverrideError::Expression {
                expression: expression.to_owned(),
                reason: error.to_string(),
            }
        })?;
        let replacement = Replacement::read(kind, config.trim())
            .map_err(|reason| EnvironmentOverrideError::Config { kind, reason })?;
        Ok(Self { image, replacement })
    }
}

impl Replacement {
    fn read(kind: &str, config: &str) -> Result<Self, String> {
        if config.is_empty() {
            return Err("nothing comes after its colon".to_owned());
        }
        let is_json = config.starts_with('{');
        let bad = |error: serde_json::Error| error.to_string();
        match kind {
            "DOCKER" => Ok(Self::Docker(config.to_owned())),
            "PROCESS" => {
                let config = match is_json {
                    true => serde_json::from_str(config).map_err(bad)?,
                    false => ProcessConfig {
                        command: config.to_owned(),
                        os: String::new(),
                        arch: String::new(),
                        env: BTreeMap::new(),
                    },
                };
                let ProcessConfig { command, os, arch, env } = config;
                Ok(Self::Process(ProcessPayload { command, os, arch, env }))
            }
            _ => {
                let ExternalConfig { url, params } = match is_json {
                    true => serde_json::from_str(config).map_err(bad)?,
                    false => ExternalConfig { url: config.to_owned(), params: BTreeMap::new() },
                };
                let port = url.rsplit_once(':').filter(|(host, _)| !host.is_empty());
                if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none() {
                    return Err(format!("{url:?} is no HOST:PORT of a worker pool"));
                }
                let endpoint = Some(ApiServiceDescriptor { url, authentication: None });
                Ok(Self::External(ExternalPayload { endpoint, params }))
            }
        }
    }

    /// The URN and the payload of the environment that takes the place of `image`.
    fn apply(&self, expression: &Regex, image: &str) -> (&'static str, Vec<u8>) {
        match self {
            Self::External(payload) => (environments::EXTERNAL, payload.encode_to_vec()),
            Self::Process(payload) => (environments::PROCESS, payload.encode_to_vec()),
            Self::Docker(template) => {
                let container_image = expression.replace(image, template.as_str()).into_owned();
                (environments::DOCKER, DockerPayload { container_image }.encode_to_vec())
            }
        }
    }
}

/// All rules of a server. Of those that match an image the first counts.
#[derive(Clone, Debug, Default)]
pub struct EnvironmentOverrides {
    rules: Vec<EnvironmentOverride>,
}

impl EnvironmentOverrides {
    pub fn new(rules: Vec<EnvironmentOverride>) -> Self {
        Self { rules }
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Replaces the containers of the pipeline. Artifacts, capabilities and resource hints of the environments stay:
    /// it is the same SDK, somewhere else.
    pub fn apply(&self, pipeline: &mut Pipeline) {
        let Some(components) = &mut pipeline.components else { return };
        for environment in components.environments.values_mut() {
            self.rewrite(environment, MAX_NESTING);
        }
    }

    /// Whether anything was replaced. What cannot be read is left to whoever refuses it.
    fn rewrite(&self, environment: &mut Environment, nesting: usize) -> bool {
        match environment.urn.as_str() {
            environments::DOCKER => self.rewrite_container(environment),
            environments::ANYOF if nesting > 0 => {
                let Ok(mut choice) = AnyOfEnvironmentPayload::decode(environment.payload.clone()) else {
                    return false;
                };
                let mut rewritten = false;
                for one in &mut choice.environments {
                    rewritten |= self.rewrite(one, nesting - 1);
                }
                if rewritten {
                    environment.payload = choice.encode_to_vec().into();
                }
                rewritten
            }
            _ => false,
        }
    }

    fn rewrite_container(&self, environment: &mut Environment) -> bool {
        let Ok(DockerPayload { container_image }) = DockerPayload::decode(environment.payload.clone()) else {
            return false;
        };
        let Some(rule) = self.rules.iter().find(|rule| rule.image.is_match(&container_image)) else {
            return false;
        };
        let (urn, payload) = rule.replacement.apply(&rule.image, &container_image);
        tracing::debug!(image = container_image, urn, "environment overridden");
        environment.urn = urn.to_owned();
        environment.payload = payload.into();
        true
    }
}

#[cfg(test)]
mod tests;
