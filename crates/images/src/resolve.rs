//! What an image's configuration says becomes a sandbox's specification, where the request says nothing else. Pure.
//!
//! | configuration | specification | the request's own |
//! | --- | --- | --- |
//! | `Entrypoint`, `Cmd` | the command, one behind the other | a command stands for `Cmd`; an entrypoint for `Entrypoint`, and `Cmd` goes; an idle sandbox has neither |
//! | `Env` | environment | wins by name |
//! | `WorkingDir`, `User`, `StopSignal` | the same | wins |
//! | `Labels` | labels, as far as they can be some | win |
//! | `ExposedPorts` | with `publish_all`: each of TCP at a free port of 127.0.0.1 | is there besides |
//! | `Healthcheck` | the health check, without consequences | wins, as does `no_healthcheck` |
//! | `Volumes` | nothing: everything is written to the sandbox's disk | |

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::time::Duration;

use sandpen_types::image::ImageDigest;
use sandpen_types::spec::{
    ByteString, HEALTH_RETRIES_MAX, HEALTH_TIME_MAX, HEALTH_TIME_MIN, HealthCheck, HealthFailure, ImageRoot,
    LABELS_MAX, Label, Network, PublishedPort, Rootfs, SandboxSpec, SpecError,
};

use crate::config::{ContainerConfig, HealthTest, Healthcheck, ImageConfig};
use crate::platform::Platform;

/// What the kernel is asked to run a command that is text.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Why a sandbox cannot be made of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Neither the image nor the request says what to run.
    #[error(
        "image {image} names no command to run, and none was given: say what to run, as in `sandpen run {image} -- /bin/sh`"
    )]
    NothingToRun {
        /// The image.
        image: String,
    },
    /// The image is for another machine.
    #[error("image {image} is for {found}, and this host runs {host}; load the one for this host")]
    Platform {
        /// The image.
        image: String,
        /// What it is for.
        found: String,
        /// What this is.
        host: String,
    },
    /// A field of the configuration says what no sandbox can have.
    #[error("{field} of image {image} cannot be taken: {reason}{}", advice(.field))]
    Field {
        /// The image.
        image: String,
        /// Its path in the configuration.
        field: String,
        /// In words.
        reason: String,
    },
    /// What came out of both cannot be together.
    #[error("image {image} and what was asked for cannot be together: {source}")]
    Together {
        /// The image.
        image: String,
        /// Why.
        source: SpecError,
    },
}

/// A specification with what its image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The specification.
    pub spec: SandboxSpec,
    /// What of the image was left out, a sentence each.
    pub left_out: Vec<String>,
}

/// Takes an image's configuration into a specification whose root is that image, not looked at yet. Of any other root, and
/// of an image that was looked at, nothing is changed.
///
/// # Errors
/// [`ResolveError`].
pub fn resolve(
    mut spec: SandboxSpec,
    digest: &ImageDigest,
    ImageConfig { platform, container, .. }: &ImageConfig,
) -> Result<Resolved, ResolveError> {
    let Rootfs::Image(root @ ImageRoot { digest: None, .. }) = &mut spec.rootfs else {
        return Ok(Resolved { spec, left_out: Vec::new() });
    };
    root.digest = Some(*digest);
    let root = root.clone();
    let of = Of { image: root.reference.familiar() };
    let host = Platform::host();
    if host.fit(platform).is_none() {
        return Err(ResolveError::Platform { image: of.image, found: platform.to_string(), host: host.to_string() });
    }
    if !spec.idle {
        spec.command = of.command(&root, std::mem::take(&mut spec.command), container)?;
    }
    let own = std::mem::take(&mut spec.env);
    let image_env = container.env.iter().map(|(name, value)| (ByteString::from(name), ByteString::from(value)));
    spec.env = image_env.filter(|(name, _)| own.iter().all(|(other, _)| other != name)).collect();
    spec.env.extend(own);
    if spec.workdir.is_none() {
        // Relative to the root, as container engines have it.
        let absolute = |dir: &String| if dir.starts_with('/') { dir.clone() } else { format!("/{dir}") };
        spec.workdir = container.working_dir.as_ref().map(absolute).map(ByteString::from);
    }
    if let (None, Some(user)) = (&spec.user, &container.user) {
        spec.user = Some(user.parse().map_err(|error: SpecError| of.field("config.User", error.to_string()))?);
    }
    if let (None, Some(signal)) = (&spec.stop_signal, &container.stop_signal) {
        spec.stop_signal = Some(signal.parse().map_err(|error| of.field("config.StopSignal", format!("{error}")))?);
    }
    if let (None, false, Some(check)) = (&spec.health, root.no_healthcheck, &container.healthcheck) {
        spec.health = of.health(check, &container.shell)?;
    }
    let mut left_out = take_labels(&mut spec, container);
    if root.publish_all {
        left_out.extend(of.publish(&mut spec, container)?);
    }
    spec.check_values().map_err(|source| ResolveError::Together { image: of.image, source })?;
    Ok(Resolved { spec, left_out })
}

/// For errors: of which image.
struct Of {
    image: String,
}

impl Of {
    fn field(&self, field: &str, reason: String) -> ResolveError {
        ResolveError::Field { image: self.image.clone(), field: field.to_owned(), reason }
    }

