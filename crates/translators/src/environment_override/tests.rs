use beam_model::pipeline::Components;

use super::*;

fn rules(given: &[&str]) -> EnvironmentOverrides {
    EnvironmentOverrides::new(given.iter().map(|rule| rule.parse().unwrap()).collect())
}

fn container(image: &str) -> Environment {
    Environment {
        urn: environments::DOCKER.to_owned(),
        payload: DockerPayload { container_image: image.to_owned() }.encode_to_vec().into(),
        capabilities: vec!["kept".to_owned()],
        ..Environment::default()
    }
}

/// What becomes of one environment.
fn rewritten(rules: &EnvironmentOverrides, environment: Environment) -> Environment {
    let components =
        Components { environments: BTreeMap::from([("e".to_owned(), environment)]), ..Components::default() };
    let mut pipeline = Pipeline { components: Some(components), ..Pipeline::default() };
    rules.apply(&mut pipeline);
    pipeline.components.unwrap().environments.remove("e").unwrap()
}

fn image(environment: &Environment) -> String {
    assert_eq!(environment.urn, environments::DOCKER);
    DockerPayload::decode(environment.payload.clone()).unwrap().container_image
}

#[test]
fn containers_become_what_the_rule_says() {
    let pool = rewritten(
        &rules(&["apache/beam_python.*=EXTERNAL:localhost:50000"]),
        container("apache/beam_python3.11_sdk:2.77.0"),
    );
    assert_eq!(
        (pool.urn.as_str(), &pool.capabilities[..]),
        (environments::EXTERNAL, &["kept".to_owned()][..])
    );
    let payload = ExternalPayload::decode(pool.payload).unwrap();
    assert_eq!(payload.endpoint.unwrap().url, "localhost:50000");

    let pool =
        rewritten(&rules(&[r#".*=EXTERNAL:{"url": "[::1]:5", "params": {"a": "b"}}"#]), container("x"));
    let payload = ExternalPayload::decode(pool.payload).unwrap();
    assert_eq!((payload.endpoint.unwrap().url.as_str(), payload.params["a"].as_str()), ("[::1]:5", "b"));

    let process = rewritten(&rules(&["x=PROCESS:/opt/apache/beam/boot"]), container("x"));
    assert_eq!(process.urn, environments::PROCESS);
    assert_eq!(ProcessPayload::decode(process.payload).unwrap().command, "/opt/apache/beam/boot");

    let process =
        rewritten(&rules(&[r#"x=PROCESS:{"command": "boot", "env": {"A": "=1"}}"#]), container("x"));
    let payload = ProcessPayload::decode(process.payload).unwrap();
    assert_eq!((payload.command.as_str(), payload.env["A"].as_str()), ("boot", "=1"));
}

#[test]
fn a_mirror_keeps_parts_of_the_image() {
    let rules = rules(&["apache/(beam_.*)=DOCKER:mirror.local:5000/$1"]);
    let mirrored = rewritten(&rules, container("apache/beam_java17_sdk:2.77.0"));
    assert_eq!(image(&mirrored), "mirror.local:5000/beam_java17_sdk:2.77.0");
}

#[test]
fn the_first_rule_that_matches_the_whole_image_counts() {
    let rules = rules(&["python=DOCKER:part", "a=1|my/python:1=DOCKER:first", "my/.*=DOCKER:second"]);
    for (given, expected) in
        [("my/python:1", "first"), ("a=1", "first"), ("my/java", "second"), ("their/python", "their/python")]
    {
        assert_eq!(image(&rewritten(&rules, container(given))), expected, "{given}");
    }
}

#[test]
fn other_environments_stay_and_choices_are_looked_into() {
    let rules = rules(&["x=EXTERNAL:pool:1"]);
    let external = Environment { urn: environments::EXTERNAL.to_owned(), ..container("x") };
    assert_eq!(rewritten(&rules, external.clone()), external);
    let broken = Environment { payload: b"\xff".to_vec().into(), ..container("x") };
    assert_eq!(rewritten(&rules, broken.clone()), broken);

    let choice =
        AnyOfEnvironmentPayload { environments: vec![container("y"), container("x"), container("x")] };
    let any_of = Environment {
        urn: environments::ANYOF.to_owned(),
        payload: choice.encode_to_vec().into(),
        ..Environment::default()
    };
    let chosen = AnyOfEnvironmentPayload::decode(rewritten(&rules, any_of).payload).unwrap().environments;
    let urns: Vec<_> = chosen.iter().map(|environment| environment.urn.as_str()).collect();
    assert_eq!(urns, [environments::DOCKER, environments::EXTERNAL, environments::EXTERNAL]);
}

#[test]
fn what_is_no_rule_is_told() {
    for (text, words) in [
        ("", "REGEX=EXTERNAL:HOST:PORT"),
        ("apache/.*", "REGEX=EXTERNAL:HOST:PORT"),
        ("=DOCKER:x", "REGEX=EXTERNAL:HOST:PORT"),
        ("x=docker:y", "REGEX=EXTERNAL:HOST:PORT"),
        ("(=DOCKER:x", "is no regular expression"),
        ("x=DOCKER: ", "nothing comes after"),
        ("x=EXTERNAL:localhost", "is no HOST:PORT"),
        ("x=EXTERNAL::5", "is no HOST:PORT"),
        ("x=EXTERNAL:{\"params\": {}}", "url"),
        ("x=PROCESS:{\"command\": 1}", "invalid type"),
        ("x=PROCESS:{\"command\": \"a\", \"enf\": {}}", "enf"),
    ] {
        let error = text.parse::<EnvironmentOverride>().unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}
