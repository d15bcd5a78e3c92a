//! The HTTP API: `docs/http-api.md`.

use std::collections::BTreeMap;

use sandpen::actors::state::{FailureKind, Status};
use sandpen::api::ErrorCode;

use super::{Words, after, code_words, names_after, read, rows, section};

#[test]
fn http_routes() {
    let source = read("src/daemon/routes.rs");
    let mut code = Words::new();
    for line in source.lines().filter(|line| line.contains(".service(")) {
        let path = line.split('"').nth(1).unwrap();
        let path =
            if line.contains("(sandbox(") { format!("/v1/sandboxes/{{config}}/{{name}}{path}") } else { path.into() };
        for method in names_after(line, "web::") {
            if ["get", "post", "put", "delete"].contains(&method.as_str()) {
                code.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    let page = read("docs/http-api.md");
    let table = rows(section(&page, "## Routes"));
    let documented: Words = table
        .iter()
        .map(|cells| cells[0].trim_matches('`').replace("…/{name}", "/v1/sandboxes/{config}/{name}"))
        .collect();
    assert!(code.len() > 8, "{code:?}");
    assert_eq!(documented, code);
}

#[test]
fn http_error_codes() {
    let code = ErrorCode::ALL.map(|code| (code.as_str().to_owned(), code.http_status().to_string()));
    let page = read("docs/http-api.md");
    let table = rows(section(&page, "## Errors"));
    let documented: BTreeMap<String, String> = table
        .iter()
        .flat_map(|cells| code_words(cells[1]).into_iter().map(|code| (code, cells[0].to_owned())))
        .collect();
    assert_eq!(documented, BTreeMap::from(code));
}

#[test]
fn kinds_of_events() {
    let variants = after("pub enum EventKind {");
    let variants = variants.split("\n}").next().unwrap().lines();
    let variants = variants
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| line.chars().take_while(char::is_ascii_alphanumeric).collect::<String>());
    // As serde's snake_case does.
    let snake = |name: String| {
        let words = name.char_indices().map(|(at, c)| match c.is_ascii_uppercase() && at > 0 {
            true => format!("_{}", c.to_ascii_lowercase()),
            false => c.to_ascii_lowercase().to_string(),
        });
        words.collect::<String>()
    };
    let page = read("docs/http-api.md");
    let (_, kinds) = section(&page, "### Events").split_once("| kind |").unwrap();
    let documented: Words = rows(kinds).iter().flat_map(|cells| code_words(cells[0])).collect();
    assert_eq!(documented, variants.map(snake).collect());
}

#[test]
fn the_fields_of_a_sandbox() {
    let source = read("crates/api/src/sandbox.rs");
    let (_, fields) = source.split_once("pub struct Sandbox {").unwrap();
    let fields = names_after(fields.split("\n}").next().unwrap(), "    pub ");
    let page = read("docs/http-api.md");
    let table = rows(section(&page, "### A sandbox"));
    let documented: Words = table.iter().flat_map(|cells| code_words(&cells[0].replace(',', " "))).collect();
    assert_eq!(documented, fields);
    let kinds: Words = FailureKind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
    let row = table.iter().find(|cells| cells[0].contains("failure_kind")).unwrap();
    assert_eq!(code_words(row[1]), kinds);
    let states: Words = Status::ALL.iter().map(|status| status.as_str().to_owned()).collect();
    let row = table.iter().find(|cells| cells[0] == "`state`").unwrap();
    assert_eq!(code_words(row[1]), states);
}
