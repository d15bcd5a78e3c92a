use proptest::prelude::*;

use super::*;

/// A configuration as Docker writes them, with `config` in it.
fn docker(config: &str) -> String {
    let diff_id = format!("sha256:{}", "0a".repeat(32));
    format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2024-05-01T10:11:12.123456789Z","docker_version":"20.10",
        "container_config":{{"Cmd":null}},"config":{config},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}},
        "history":[{{"created":"2024-05-01T10:11:12Z","created_by":"/bin/sh -c #(nop) ADD file:1 in / "}},
        {{"created_by":"CMD [\"bash\"]","empty_layer":true}}]}}"#
    )
}

fn container(config: &str) -> ContainerConfig {
    ImageConfig::parse(docker(config).as_bytes()).unwrap().container
}

fn refused(text: &str) -> String {
    ImageConfig::parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn what_docker_writes_is_read() {
    let config = ImageConfig::parse(docker("null").as_bytes()).unwrap();
    assert_eq!(config.platform.to_string(), "linux/amd64");
    assert_eq!(config.created.unwrap().to_rfc3339(), "2024-05-01T10:11:12.123456789+00:00");
    assert_eq!((config.diff_ids.len(), config.history.len()), (1, 2));
    assert!(!config.history[0].empty_layer && config.history[1].empty_layer);
    assert_eq!(config.container, ContainerConfig::default());

    let nulls = r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"Env":null,"Cmd":null,"Image":"",
        "Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null,"ExposedPorts":null,"Shell":null,
        "Healthcheck":null,"StopSignal":null}"#;
    assert_eq!(container(nulls), ContainerConfig::default());

    let all = container(
        r#"{"Entrypoint":["/init","--"],"Cmd":"serve","Env":["PATH=/bin","A=1","B","E=","A=2=3"],"WorkingDir":"/srv",
        "User":"app:1000","StopSignal":"SIGQUIT","Labels":{"b":"2","a":null},"Volumes":{"/data":{},"/log":null},
        "ExposedPorts":{"80/tcp":{}},"OnBuild":["RUN x"],"Shell":["/bin/bash","-c"],
        "Healthcheck":{"Test":["CMD-SHELL","curl localhost"],"Interval":5000000000,"Timeout":0,"Retries":3}}"#,
    );
    let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    assert_eq!((all.entrypoint, all.cmd), (strings(&["/init", "--"]), strings(&["serve"])));
    let env: Vec<_> = all.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["PATH=/bin", "A=2=3", "E="]);
    assert_eq!((all.working_dir.unwrap(), all.user.unwrap()), ("/srv".to_owned(), "app:1000".to_owned()));
    assert_eq!(all.labels, [("a", ""), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    assert_eq!(all.volumes.into_iter().collect::<Vec<_>>(), ["/data", "/log"]);
    assert_eq!(all.exposed_ports.into_iter().collect::<Vec<_>>(), ["80/tcp"]);
    assert_eq!(all.shell, strings(&["/bin/bash", "-c"]));
    let expected = Healthcheck {
        test: HealthTest::Shell(strings(&["curl localhost"])),
        interval: Some(Duration::from_secs(5)),
        timeout: None,
        start_period: None,
        start_interval: None,
        retries: Some(3),
    };
    assert_eq!(all.healthcheck.unwrap(), expected);
}

#[test]
fn health_checks_are_of_three_kinds_or_none() {
    let test = |test: &str| container(&format!(r#"{{"Healthcheck":{{"Test":{test}}}}}"#)).healthcheck;
    assert_eq!(test("null"), None);
    assert_eq!(test("[]"), None);
    assert_eq!(test(r#"["NONE"]"#).unwrap().test, HealthTest::Disabled);
    assert_eq!(test(r#"["CMD","a","b"]"#).unwrap().test, HealthTest::Exec(vec!["a".to_owned(), "b".to_owned()]));
    for (check, expected) in [
        (r#"{"Test":["CMD"]}"#, "config.Healthcheck.Test names no command behind CMD"),
        (r#"{"Test":["\u001bx"]}"#, "config.Healthcheck.Test begins with \"\\u{1b}x\", and not with"),
        (r#"{"Test":["CMD","a"],"Interval":-1}"#, "config.Healthcheck.Interval is -1, less than no time"),
        (r#"{"Test":["CMD","a"],"Retries":-1}"#, "config.Healthcheck.Retries is -1"),
        (r#"{"Test":["CMD","a"],"Retries":"3"}"#, "config.Healthcheck.Retries is wrong: invalid type: string \"3\""),
    ] {
        let error = refused(&docker(&format!(r#"{{"Healthcheck":{check}}}"#)));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_image_without_layers_is_one() {
    for rootfs in [r#"{"type":"layers","diff_ids":null}"#, r#"{"type":"layers"}"#, r#"{"diff_ids":[]}"#] {
        let text = format!(r#"{{"architecture":"arm","os":"linux","variant":"v6","rootfs":{rootfs},"created":""}}"#);
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!((config.diff_ids.len(), config.platform.to_string().as_str()), (0, "linux/arm/v6"));
    }
}

#[test]
fn errors_name_the_field() {
    let diff_ids = vec![format!("\"sha256:{}\"", "0a".repeat(32)); 128].join(",");
    for (text, expected) in [
        ("<html>", "cannot be read: it is no JSON"),
        ("{}", "os is missing"),
        (r#"{"os":"linux"}"#, "architecture is missing"),
        (r#"{"os":"linux","architecture":"a/b"}"#, "are no platform: \"linux/a/b\""),
        (r#"{"os":"linux","architecture":"amd64"}"#, "rootfs is missing"),
        (r#"{"os":1}"#, "os is wrong: invalid type: integer `1`"),
        (r#"{"rootfs":{"diff_ids":["sha256:0a"]}}"#, "rootfs.diff_ids[0] is wrong: \"0a\" is no digest"),
        (&format!(r#"{{"rootfs":{{"diff_ids":[{diff_ids}]}}}}"#), "rootfs.diff_ids is wrong: a list of more than 127"),
        (r#"{"os":"linux","architecture":"amd64","rootfs":{"type":"x"}}"#, "rootfs.type is \"x\""),
        (&docker("[]").replace(":[]", ":3"), "config is wrong: invalid type: integer `3`"),
        (&docker(r#"{"Env":["a\u0000=b"]}"#), "config.Env[0] has a NUL"),
        (&docker(r#"{"Env":["=b"]}"#), "config.Env[0] has no name"),
        (&docker(r#"{"Env":["A=1",7]}"#), "config.Env[1] is wrong"),
        (&docker(r#"{"Cmd":["a","\u0000"]}"#), "config.Cmd[1] has a NUL"),
        (&docker(r#"{"Cmd":{}}"#), "config.Cmd is wrong: invalid type: map, expected a list of strings"),
        (&docker(r#"{"Cmd":["a",7]}"#), "config.Cmd[1] is wrong"),
        (&docker(r#"{"Labels":{"a\nb":"\u0000"}}"#), "config.Labels.a\\nb has a NUL"),
        (&docker(r#"{"Volumes":["/data"]}"#), "config.Volumes is wrong: invalid type: sequence, expected a map"),
        (&docker("null").replace("2024-05-01T10:11:12Z", "yesterday"), "history[0].created is \"yesterday\""),
    ] {
        let error = refused(text);
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(error.starts_with("the image's configuration "), "{error}");
    }
}

#[test]
fn what_is_long_is_refused() {
    let env = format!(r#"{{"Env":[{}]}}"#, vec![r#""""#; ITEMS_MAX + 1].join(","));
    assert!(refused(&docker(&env)).contains("config.Env is wrong: a list of more than 16384"));
    let error = ImageConfig::parse(&vec![b'{'; 100 << 20]).unwrap_err();
    assert_eq!(error, ConfigError::Json(JsonError::TooLarge { bytes: 100 << 20 }));
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let keys = proptest::sample::select(vec![
        "os",
        "architecture",
        "variant",
        "created",
        "rootfs",
        "type",
        "diff_ids",
        "history",
        "config",
        "Env",
        "Cmd",
        "Entrypoint",
        "Labels",
        "Volumes",
        "Healthcheck",
        "Test",
        "Interval",
        "Retries",
        "other",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        proptest::sample::select(vec!["linux", "amd64", "layers", "CMD", "A=b"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), json in any_json()) {
        let _ = ImageConfig::parse(&bytes);
        if let Err(error) = ImageConfig::parse(json.to_string().as_bytes()) {
            let error = error.to_string();
            prop_assert!(error.len() < 2000 && error.chars().all(sandpen_types::visible::is_visible), "{error:?}");
        }
        let container = docker(&json.to_string());
        let _ = ImageConfig::parse(container.as_bytes());
    }
}
