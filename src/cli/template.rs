//! What `--format` makes of a JSON object: text with fields of it, written as `{{.name}}` or `{{.health.status}}`.

mod fields;

use std::str::FromStr;

pub use fields::fields;

use serde_json::Value;

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Braces without an end.
    #[error("a field of the template has no end: write {{{{.name}}}}")]
    NoEnd,
    /// Something else between them.
    #[error("{{{{{0}}}}} is no field: write {{{{.name}}}} with the name of a field of `sandpen inspect`")]
    NoField(String),
    /// A field that is not there.
    #[error("there is no field {field:?}; there are {known}")]
    Unknown {
        /// The name.
        field: String,
        /// Those that are.
        known: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The names on the way to it, one at least.
    Field(Vec<String>),
}

/// What has names that users choose, with dots in them: behind it there is one name.
const LABELS: &str = "labels";

/// A template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after.split_once("}}").ok_or(TemplateError::NoEnd)?;
            let path =
                inside.trim().strip_prefix('.').map(names).filter(|names| names.iter().all(|name| !name.is_empty()));
            let path = path.ok_or_else(|| TemplateError::NoField(inside.to_owned()))?;
            parts.push(Part::Text(unescaped(before)));
            parts.push(Part::Field(path));
            rest = after;
        }
        parts.push(Part::Text(unescaped(rest)));
        Ok(Self(parts))
    }
}

fn names(path: &str) -> Vec<String> {
    match path.split_once('.') {
        Some((LABELS, key)) => vec![LABELS.to_owned(), key.to_owned()],
        _ => path.split('.').map(str::to_owned).collect(),
    }
}

/// With tabs and line ends in the place of `\t` and `\n`, which a shell does not make.
fn unescaped(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

impl Template {
    /// Whether all its fields are among these, which an object has or may have.
    ///
    /// # Errors
    /// [`TemplateError::Unknown`].
    pub fn check(&self, known: &[&str]) -> Result<(), TemplateError> {
        let firsts = self.0.iter().filter_map(|part| match part {
            Part::Field(path) => path.first(),
            Part::Text(_) => None,
        });
        match firsts.into_iter().find(|first| !known.contains(&first.as_str())) {
            Some(field) => Err(TemplateError::Unknown { field: field.clone(), known: known.join(", ") }),
            None => Ok(()),
        }
    }

    /// The text for an object. A field that is null, not there, or below one of these, is nothing; one with others in it is
    /// JSON.
    pub fn apply(&self, object: &Value) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Field(path) => match path.iter().try_fold(object, |value, name| value.get(name)) {
                    None | Some(Value::Null) => {}
                    Some(Value::String(value)) => text.push_str(value),
                    Some(value) => text.push_str(&value.to_string()),
                },
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_in_their_places() {
        let object = serde_json::json!({
            "name": "web", "pid": 7, "none": null, "labels": {"team": "a", "example.com/build-id": "b"},
            "command": ["sh", "-c"], "health": null, "log": {"max": {"bytes": 1}},
        });
        let known = ["name", "pid", "none", "labels", "command", "health", "log", "absent"];
        let applied = |text: &str| {
            let template: Template = text.parse()?;
            template.check(&known)?;
            Ok::<_, TemplateError>(template.apply(&object))
        };
        assert_eq!(applied(r"{{.name}}\t{{ .pid }}").unwrap(), "web\t7");
        assert_eq!(applied("<{{.none}}{{.health.status}}{{.labels.other}}>").unwrap(), "<>");
        assert_eq!(applied("{{.labels.team}} {{.command}} {} }}").unwrap(), r#"a ["sh","-c"] {} }}"#);
        assert_eq!(applied("{{.labels.example.com/build-id}}{{.absent}}{{.labels.a.}}").unwrap(), "b");
        assert_eq!(applied("{{.log.max.bytes}} {{.log.max}}").unwrap(), r#"1 {"bytes":1}"#);
        assert_eq!(applied("").unwrap(), "");
        for (text, words) in [
            ("{{.name", "no end"),
            ("{{name}}", "no field"),
            ("{{.}}", "no field"),
            ("{{..name}}", "no field"),
            ("{{}}", "no field"),
            ("{{.labels.}}", "no field"),
            ("{{.log..max}}", "no field"),
            ("{{.nam}}", "there is no field \"nam\"; there are name, pid, none"),
        ] {
            let error = applied(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
