//! The table of fields as a page for people, `docs/configuration.md`, and for whoever makes a stack and judges what is
//! given to it, `infra/configuration.json`. A test holds both equal to it.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    CLUSTER_FIELDS, FIELDS, Field, Kind,
    table::table,
    units::{show_bytes, show_duration},
};

const BEGINNING: &str = "\
# Configuration

<!-- Written from the table in shared/core/src/config/table.rs: `KROSSING_WRITE_DOCS=1 cargo test -p krossing-core reference` -->

One YAML file. All fields stand below `migration`, or below `enterprise.msk_kraft_migration`. `${NAME}` in any text is
taken from the environment, `${secretsmanager:NAME:KEY}` from AWS Secrets Manager: the secret of that name or ARN, and in
it the value under that key (without `:KEY` the whole secret). An unknown field is an error; all problems of a file are
reported at once, with their lines.

Durations and sizes have a unit: `500ms`, `30s`, `30m`, `12h`, `7d`, `7y`; `1048576`, `8MB`, `32MiB`. Lists are YAML
lists, or one text with commas.
";

/// The page.
pub fn reference() -> String {
    let mut page = BEGINNING.to_owned();
    section(&mut page, "source and target", "Each below `source` and below `target`.", CLUSTER_FIELDS.iter());
    let name = |field: &Field| field.path.split('.').next().unwrap_or_default();
    for fields in FIELDS.chunk_by(|one, next| name(one) == name(next)) {
        section(&mut page, name(&fields[0]), "", fields.iter());
    }
    page
}

/// The fields by their full paths: what may stand there, durations in milliseconds, and `value`, the same for people.
pub fn fields_as_json() -> Value {
    let fields: Map<String, Value> = table()
        .map(|(path, field)| {
            let mut about = match field.kind {
                Kind::Text => json!({ "kind": "text" }),
                Kind::Secret => json!({ "kind": "secret" }),
                Kind::Path => json!({ "kind": "path" }),
                Kind::Duration(least, most) => {
                    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                    json!({ "kind": "duration", "least": ms(least), "most": ms(most) })
                }
                Kind::Bytes(least, most) => json!({ "kind": "bytes", "least": least, "most": most }),
                Kind::Count(least, most) => json!({ "kind": "count", "least": least, "most": most }),
                Kind::Bool => json!({ "kind": "choice", "one_of": ["true", "false"] }),
                Kind::Choice(choices) => json!({ "kind": "choice", "one_of": choices }),
                Kind::List => json!({ "kind": "list" }),
                Kind::Servers => json!({ "kind": "servers" }),
            };
            about["value"] = json!(value(field.kind).replace('`', ""));
            (path, about)
        })
        .collect();
    json!({ "about": "Written from the table in shared/core/src/config/table.rs, as docs/configuration.md is.", "fields": fields })
}

fn section<'a>(page: &mut String, name: &str, about: &str, fields: impl Iterator<Item = &'a Field>) {
    let about = if about.is_empty() { String::new() } else { format!("{about}\n\n") };
    let written = write!(page, "\n## {name}\n\n{about}| field | value | default | meaning |\n|---|---|---|---|\n");
    written.expect("writing to a text does not fail");
    for field in fields {
        let default = match field.default {
            Some("") => "none".to_owned(),
            Some(default) => format!("`{default}`"),
            None => String::new(),
        };
        let row = writeln!(page, "| `{}` | {} | {default} | {} |", field.path, value(field.kind), field.meaning);
        row.expect("writing to a text does not fail");
    }
}

fn value(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Secret => "text, never shown".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Duration(least, most) => format!("{} to {}", show_duration(least), show_duration(most)),
        Kind::Bytes(least, most) => format!("{} to {} bytes", show_bytes(least), show_bytes(most)),
        Kind::Count(least, most) => format!("{least} to {most}"),
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Choice(choices) => choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "),
        Kind::List => "list".to_owned(),
        Kind::Servers => "list of `host:port`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::codes;

    /// A file of the repository, which is written anew where `KROSSING_WRITE_DOCS` is set.
    fn page(name: &str, wanted: &str) -> String {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
        if std::env::var_os("KROSSING_WRITE_DOCS").is_some() {
            std::fs::write(&file, wanted).expect("docs can be written");
        }
        std::fs::read_to_string(file).expect("the page is there")
    }

    #[test]
    fn the_reference_of_the_configuration_is_the_table() {
        let wanted = reference();
        assert_eq!(page("docs/configuration.md", &wanted), wanted, "KROSSING_WRITE_DOCS=1 writes it anew");
        let wanted = format!("{:#}\n", fields_as_json());
        assert_eq!(page("infra/configuration.json", &wanted), wanted, "KROSSING_WRITE_DOCS=1 writes it anew");
    }

    #[test]
    fn the_reference_of_the_codes_is_their_tables() {
        let mut wanted = "\
# Codes

What `precheck` finds, and what may be found later. `B` stops the migration until somebody has acted, `W` is survived
and worth knowing, `I` is for your information. A code is never given another meaning.

<!-- Written from the tables of shared/core: `KROSSING_WRITE_DOCS=1 cargo test -p krossing-core reference` -->

## While a migration runs

| code | what it means | what to do |
|---|---|---|
"
        .to_owned();
        for code in codes::ALL {
            writeln!(wanted, "| {} | {} | {} |", code.name, code.cause, code.remedy).expect("a text takes it");
        }
        wanted.push_str("\n## In precheck\n\nThe finding says what is wrong with which thing, and what to do.\n\n");
        wanted.push_str("| code | what is looked at |\n|---|---|\n");
        for (code, about) in codes::PRECHECK {
            writeln!(wanted, "| {code} | {about} |").expect("a text takes it");
        }
        assert_eq!(page("docs/codes.md", &wanted), wanted, "KROSSING_WRITE_DOCS=1 writes it anew");
    }
}