    fn command(
        &self,
        root: &ImageRoot,
        asked: Vec<ByteString>,
        container: &ContainerConfig,
    ) -> Result<Vec<ByteString>, ResolveError> {
        let of_image = |texts: &[String]| texts.iter().map(ByteString::from).collect::<Vec<_>>();
        // One that is a single empty text is none, as container engines have it.
        let is_none = |entrypoint: &[ByteString]| matches!(entrypoint, [only] if only.as_bytes().is_empty());
        let (mut command, cmd) = match &root.entrypoint {
            Some(entrypoint) if is_none(entrypoint) => (Vec::new(), Vec::new()),
            Some(entrypoint) => (entrypoint.clone(), Vec::new()),
            None => (of_image(&container.entrypoint), of_image(&container.cmd)),
        };
        command.extend(if asked.is_empty() { cmd } else { asked });
        match command.first() {
            None => Err(ResolveError::NothingToRun { image: self.image.clone() }),
            Some(program) if program.as_bytes().is_empty() => {
                let field = if container.entrypoint.is_empty() { "config.Cmd" } else { "config.Entrypoint" };
                Err(self.field(field, "the program's name is empty".to_owned()))
            }
            Some(_) => Ok(command),
        }
    }

    fn health(&self, check: &Healthcheck, shell: &[String]) -> Result<Option<HealthCheck>, ResolveError> {
        let command: Vec<ByteString> = match &check.test {
            HealthTest::Disabled => return Ok(None),
            HealthTest::Exec(command) => command.iter().map(ByteString::from).collect(),
            HealthTest::Shell(command) => {
                let shell: Vec<_> = if shell.is_empty() {
                    SHELL.map(ByteString::from).to_vec()
                } else {
                    shell.iter().map(ByteString::from).collect()
                };
                shell.into_iter().chain(command.iter().map(ByteString::from)).collect()
            }
        };
        let default = HealthCheck::new(command);
        let time = |field: &str, time: Option<Duration>, default: Duration, least: Duration| match time {
            None => Ok(default),
            Some(time) if (least..=HEALTH_TIME_MAX).contains(&time) => Ok(time),
            Some(time) => {
                let field = format!("config.Healthcheck.{field}");
                Err(self.field(&field, format!("{time:?} is not {least:?} to {HEALTH_TIME_MAX:?}")))
            }
        };
        let retries = check.retries.unwrap_or(default.retries);
        if !(1..=HEALTH_RETRIES_MAX).contains(&retries) {
            let reason = format!("{retries} is not 1 to {HEALTH_RETRIES_MAX}");
            return Err(self.field("config.Healthcheck.Retries", reason));
        }
        let taken = HealthCheck {
            interval: time("Interval", check.interval, default.interval, HEALTH_TIME_MIN)?,
            timeout: time("Timeout", check.timeout, default.timeout, HEALTH_TIME_MIN)?,
            start_period: time("StartPeriod", check.start_period, default.start_period, Duration::ZERO)?,
            retries,
            on_failure: HealthFailure::None,
            ..default
        };
        taken.check().map_err(|error| self.field("config.Healthcheck.Test", error.to_string()))?;
        Ok(Some(taken))
    }

    /// Publishes what the image exposes; says what is left out.
    fn publish(&self, spec: &mut SandboxSpec, container: &ContainerConfig) -> Result<Vec<String>, ResolveError> {
        let mut left_out = Vec::new();
        for exposed in &container.exposed_ports {
            let refused = |reason: &str| self.field("config.ExposedPorts", format!("{exposed:?} {reason}"));
            let (ports, protocol) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
            if !protocol.eq_ignore_ascii_case("tcp") {
                left_out.push(format!("port {exposed} is not published: only TCP is"));
                continue;
            }
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
            let (Some(first), Some(last)) = (number(first), number(last)) else {
                return Err(refused("is no port"));
            };
            for guest in first..=last {
                if spec.ports.iter().any(|port| port.guest == guest) {
                    continue;
                }
                if spec.ports.len() >= sandpen_types::spec::PORTS_MAX {
                    return Err(refused("is one port too many; publish those that are needed with -p"));
                }
                spec.ports.push(PublishedPort { address: Some(Ipv4Addr::LOCALHOST), host: 0, guest });
            }
        }
        if spec.network == Network::None && !spec.ports.is_empty() {
            spec.network = Network::Published;
        }
        Ok(left_out)
    }
}

/// Takes those that can be labels of a sandbox, where there are not too many; says which are left out.
fn take_labels(spec: &mut SandboxSpec, container: &ContainerConfig) -> Vec<String> {
    let mut left_out = Vec::new();
    for (key, value) in &container.labels {
        let label = match format!("{key}={value}").parse::<Label>() {
            // One with a = in its key would be another one.
            Ok(label) if label.key.as_str() == key => label,
            Ok(_) => {
                left_out.push(format!("label {key:?} is left out: a key has no ="));
                continue;
            }
            Err(error) => {
                left_out.push(format!("label {key:?} is left out: {error}"));
                continue;
            }
        };
        if spec.labels.contains_key(&label.key) {
            continue;
        }
        if spec.labels.len() >= LABELS_MAX {
            left_out.push(format!("label {key:?} is left out: a sandbox has at most {LABELS_MAX}"));
            continue;
        }
        spec.labels.insert(label.key, label.value);
    }
    left_out
}

/// How one goes on without a field.
fn advice(field: &str) -> &'static str {
    match field {
        "config.User" => "; say another one with --user",
        "config.StopSignal" => "; say another one with --stop-signal",
        field if field.starts_with("config.Healthcheck") => "; leave it out with --no-healthcheck",
        "config.Entrypoint" | "config.Cmd" => "; say what to run",
        _ => "",
    }
}
