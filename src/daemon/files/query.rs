//! What a request about a file says in its query. A path may be any bytes, which actix's own queries cannot have.

use actix_web::HttpRequest;
use sandpen_types::spec::WorkloadUser;

use super::Rejection;
use crate::api::ErrorCode;

/// The path, the user, and what else there is.
#[derive(Debug, PartialEq, Eq)]
pub struct FileQuery {
    /// As it was asked for: whether it can be one, the guest's client looks.
    pub path: Vec<u8>,
    /// Whose rights count.
    pub user: Option<WorkloadUser>,
    others: Vec<(String, String)>,
}

impl FileQuery {
    /// That of a request which knows these keys besides `path` and `user`.
    pub fn read(request: &HttpRequest, known: &[&str]) -> Result<Self, Rejection> {
        Self::parse(request.query_string(), known)
    }

    /// The user of a request that has nothing else.
    pub fn read_user(request: &HttpRequest) -> Result<Option<WorkloadUser>, Rejection> {
        let pairs = pairs(request.query_string(), &["user"])?;
        user(pairs.into_iter().next().map(|(_, value)| value))
    }

    fn parse(query: &str, known: &[&str]) -> Result<Self, Rejection> {
        let keys = [&["path", "user"], known].concat();
        let (mut path, mut of_user, mut others) = (None, None, Vec::new());
        for (key, value) in pairs(query, &keys)? {
            match key.as_str() {
                "path" => path = Some(value),
                "user" => of_user = Some(value),
                _ => others.push((key, words(value)?)),
            }
        }
        let path = path.ok_or_else(|| refused("missing field `path`".to_owned()))?;
        Ok(Self { path, user: user(of_user)?, others })
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.others.iter().find(|(of, _)| of == key).map(|(_, value)| value.as_str())
    }

    /// `?key`, `?key=true` and the like.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, Rejection> {
        match self.value(key) {
            None => Ok(default),
            Some("" | "1" | "true") => Ok(true),
            Some("0" | "false") => Ok(false),
            Some(other) => Err(refused(format!("{key}={other:?} is neither true nor false"))),
        }
    }

    /// Permission bits, in octal digits.
    pub fn mode(&self) -> Result<Option<u32>, Rejection> {
        let Some(text) = self.value("mode") else { return Ok(None) };
        let is_octal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let mode = is_octal.then(|| u32::from_str_radix(text, 8).ok()).flatten();
        let mode = mode.ok_or_else(|| refused(format!("mode={text:?} is no number of octal digits, such as 644")))?;
        check_mode(Some(mode))?;
        Ok(Some(mode))
    }
}

/// Whether these can be permission bits.
pub fn check_mode(mode: Option<u32>) -> Result<(), Rejection> {
    match mode {
        Some(mode @ 0o10000..) => {
            Err(refused(format!("the mode {mode:o} (octal) is more than permission bits, at most 7777")))
        }
        _ => Ok(()),
    }
}

fn refused(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidRequest, message)
}

fn user(value: Option<Vec<u8>>) -> Result<Option<WorkloadUser>, Rejection> {
    let Some(value) = value else { return Ok(None) };
    let parsed = words(value)?.parse().map_err(|error| Rejection::from_error(ErrorCode::InvalidRequest, &error))?;
    Ok(Some(parsed))
}

fn words(value: Vec<u8>) -> Result<String, Rejection> {
    String::from_utf8(value).map_err(|_| refused("a value of the query is not UTF-8".to_owned()))
}

/// Keys and values, each key once.
fn pairs(query: &str, known: &[&str]) -> Result<Vec<(String, Vec<u8>)>, Rejection> {
    let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = words(decoded(key)?)?;
        if !known.contains(&key.as_str()) {
            return Err(refused(format!(
                "unknown field `{}`, expected one of {}",
                key.escape_debug(),
                known.join(", ")
            )));
        }
        if pairs.iter().any(|(of, _)| *of == key) {
            return Err(refused(format!("duplicate field `{key}`")));
        }
        pairs.push((key, decoded(value)?));
    }
    Ok(pairs)
}

/// Without percent signs; a plus is a space, as in every query.
fn decoded(text: &str) -> Result<Vec<u8>, Rejection> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) => u8::try_from(high << 4 | low).unwrap_or_default(),
                _ => return Err(refused("a percent sign that two hexadecimal digits do not follow".to_owned())),
            },
            byte => byte,
        });
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_any_bytes() {
        let of = |query: &str| FileQuery::parse(query, &["follow"]);
        let query = of("path=%2Fa%0a%1B%ff+b/%25&user=web%3Alogs&follow").unwrap();
        assert_eq!(query.path, b"/a\n\x1b\xff b/%");
        assert_eq!(query.user.as_ref().map(ToString::to_string).as_deref(), Some("web:logs"));
        assert!(query.flag("follow", false).unwrap() && !query.flag("other", false).unwrap());
        assert_eq!(of("path=").unwrap().path, b"", "which the client refuses");
        for bad in [
            "",
            "user=a",
            "path=/a&path=/b",
            "path=%",
            "path=%2",
            "path=%zz",
            "path=/a&user=%ff",
            "path=/a&user=",
            "path=/a&what=1",
            "path=/a&%ff=1",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(of("path=/a&follow=yes").unwrap().flag("follow", false).is_err());
    }

    #[test]
    fn modes_are_octal() {
        let of = |query: &str| FileQuery::parse(query, &["mode"]).unwrap().mode();
        assert_eq!(of("path=/a").unwrap(), None);
        for (text, mode) in [("644", 0o644), ("0644", 0o644), ("7777", 0o7777), ("0", 0)] {
            assert_eq!(of(&format!("path=/a&mode={text}")).unwrap(), Some(mode));
        }
        for text in ["", "8", "+7", "-1", "10000", "0x1ff", "77777777777777", "u%2Bx"] {
            assert!(of(&format!("path=/a&mode={text}")).is_err(), "{text}");
        }
    }
}
