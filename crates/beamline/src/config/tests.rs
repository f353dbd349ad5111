use super::*;

fn serve(line: &str) -> ServeConfig {
    let words = std::iter::once("beamline").chain(line.split_whitespace()).map(OsString::from);
    match Cli::try_parse_from(normalise(words)).unwrap().command {
        Command::Serve(config) => *config,
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_spellings_are_understood() {
    for line in [
        "serve --job-port 8073 --log-format json",
        "serve --job_port=8073 --log_kind=json",
        "-job_port 8073 -log_kind=json",
        "--job_port 8073 --log_kind json --serve_http=false",
    ] {
        let config = serve(line);
        assert_eq!((config.job_port, config.log_format), (8073, LogFormat::Json), "{line}");
        assert!(config.without_effect().is_empty(), "{line}");
    }
    assert_eq!(serve("--log_kind=dev").log_format, LogFormat::Text);
}

#[test]
fn flags_of_peers_are_told_to_have_no_effect() {
    let config = serve("serve --expansion-port 8097 --jm_override=x -serve_http --job-port 1");
    assert_eq!(config.without_effect(), ["--expansion-port", "--serve-http", "--jm-override"]);
    assert_eq!(config.job_port, 1);
}

#[test]
fn flink() {
    let config = serve("serve --flink_master=flink:8081 --flink-runner-jar a.jar --flink-runner-jar b.jar");
    assert_eq!((config.backend, config.flink_master()), (Backend::Native, Some("flink:8081")));
    assert_eq!(config.flink_runner_jar, [PathBuf::from("a.jar"), PathBuf::from("b.jar")]);
    assert!(config.without_effect().is_empty());
    assert_eq!(serve("serve --backend flink --flink-runner-jar a.jar").backend, Backend::Flink);
    assert!(config.has_flink() && serve("serve --flink-master flink:8081").has_flink());
    assert_eq!(config.maven_repository().as_deref(), Some(MAVEN_CENTRAL));
    assert_eq!(serve("serve --maven_repository=").maven_repository(), None);
    assert_eq!(
        serve("--artifacts-dir /a --flink-master f:1").journal_dir(),
        Some(PathBuf::from("/a/beamline-jobs"))
    );
    assert_eq!(serve("--artifacts-dir /a").journal_dir(), None);
    assert_eq!(serve("--flink-master f:1").journal_dir(), None);
    assert_eq!(serve("serve --flink-jar-dir /j").flink_jar_dir(), PathBuf::from("/j"));
    assert!(serve("serve").flink_jar_dir().ends_with("beamline"));
    let local = serve("--flink-master=[local]");
    assert!(local.without_effect() == ["--flink-master"] && !local.has_flink());
    assert_eq!(serve("--flink-master [auto]").flink_master(), None);
}

#[test]
fn access_to_flink() {
    let line = "--flink_master=https://gateway/flink --flink-ca-file ca.pem --flink_client_certificate c.pem --flink-client-key k.pem \
                --flink-authorization-file token";
    let access = serve(line).flink_access.access();
    let identity = access.client_identity.unwrap();
    assert_eq!((identity.certificate, identity.key), (PathBuf::from("c.pem"), PathBuf::from("k.pem")));
    assert_eq!(access.ca_file, Some(PathBuf::from("ca.pem")));
    assert_eq!(access.authorization_file, Some(PathBuf::from("token")));
    assert!(serve("--flink-authorization-file token").has_flink());
    for half in ["--flink-client-certificate=c.pem", "--flink-client-key=k.pem"] {
        let words = ["beamline", "serve", half].into_iter().map(OsString::from);
        let told = Cli::try_parse_from(normalise(words)).unwrap_err().to_string();
        assert!(told.contains("--flink-client-certificate") && told.contains("--flink-client-key"), "{told}");
    }
}

#[test]
fn submit() {
    let words = "beamline submit --detached --backend=flink --flink_master f:1 -- python x.py --my_option -x";
    let cli = Cli::try_parse_from(normalise(words.split_whitespace().map(OsString::from))).unwrap();
    let Command::Submit(config) = cli.command else { panic!("{cli:?}") };
    assert_eq!(config.command, ["python", "x.py", "--my_option", "-x"]);
    assert!(config.detached && config.server().backend == Backend::Flink);
    assert_eq!((config.server().job_port, config.server().second_port()), (0, None));
    assert!(Cli::try_parse_from(["beamline", "submit", "--detached"]).is_err());
}

#[test]
fn environment_overrides() {
    let config =
        serve("serve --environment_override=a/b_c.*=EXTERNAL:pool:1 --environment-override x=DOCKER:y");
    assert_eq!(config.environment_override.len(), 2);
    let words = ["beamline", "serve", "--environment-override", "x=y"].map(OsString::from);
    let error = Cli::try_parse_from(words).unwrap_err().to_string();
    assert!(error.contains("\"x=y\" is no environment override"), "{error}");
}

#[test]
fn the_http_port() {
    assert_eq!(serve("serve").http_port(), None);
    assert_eq!(serve("serve --http-port 0").http_port(), Some(0));
    let prism = serve("--web_port=8074 -serve_http");
    assert_eq!((prism.http_port(), prism.without_effect()), (Some(8074), Vec::new()));
    assert_eq!(serve("--web_port=8074 --serve_http=false").http_port(), None);
}

#[test]
fn the_artifact_port() {
    assert_eq!(serve("serve").second_port(), Some(8098));
    assert_eq!(serve("serve --job-port 0").second_port(), None);
    assert_eq!(serve("serve --job-port 8073").second_port(), None);
    assert_eq!(serve("serve --job-port 0 --artifact-port 0").second_port(), Some(0));
    assert_eq!(serve("serve --job-port 7 --artifact-port 7").second_port(), None);
    assert_eq!(serve("serve --artifact-port 7").second_port(), Some(7));
}

#[test]
fn values_stay_as_they_are() {
    let config =
        serve("serve --artifacts_dir=/tmp/a_b --ready-file /tmp/c_d --clean_artifacts_per_job=false");
    assert_eq!(config.artifacts_dir(), PathBuf::from("/tmp/a_b"));
    assert_eq!(config.ready_file, Some(PathBuf::from("/tmp/c_d")));
    assert!(!config.clean_artifacts_per_job);
    assert!(serve("serve --clean-artifacts-per-job").clean_artifacts_per_job);
    assert_eq!(serve("serve --sdk-worker-parallelism 3").sdk_worker_parallelism(), 3);
    assert!(serve("serve --sdk-worker-parallelism -1").sdk_worker_parallelism() >= 1);
}

#[test]
fn memory() {
    let config = serve("serve --memory_limit=64MiB --spill-dir /tmp/s_t");
    assert_eq!((config.memory_limit(), config.spill_dir()), (64 << 20, PathBuf::from("/tmp/s_t")));
    assert_eq!(serve("serve").memory_limit(), crate::memory::half_of_all());
    assert_eq!(serve("serve").spill_dir(), std::env::temp_dir());
}

#[test]
fn containers() {
    let containers = |line| serve(line).docker.containers();
    let line = "serve --docker-run-option=--volume=/a:/a --docker_run_option --init --docker-pull never";
    let told = containers(line);
    assert_eq!(told.run_options, ["--volume=/a:/a", "--init"]);
    assert_eq!((told.pull, told.command.as_str()), (Pull::Never, "docker"));
    assert_eq!(containers("serve").pull, Pull::Missing);
}

#[test]
fn standby_workers() {
    let timeout = |line| serve(line).standby_worker_timeout;
    assert_eq!(timeout("serve"), Duration::from_secs(60));
    assert_eq!(timeout("serve --standby_worker_timeout=2m"), Duration::from_secs(120));
    assert_eq!(timeout("serve --standby-worker-timeout 0"), Duration::ZERO);
    assert!(parse_time("-1s").is_err());
}

#[test]
fn timeouts() {
    let after = |seconds| Ok(IdleTimeout::After(Duration::from_secs_f64(seconds)));
    assert_eq!(parse_timeout("90s"), after(90.0));
    assert_eq!(parse_timeout("1h30m"), after(5400.0));
    assert_eq!(parse_timeout("250ms"), after(0.25));
    assert_eq!(parse_timeout("7"), after(7.0));
    assert_eq!(parse_timeout("-1ns"), Ok(IdleTimeout::Never));
    for bad in ["", "s", "5x", "1..2s"] {
        assert!(parse_timeout(bad).is_err(), "{bad}");
    }
    assert_eq!(serve("-idle_shutdown_timeout -1ns").idle_shutdown_timeout(), None);
    assert_eq!(serve("--idle_shutdown_timeout=2s").idle_shutdown_timeout(), Some(Duration::from_secs(2)));
}
