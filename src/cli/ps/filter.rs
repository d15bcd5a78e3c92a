//! Which sandboxes `ps` lists.

use std::str::FromStr;

use sandpen::api::Sandbox;
use sandpen_types::health::HealthStatus;
use sandpen_types::spec::LabelKey;
use sandpen_types::state::Status;

use super::super::args::short_name;

/// Why a filter is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Nothing to filter by.
    #[error("it is not of the form KEY=VALUE with one of the keys name, state, label, driver, config and health")]
    Form,
    /// A state that is none.
    #[error("there is no state {0:?}; there are {known}", known = Status::ALL.map(Status::as_str).join(", "))]
    State(String),
    /// A health that is none.
    #[error("there is no health {0:?}; there are {known}", known = HealthStatus::ALL.map(HealthStatus::as_str).join(", "))]
    Health(String),
    /// A label's key that is none.
    #[error(transparent)]
    Label(#[from] sandpen_types::spec::SpecError),
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// NAME or CONFIG/NAME, in which `*` stands for anything.
    Name(String),
    /// The state's word.
    State(Status),
    /// A label, of any value or of this one.
    Label(LabelKey, Option<String>),
    /// The driver that runs it.
    Driver(String),
    /// The config.
    Config(String),
    /// What its health check says.
    Health(HealthStatus),
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (key, value) = text.split_once('=').ok_or(FilterError::Form)?;
        let owned = || value.to_owned();
        Ok(match key {
            "name" => Self::Name(owned()),
            // The word of other tools for it.
            "state" | "status" => {
                let is_it = |status: &Status| status.as_str().eq_ignore_ascii_case(value);
                Self::State(Status::ALL.into_iter().find(is_it).ok_or_else(|| FilterError::State(owned()))?)
            }
            "label" => match value.split_once('=') {
                Some((key, value)) => Self::Label(key.parse()?, Some(value.to_owned())),
                None => Self::Label(value.parse()?, None),
            },
            "driver" => Self::Driver(owned()),
            "config" => Self::Config(owned()),
            "health" => {
                let is_it = |status: &HealthStatus| status.as_str().eq_ignore_ascii_case(value);
                Self::Health(HealthStatus::ALL.into_iter().find(is_it).ok_or_else(|| FilterError::Health(owned()))?)
            }
            _ => return Err(FilterError::Form),
        })
    }
}

impl Filter {
    fn matches(&self, sandbox: &Sandbox) -> bool {
        match self {
            Self::Name(pattern) => {
                let whole = format!("{}/{}", sandbox.config_file, sandbox.name);
                is_like(pattern, &short_name(&sandbox.config_file, &sandbox.name)) || is_like(pattern, &whole)
            }
            Self::State(state) => sandbox.state == *state,
            Self::Label(key, value) => {
                sandbox.labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }
            Self::Driver(driver) => sandbox.driver.as_ref() == Some(driver),
            Self::Config(config) => sandbox.config_file == *config,
            Self::Health(health) => sandbox.health.as_ref().is_some_and(|found| found.status == *health),
        }
    }
}

/// Whether all kinds of filters let it through: one of several of a kind is enough, but all labels must be there.
pub fn lets_through(filters: &[Filter], sandbox: &Sandbox) -> bool {
    filters.iter().all(|filter| {
        let same_kind = |other: &&Filter| std::mem::discriminant(*other) == std::mem::discriminant(filter);
        match filter {
            Filter::Label(..) => filter.matches(sandbox),
            _ => filters.iter().filter(same_kind).any(|other| other.matches(sandbox)),
        }
    })
}

/// Whether `text` is what `pattern` says, in which `*` stands for anything.
pub fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, text, expected) in [
            ("web", "web", true),
            ("web", "web2", false),
            ("web*", "web2", true),
            ("*b", "web", true),
            ("w*b", "wb", true),
            ("w*b", "w", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*a", "a", false),
            ("a**c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("*ab*ab*", "xabyabz", true),
            ("shop/*", "shop/web", true),
        ] {
            assert_eq!(is_like(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn filters_are_read_and_others_refused() {
        assert_eq!("state=running".parse(), Ok(Filter::State(Status::Running)));
        assert_eq!("label=a=b=c".parse(), Ok(Filter::Label("a".parse().unwrap(), Some("b=c".to_owned()))));
        assert_eq!("label=a".parse(), Ok(Filter::Label("a".parse().unwrap(), None)));
        assert_eq!("health=failing".parse(), Ok(Filter::Health(HealthStatus::Failing)));
        for text in ["", "name", "size=1", "state=happy", "label=", "label= x", "=a", "health=", "health=unhealthy"] {
            assert!(text.parse::<Filter>().is_err(), "{text:?}");
        }
        let refused = "health=unhealthy".parse::<Filter>().unwrap_err().to_string();
        assert_eq!(refused, "there is no health \"unhealthy\"; there are starting, healthy, failing");
    }
}
