//! The configuration of an image that has one layer more than another one.
//!
//! What nobody changes is kept as it came, fields that are not known here too. The same base, layer and changes make the same
//! bytes, so the same digest: the time in it is the base's.

use sandpen_types::image::ImageDigest;
use sandpen_types::image_changes::ImageChanges;
use serde_json::{Map, Value, json};

use crate::config::{ConfigError, ImageConfig, LAYERS_MAX, refused};

/// What made the layer, in the image's history.
const CREATED_BY: &str = "sandpen commit";

/// Writes it.
///
/// # Errors
/// A base that is of no use, or has as many layers as an image can; changes that make it one of no use.
pub fn derive(base: &[u8], layer: &ImageDigest, changes: &ImageChanges) -> Result<Vec<u8>, ConfigError> {
    let parsed = ImageConfig::parse(base)?;
    if parsed.diff_ids.len() >= LAYERS_MAX {
        let reason =
            format!("has {LAYERS_MAX} layers already, and no more can be; export the root and import it as one");
        return Err(refused("rootfs.diff_ids", reason));
    }
    // It was read a moment ago.
    let text = |error: serde_json::Error| refused("the whole", error.to_string());
    let mut config: Map<String, Value> = serde_json::from_slice(base).map_err(text)?;
    let mut step = Map::from_iter([("created_by".to_owned(), json!(CREATED_BY))]);
    step.extend(config.get("created").map(|created| ("created".to_owned(), created.clone())));
    if let Some(author) = &changes.author {
        step.insert("author".to_owned(), json!(author));
        config.insert("author".to_owned(), json!(author));
    }
    step.extend(changes.message.iter().map(|message| ("comment".to_owned(), json!(message))));
    append(&mut config, "history", Value::Object(step));
    within(&mut config, "rootfs", |rootfs| append(rootfs, "diff_ids", json!(layer)));
    within(&mut config, "config", |container| change(container, &parsed, changes));
    let derived = serde_json::to_vec(&config).map_err(text)?;
    ImageConfig::parse(&derived)?;
    Ok(derived)
}

fn change(container: &mut Map<String, Value>, base: &ImageConfig, changes: &ImageChanges) {
    let ImageChanges { entrypoint, cmd, env, workdir, user, labels, exposed_ports, .. } = changes;
    for (key, list) in [("Entrypoint", entrypoint), ("Cmd", cmd)] {
        if let Some(list) = list {
            container.insert(key.to_owned(), if list.is_empty() { Value::Null } else { json!(list) });
        }
    }
    // Arguments of another program are of no use to this one.
    if entrypoint.is_some() && cmd.is_none() {
        container.insert("Cmd".to_owned(), Value::Null);
    }
    for (key, said) in [("WorkingDir", workdir), ("User", user)] {
        if let Some(said) = said {
            container.insert(key.to_owned(), json!(said));
        }
    }
    if !env.is_empty() {
        let mut all = base.container.env.clone();
        for (name, value) in env {
            match all.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => known.clone_from(value),
                None => all.push((name.clone(), value.clone())),
            }
        }
        let all: Vec<_> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
        container.insert("Env".to_owned(), json!(all));
    }
    let labels = labels.iter().map(|(name, value)| (name, json!(value)));
    insert_all(container, "Labels", labels);
    insert_all(container, "ExposedPorts", exposed_ports.iter().map(|port| (port, json!({}))));
}

fn insert_all<'a>(container: &mut Map<String, Value>, key: &str, entries: impl Iterator<Item = (&'a String, Value)>) {
    let mut entries = entries.peekable();
    if entries.peek().is_some() {
        within(container, key, |map| map.extend(entries.map(|(name, value)| (name.clone(), value))));
    }
}

/// Changes the object that is there, or an empty one in the place of nothing.
fn within(map: &mut Map<String, Value>, key: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut object = match map.remove(key) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    };
    change(&mut object);
    map.insert(key.to_owned(), Value::Object(object));
}

/// To the list that is there, or an empty one in the place of nothing.
fn append(map: &mut Map<String, Value>, key: &str, item: Value) {
    let mut list = match map.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    list.push(item);
    map.insert(key.to_owned(), Value::Array(list));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> ImageDigest {
        format!("sha256:{}", format!("{byte:02x}").repeat(32)).parse().unwrap()
    }

    fn base() -> Vec<u8> {
        json!({
            "architecture": "amd64", "os": "linux", "created": "2026-01-31T12:00:00Z", "x-own": [1],
            "rootfs": { "type": "layers", "diff_ids": [digest(1)] },
            "history": null,
            "config": { "Env": ["PATH=/bin", "A=1"], "Cmd": ["sh"], "Labels": null, "Healthcheck": { "Test": ["NONE"] } },
        })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn one_layer_more_and_all_else_as_it_was() {
        let derived = derive(&base(), &digest(2), &ImageChanges::default()).unwrap();
        assert_eq!(derived, derive(&base(), &digest(2), &ImageChanges::default()).unwrap(), "the same each time");
        let (before, after) = (ImageConfig::parse(&base()).unwrap(), ImageConfig::parse(&derived).unwrap());
        assert_eq!(after.diff_ids, [digest(1), digest(2)]);
        assert_eq!((after.container, after.created), (before.container, before.created));
        assert_eq!(after.history.len(), 1);
        assert_eq!(after.history[0].created_by.as_deref(), Some(CREATED_BY));
        let value: Value = serde_json::from_slice(&derived).unwrap();
        assert_eq!(value["x-own"], json!([1]));
    }

    #[test]
    fn what_is_said_is_changed() {
        let text = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let changes = ImageChanges {
            entrypoint: Some(text(&["/run"])),
            env: vec![("A".into(), "2".into()), ("B".into(), "x=y".into())],
            workdir: Some("/srv".into()),
            user: Some("web".into()),
            labels: [("team".to_owned(), "a b".to_owned())].into(),
            exposed_ports: text(&["80/tcp"]),
            author: Some("me".into()),
            message: Some("why".into()),
            cmd: None,
        };
        let derived = ImageConfig::parse(&derive(&base(), &digest(2), &changes).unwrap()).unwrap();
        let container = derived.container;
        assert_eq!((container.entrypoint, container.cmd), (text(&["/run"]), vec![]));
        let env = [("PATH", "/bin"), ("A", "2"), ("B", "x=y")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(container.env, env);
        assert_eq!((container.working_dir.as_deref(), container.user.as_deref()), (Some("/srv"), Some("web")));
        assert_eq!(container.labels["team"], "a b");
        assert!(container.exposed_ports.contains("80/tcp"));
        assert_eq!((derived.author.as_deref(), derived.history[0].comment.as_deref()), (Some("me"), Some("why")));
        let none = ImageChanges { cmd: Some(vec![]), ..ImageChanges::default() };
        assert_eq!(ImageConfig::parse(&derive(&base(), &digest(2), &none).unwrap()).unwrap().container.cmd, text(&[]));
    }

    #[test]
    fn there_is_an_end_to_layers() {
        let mut config: Value = serde_json::from_slice(&base()).unwrap();
        config["rootfs"]["diff_ids"] = json!(vec![digest(1); LAYERS_MAX]);
        let refused = derive(config.to_string().as_bytes(), &digest(2), &ImageChanges::default());
        assert!(refused.unwrap_err().to_string().contains("no more can be"));
        assert!(derive(b"{}", &digest(2), &ImageChanges::default()).is_err());
    }
}
