use proptest::prelude::*;
use sandpen_types::spec::SandboxName;

use super::*;

/// A configuration with this in its `config`.
fn image(config: &str) -> ImageConfig {
    let platform = Platform::host();
    let text = format!(
        r#"{{"os":"linux","architecture":"{}","config":{config},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#,
        platform.architecture()
    );
    ImageConfig::parse(text.as_bytes()).unwrap()
}

fn request() -> (SandboxSpec, ImageRoot) {
    let root = ImageRoot::new("app".parse().unwrap());
    (SandboxSpec::new(SandboxName::new("a").unwrap(), Rootfs::Image(root.clone()), Vec::new()), root)
}

fn digest() -> ImageDigest {
    ImageDigest::new([7; 32])
}

fn resolved(config: &str, edit: impl FnOnce(&mut SandboxSpec, &mut ImageRoot)) -> Result<Resolved, ResolveError> {
    let (mut spec, mut root) = request();
    edit(&mut spec, &mut root);
    spec.rootfs = Rootfs::Image(root);
    resolve(spec, &digest(), &image(config))
}

fn texts(command: &[ByteString]) -> Vec<String> {
    command.iter().map(|part| String::from_utf8_lossy(part.as_bytes()).into_owned()).collect()
}

fn words(texts: &[&str]) -> Vec<ByteString> {
    texts.iter().map(ByteString::from).collect()
}

