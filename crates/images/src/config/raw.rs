//! A configuration as its text has it, and the checks that make it one of ours.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sandpen_types::image::ImageDigest;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

use super::{
    ConfigError, ContainerConfig, HISTORY_MAX, HealthTest, Healthcheck, HistoryEntry, ITEMS_MAX, ImageConfig,
    LAYERS_MAX, refused,
};
use crate::json::{List, Map, shown};
use crate::platform::Platform;

type Strings = List<String, ITEMS_MAX>;
type Set = Map<IgnoredAny, ITEMS_MAX>;

#[derive(Debug, Deserialize)]
pub(super) struct RawConfig {
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    created: Option<String>,
    author: Option<String>,
    rootfs: Option<RawRootFs>,
    history: Option<List<RawHistoryEntry, HISTORY_MAX>>,
    config: Option<RawContainer>,
}

#[derive(Debug, Deserialize)]
struct RawRootFs {
    r#type: Option<String>,
    diff_ids: Option<List<ImageDigest, LAYERS_MAX>>,
}

#[derive(Debug, Deserialize)]
struct RawHistoryEntry {
    created: Option<String>,
    created_by: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    empty_layer: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawContainer {
    entrypoint: Option<Command>,
    cmd: Option<Command>,
    env: Option<Strings>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    labels: Option<Map<Option<String>, ITEMS_MAX>>,
    volumes: Option<Set>,
    exposed_ports: Option<Set>,
    healthcheck: Option<RawHealthcheck>,
    shell: Option<Command>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawHealthcheck {
    test: Option<Strings>,
    interval: Option<i64>,
    timeout: Option<i64>,
    start_period: Option<i64>,
    start_interval: Option<i64>,
    retries: Option<i64>,
}

/// A list, or a string that is its only item, as Docker's `StrSlice` takes both.
#[derive(Debug)]
struct Command(Vec<String>);

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = Command;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of strings")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Command, E> {
                Ok(Command(vec![text.to_owned()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, items: A) -> Result<Command, A::Error> {
                let items = serde::de::value::SeqAccessDeserializer::new(items);
                Strings::deserialize(items).map(|List(items)| Command(items))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl RawConfig {
    pub(super) fn checked(self) -> Result<ImageConfig, ConfigError> {
        let needed = |field, value: Option<String>| value.ok_or_else(|| refused(field, "is missing"));
        let (os, architecture) = (needed("os", self.os)?, needed("architecture", self.architecture)?);
        let platform = Platform::new(&os, &architecture, self.variant.as_deref())
            .map_err(|error| refused("os, architecture and variant", format!("are no platform: {error}")))?;
        let Some(rootfs) = self.rootfs else {
            return Err(refused("rootfs", "is missing, so nobody knows its layers; images of before 2016 have none"));
        };
        if let Some(other) = rootfs.r#type.filter(|of| of != "layers") {
            return Err(refused("rootfs.type", format!("is \"{}\", and only layers are known", shown(&other))));
        }
        let history = self.history.map_or_else(Vec::new, |List(entries)| entries).into_iter().enumerate();
        Ok(ImageConfig {
            platform,
            created: time("created", self.created)?,
            author: text("author", self.author)?,
            diff_ids: rootfs.diff_ids.map_or_else(Vec::new, |List(ids)| ids),
            history: history.map(|(at, entry)| entry.checked(at)).collect::<Result<_, _>>()?,
            container: self.config.unwrap_or_default().checked()?,
        })
    }
}

impl RawHistoryEntry {
    fn checked(self, at: usize) -> Result<HistoryEntry, ConfigError> {
        Ok(HistoryEntry {
            created: time(&format!("history[{at}].created"), self.created)?,
            created_by: self.created_by,
            author: self.author,
            comment: self.comment,
            empty_layer: self.empty_layer.unwrap_or_default(),
        })
    }
}

impl RawContainer {
    fn checked(self) -> Result<ContainerConfig, ConfigError> {
        let command = |field, command: Option<Command>| texts(field, command.map_or_else(Vec::new, |Command(c)| c));
        let set = |field: &str, set: Option<Set>| {
            let keys = set.into_iter().flat_map(|Map(keys)| keys.into_keys());
            keys.map(|key| whole(&format!("{field}.{key}"), key)).collect::<Result<_, _>>()
        };
        let labels = self.labels.map_or_else(BTreeMap::new, |Map(labels)| labels);
        let label = |(key, value): (String, Option<String>)| {
            let field = format!("config.Labels.{key}");
            Ok((whole(&field, key)?, whole(&field, value.unwrap_or_default())?))
        };
        Ok(ContainerConfig {
            entrypoint: command("config.Entrypoint", self.entrypoint)?,
            cmd: command("config.Cmd", self.cmd)?,
            env: environment(self.env.map_or_else(Vec::new, |List(env)| env))?,
            working_dir: text("config.WorkingDir", self.working_dir)?,
            user: text("config.User", self.user)?,
            stop_signal: text("config.StopSignal", self.stop_signal)?,
            labels: labels.into_iter().map(label).collect::<Result<_, ConfigError>>()?,
            volumes: set("config.Volumes", self.volumes)?,
            exposed_ports: set("config.ExposedPorts", self.exposed_ports)?,
            healthcheck: self.healthcheck.map_or(Ok(None), RawHealthcheck::checked)?,
            shell: command("config.Shell", self.shell)?,
        })
    }
}

impl RawHealthcheck {
    /// `None` where no test is named: it would be that of an image below.
    fn checked(self) -> Result<Option<Healthcheck>, ConfigError> {
        const TEST: &str = "config.Healthcheck.Test";
        let test = texts(TEST, self.test.map_or_else(Vec::new, |List(test)| test))?;
        let Some((kind, arguments)) = test.split_first() else { return Ok(None) };
        let test = match kind.as_str() {
            "NONE" => HealthTest::Disabled,
            "CMD" | "CMD-SHELL" if arguments.is_empty() => {
                return Err(refused(TEST, format!("names no command behind {kind}")));
            }
            "CMD" => HealthTest::Exec(arguments.to_vec()),
            "CMD-SHELL" => HealthTest::Shell(arguments.to_vec()),
            other => {
                let reason = format!("begins with \"{}\", and not with NONE, CMD or CMD-SHELL", shown(other));
                return Err(refused(TEST, reason));
            }
        };
        Ok(Some(Healthcheck {
            test,
            interval: duration("config.Healthcheck.Interval", self.interval)?,
            timeout: duration("config.Healthcheck.Timeout", self.timeout)?,
            start_period: duration("config.Healthcheck.StartPeriod", self.start_period)?,
            start_interval: duration("config.Healthcheck.StartInterval", self.start_interval)?,
            retries: natural("config.Healthcheck.Retries", self.retries)?,
        }))
    }
}

/// Names and values: `NAME` alone sets nothing, and of two of a name the later value is in the earlier's place.
fn environment(entries: Vec<String>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut places = BTreeMap::new();
    let mut env: Vec<(String, String)> = Vec::new();
    for (at, entry) in entries.into_iter().enumerate() {
        let field = format!("config.Env[{at}]");
        let entry = whole(&field, entry)?;
        match entry.split_once('=') {
            Some(("", _)) => return Err(refused(&field, "has no name before its =")),
            Some((name, value)) => {
                let place = *places.entry(name.to_owned()).or_insert(env.len());
                match env.get_mut(place) {
                    Some((_, earlier)) => value.clone_into(earlier),
                    None => env.push((name.to_owned(), value.to_owned())),
                }
            }
            None => {}
        }
    }
    Ok(env)
}

/// A text that can be an argument, a name of a file or a variable.
fn whole(field: &str, text: String) -> Result<String, ConfigError> {
    if text.contains('\0') {
        Err(refused(field, "has a NUL character, which no program can be given"))
    } else {
        Ok(text)
    }
}

fn texts(field: &str, texts: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let texts = texts.into_iter().enumerate();
    texts.map(|(at, text)| whole(&format!("{field}[{at}]"), text)).collect()
}

/// A text; an empty one is absent, as it is in Go.
fn text(field: &str, text: Option<String>) -> Result<Option<String>, ConfigError> {
    text.filter(|text| !text.is_empty()).map(|text| whole(field, text)).transpose()
}

fn time(field: &str, text: Option<String>) -> Result<Option<DateTime<Utc>>, ConfigError> {
    let parse = |text: String| {
        let time = DateTime::parse_from_rfc3339(&text);
        time.map(|time| time.to_utc())
            .map_err(|_| refused(field, format!("is \"{}\", no time of RFC 3339", shown(&text))))
    };
    text.filter(|text| !text.is_empty()).map(parse).transpose()
}

/// Of nanoseconds, of which none are absent.
fn duration(field: &str, nanoseconds: Option<i64>) -> Result<Option<Duration>, ConfigError> {
    let positive = |of: i64| u64::try_from(of).map_err(|_| refused(field, format!("is {of}, less than no time")));
    let nanoseconds = nanoseconds.filter(|of| *of != 0).map(positive).transpose()?;
    Ok(nanoseconds.map(Duration::from_nanos))
}

fn natural(field: &str, number: Option<i64>) -> Result<Option<u32>, ConfigError> {
    let natural = |of: i64| u32::try_from(of).map_err(|_| refused(field, format!("is {of}, no number of times")));
    number.filter(|of| *of != 0).map(natural).transpose()
}
