//! What `--format` makes of a JSON object: text with fields of it, written as `{{.name}}` or `{{.health.status}}`.

use std::str::FromStr;

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
    /// The names on the way to it.
    Field(Vec<String>),
}

/// A template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after.split_once("}}").ok_or(TemplateError::NoEnd)?;
            let path = inside.trim().strip_prefix('.').filter(|path| path.split('.').all(|name| !name.is_empty()));
            let path = path.ok_or_else(|| TemplateError::NoField(inside.to_owned()))?;
            parts.push(Part::Text(unescaped(before)));
            parts.push(Part::Field(path.split('.').map(str::to_owned).collect()));
            rest = after;
        }
        parts.push(Part::Text(unescaped(rest)));
        Ok(Self(parts))
    }
}

/// With tabs and line ends in the place of `\t` and `\n`, which a shell does not make.
fn unescaped(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

impl Template {
    /// The text for an object. A field that is null, or below one, is nothing; one with others in it is JSON.
    ///
    /// # Errors
    /// [`TemplateError::Unknown`].
    pub fn apply(&self, object: &Value) -> Result<String, TemplateError> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Field(path) => match find(object, path)? {
                    Value::Null => {}
                    Value::String(value) => text.push_str(value),
                    value => text.push_str(&value.to_string()),
                },
            }
        }
        Ok(text)
    }
}

fn find<'a>(object: &'a Value, path: &[String]) -> Result<&'a Value, TemplateError> {
    let [first, below @ ..] = path else { return Ok(object) };
    let found = object.get(first).ok_or_else(|| TemplateError::Unknown {
        field: first.clone(),
        known: object.as_object().map_or_else(String::new, |all| all.keys().cloned().collect::<Vec<_>>().join(", ")),
    })?;
    // What has names that nobody can know (labels), and what is not there at all.
    Ok(below.iter().fold(found, |value, name| value.get(name).unwrap_or(&Value::Null)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_in_their_places() {
        let object = serde_json::json!({
            "name": "web", "pid": 7, "none": null, "labels": {"team": "a"}, "command": ["sh", "-c"], "health": null,
        });
        let applied = |text: &str| text.parse::<Template>().and_then(|template| template.apply(&object));
        assert_eq!(applied(r"{{.name}}\t{{ .pid }}").unwrap(), "web\t7");
        assert_eq!(applied("<{{.none}}{{.health.status}}{{.labels.other}}>").unwrap(), "<>");
        assert_eq!(applied("{{.labels.team}} {{.command}} {} }}").unwrap(), r#"a ["sh","-c"] {} }}"#);
        assert_eq!(applied("").unwrap(), "");
        for (text, words) in [
            ("{{.name", "no end"),
            ("{{name}}", "no field"),
            ("{{.}}", "no field"),
            ("{{..name}}", "no field"),
            ("{{}}", "no field"),
            ("{{.nam}}", "there is no field \"nam\"; there are command, health"),
        ] {
            let error = applied(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