#[test]
fn what_runs_is_put_together_as_container_engines_do() {
    let both = r#"{"Entrypoint":["e","1"],"Cmd":["c"]}"#;
    let cmd = r#"{"Cmd":["c","2"]}"#;
    for (config, entrypoint, command, wanted) in [
        (both, None, &[][..], &["e", "1", "c"][..]),
        (both, None, &["x"], &["e", "1", "x"]),
        (both, Some(&["n"][..]), &[], &["n"]),
        (both, Some(&["n", "m"]), &["x"], &["n", "m", "x"]),
        (both, Some(&[""]), &["x"], &["x"]),
        (both, Some(&[]), &["x"], &["x"]),
        (cmd, None, &[], &["c", "2"]),
        (cmd, None, &["x", "y"], &["x", "y"]),
        (r#"{"Entrypoint":["e"]}"#, None, &[], &["e"]),
    ] {
        let done = resolved(config, |spec, root| {
            root.entrypoint = entrypoint.map(words);
            spec.command = words(command);
        });
        assert_eq!(texts(&done.unwrap().spec.command), wanted, "{config} {entrypoint:?} {command:?}");
    }
    for (config, entrypoint) in [("{}", None), (both, Some(&[""][..])), (cmd, Some(&[][..]))] {
        let error = resolved(config, |_, root| root.entrypoint = entrypoint.map(words)).unwrap_err();
        assert!(matches!(error, ResolveError::NothingToRun { .. }), "{error}");
        assert!(error.to_string().contains("sandpen run app:latest -- /bin/sh"), "{error}");
    }
    let error = resolved(r#"{"Cmd":[""]}"#, |_, _| {}).unwrap_err().to_string();
    assert!(error.starts_with("config.Cmd of image app:latest cannot be taken: "), "{error}");
}

#[test]
fn the_request_wins_over_the_image() {
    let config = r#"{"Cmd":["c"],"Env":["A=1","B=2"],"WorkingDir":"srv","User":"1000:www","StopSignal":"SIGINT",
        "Labels":{"a":"1","b":"2","no label":"x","c=d":"x"},"Healthcheck":{"Test":["CMD","true"]}}"#;
    let Resolved { spec, left_out } = resolved(config, |_, _| {}).unwrap();
    assert_eq!(spec.workdir, Some("/srv".into()));
    assert_eq!((spec.user.unwrap().to_string(), spec.stop_signal.unwrap().number()), ("1000:www".to_owned(), 2));
    assert_eq!(spec.env, [("A".into(), "1".into()), ("B".into(), "2".into())]);
    assert_eq!((spec.labels.len(), left_out.len()), (2, 2), "{left_out:?}");
    assert_eq!(spec.health.as_ref().unwrap().on_failure, HealthFailure::None);
    let Rootfs::Image(root) = &spec.rootfs else { panic!() };
    assert_eq!(root.digest, Some(digest()));
    let own = HealthCheck::new(words(&["own"]));
    let Resolved { spec, .. } = resolved(config, |spec, _| {
        spec.env = vec![("B".into(), "own".into())];
        spec.workdir = Some("/own".into());
        spec.user = Some("own".parse().unwrap());
        spec.stop_signal = Some("TERM".parse().unwrap());
        spec.labels.insert("a".parse().unwrap(), "own".to_owned());
        spec.health = Some(own.clone());
    })
    .unwrap();
    assert_eq!(spec.env, [("A".into(), "1".into()), ("B".into(), "own".into())]);
    assert_eq!((spec.workdir, spec.user.unwrap().to_string()), (Some("/own".into()), "own".to_owned()));
    assert_eq!((spec.stop_signal.unwrap().number(), &spec.labels[&"a".parse().unwrap()]), (15, &"own".to_owned()));
    assert_eq!(spec.health, Some(own));
}

/// What was looked at is what every start of it runs.
#[test]
fn what_was_looked_at_is_not_looked_at_again() {
    let config = r#"{"Entrypoint":["e"],"Cmd":["c"],"Env":["A=1"]}"#;
    let Resolved { spec, .. } = resolved(config, |_, _| {}).unwrap();
    let again = resolve(spec.clone(), &ImageDigest::new([8; 32]), &image(r#"{"Cmd":["other"]}"#)).unwrap();
    assert_eq!(again.spec, spec);
    let native = SandboxSpec::new(SandboxName::new("a").unwrap(), Rootfs::Native("/".into()), words(&["x"]));
    assert_eq!(resolve(native.clone(), &digest(), &image(config)).unwrap().spec, native);
}

#[test]
fn an_idle_sandbox_has_all_of_an_image_but_its_command() {
    for config in [r#"{"Entrypoint":["e"],"Cmd":["c"],"User":"web","Env":["A=1"]}"#, r#"{"User":"web","Env":["A=1"]}"#]
    {
        let Resolved { spec, .. } = resolved(config, |spec, _| spec.idle = true).unwrap();
        assert_eq!((spec.command.len(), spec.env.len(), spec.user.is_some()), (0, 1, true), "{config}");
        let odd = resolved(config, |spec, root| {
            spec.idle = true;
            root.entrypoint = Some(words(&["x"]));
        });
        assert!(matches!(odd, Err(ResolveError::Together { source: SpecError::Idle { .. }, .. })), "{odd:?}");
    }
}

#[test]
fn health_checks_are_taken_without_consequences() {
    let check = |test: &str, more: &str| {
        let config = format!(r#"{{"Cmd":["c"],"Healthcheck":{{"Test":{test}{more}}}}}"#);
        resolved(&config, |_, _| {}).map(|done| done.spec.health)
    };
    let shell = check(r#"["CMD-SHELL","curl -f localhost || exit 1"]"#, r#","Interval":5000000000,"Retries":9"#);
    let shell = shell.unwrap().unwrap();
    assert_eq!(texts(&shell.command), ["/bin/sh", "-c", "curl -f localhost || exit 1"]);
    assert_eq!((shell.interval, shell.retries), (Duration::from_secs(5), 9));
    assert_eq!(check(r#"["NONE"]"#, "").unwrap(), None);
    for (test, more, field) in [
        (r#"["CMD","x"]"#, r#","Interval":1000"#, "Interval"),
        (r#"["CMD","x"]"#, r#","Timeout":900000000000000"#, "Timeout"),
        (r#"["CMD","x"]"#, r#","Retries":5000"#, "Retries"),
        (r#"["CMD",""]"#, "", "Test"),
    ] {
        let error = check(test, more).unwrap_err().to_string();
        assert!(error.starts_with(&format!("config.Healthcheck.{field} of image app:latest ")), "{error}");
        assert!(error.ends_with("; leave it out with --no-healthcheck"), "{error}");
    }
    let config = r#"{"Cmd":["c"],"Healthcheck":{"Test":["CMD","x"],"Retries":5000}}"#;
    assert_eq!(resolved(config, |_, root| root.no_healthcheck = true).unwrap().spec.health, None);
    let config = r#"{"Cmd":["c"],"Shell":["/bin/bash","-ec"],"Healthcheck":{"Test":["CMD-SHELL","x"]}}"#;
    let health = resolved(config, |_, _| {}).unwrap().spec.health.unwrap();
    assert_eq!(texts(&health.command), ["/bin/bash", "-ec", "x"]);
}

#[test]
fn exposed_ports_are_published_where_that_is_asked_for() {
    let config = r#"{"Cmd":["c"],"ExposedPorts":{"80/tcp":{},"443":{},"53/udp":{},"8000-8001/tcp":{}}}"#;
    let done = resolved(config, |_, _| {}).unwrap();
    assert_eq!((done.spec.ports.len(), done.spec.network), (0, Network::None));
    let Resolved { spec, left_out } = resolved(config, |spec, root| {
        root.publish_all = true;
        spec.network = Network::On;
        spec.ports = vec!["8080:80".parse().unwrap()];
    })
    .unwrap();
    let ports: Vec<_> = spec.ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["8080:80", "127.0.0.1:0:443", "127.0.0.1:0:8000", "127.0.0.1:0:8001"]);
    assert_eq!((spec.network, left_out), (Network::On, vec!["port 53/udp is not published: only TCP is".to_owned()]));
    let published = resolved(config, |_, root| root.publish_all = true).unwrap();
    assert_eq!(published.spec.network, Network::Published);
    assert_eq!(resolved(r#"{"Cmd":["c"]}"#, |_, root| root.publish_all = true).unwrap().spec.network, Network::None);
    for (ports, reason) in [("0/tcp", "no port"), ("99999", "no port"), ("x", "no port"), ("1-65535", "too many")] {
        let config = format!(r#"{{"Cmd":["c"],"ExposedPorts":{{"{ports}":{{}}}}}}"#);
        let error = resolved(&config, |_, root| root.publish_all = true).unwrap_err().to_string();
        assert!(error.contains("config.ExposedPorts") && error.contains(reason), "{error}");
        assert!(resolved(&config, |_, _| {}).is_ok());
    }
}

#[test]
fn what_cannot_be_taken_is_said_with_its_field() {
    for (config, field) in [
        (r#"{"Cmd":["c"],"StopSignal":"SIGNOPE"}"#, "config.StopSignal"),
        (r#"{"Cmd":["c"],"User":"a b"}"#, "config.User"),
    ] {
        let error = resolved(config, |_, _| {}).unwrap_err();
        assert!(matches!(&error, ResolveError::Field { field: found, .. } if found == field), "{error}");
    }
    let other = image("{}").container;
    let other =
        ImageConfig { platform: Platform::new("linux", "riscv64", None).unwrap(), container: other, ..image("{}") };
    let error = resolve(request().0, &digest(), &other).unwrap_err();
    assert!(matches!(error, ResolveError::Platform { .. }), "{error}");
    let error = resolved(&format!(r#"{{"Cmd":["{}"]}}"#, "x".repeat(2 << 20)), |_, _| {}).unwrap_err();
    assert!(matches!(error, ResolveError::Together { .. }), "{error}");
}

proptest! {
    /// Whatever an image says: what comes out passes the check, is looked at, and keeps what was asked for.
    #[test]
    fn what_comes_out_can_be_started(
        entrypoint in proptest::collection::vec("[a-z/ ]{0,4}", 0..3),
        cmd in proptest::collection::vec("[a-z/ ]{0,4}", 0..3),
        env in proptest::collection::vec("[A-Z]{0,2}=?[a-z]{0,2}", 0..4),
        user in "[a-z0-9: ]{0,6}",
        signal in "(SIG)?[A-Z0-9+]{0,6}",
        ports in proptest::collection::vec("[0-9]{0,5}(/(tcp|udp))?", 0..3),
        command in proptest::collection::vec("[a-z]{1,3}", 0..2),
        publish_all: bool,
    ) {
        let ports: serde_json::Map<_, _> = ports.into_iter().map(|port| (port, serde_json::json!({}))).collect();
        let config = serde_json::json!({
            "Entrypoint": entrypoint, "Cmd": cmd, "Env": env, "User": user, "StopSignal": signal, "ExposedPorts": ports,
        });
        let text = serde_json::json!({
            "os": "linux", "architecture": Platform::host().architecture(), "config": config,
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let Ok(image) = ImageConfig::parse(text.to_string().as_bytes()) else { return Ok(()) };
        let (mut spec, mut root) = request();
        root.publish_all = publish_all;
        spec.rootfs = Rootfs::Image(root);
        spec.command = command.iter().map(ByteString::from).collect();
        if let Ok(Resolved { spec, .. }) = resolve(spec, &digest(), &image) {
            prop_assert!(spec.check_values().is_ok() && !spec.rootfs.is_unresolved());
            let command = words(&command.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert!(spec.command.ends_with(&command));
        }
    }
}
