//! What an image that is made of a sandbox says in the place of the image that the sandbox runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Each is as it was where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageChanges {
    /// The program and its first arguments; none where it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The arguments behind those; none where it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Besides the variables that there are, or in the place of those of the same names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
    /// The working directory, absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// `USER[:GROUP]`; root where it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Besides the labels that there are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Ports that it listens on, `PORT[/PROTOCOL]`, besides those that there are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// Who answers for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Words about it, for its history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
