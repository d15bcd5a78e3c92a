//! What was found, for people and programs.

use serde::{Deserialize, Serialize};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Works, but not as well as it could.
    Warn,
    /// Nothing can be run like this.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// A short, stable name.
    pub name: String,
    /// How it is.
    pub status: CheckStatus,
    /// What was found.
    pub detail: String,
    /// What to do about it, where there is something to do.
    pub advice: Option<String>,
}

impl Check {
    pub(super) fn new(name: &str, status: CheckStatus, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), status, detail: detail.into(), advice: None }
    }

    /// Of the command line's config files, with what is wrong with one.
    pub fn config_files(broken: Option<&str>) -> Self {
        match broken {
            None => Check::new("config", CheckStatus::Ok, "no config file is broken"),
            Some(broken) => Check::new("config", CheckStatus::Fail, broken),
        }
    }

    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// All checks, and what they mean together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// In a sensible order to mend them.
    pub checks: Vec<Check>,
    /// The driver that `auto` picks; `None` when none works.
    pub auto: Option<String>,
    /// Why.
    pub reason: String,
}
