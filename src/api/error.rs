//! Failures on the wire.

use serde::{Deserialize, Serialize};

/// Body of every answer with a status of 400 and above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// A failure on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A stable word, for programs.
    pub code: String,
    /// One line, for people.
    pub message: String,
    /// The causes, outermost first, without `message` itself.
    #[serde(default)]
    pub chain: Vec<String>,
}

impl ErrorDetail {
    /// The detail of an error value with its causes.
    pub fn new(code: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut chain = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            chain.push(cause.to_string());
            source = cause.source();
        }
        Self { code: code.to_owned(), message: error.to_string(), chain }
    }

    /// A detail without causes.
    pub fn message(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), chain: Vec::new() }
    }

    /// Message and causes in one line.
    pub fn one_line(&self) -> String {
        let mut text = self.message.clone();
        for cause in &self.chain {
            if !text.ends_with(cause.as_str()) {
                text.push_str(": ");
                text.push_str(cause);
            }
        }
        text
    }
}
