//! `docs/configuration.md` is generated from the code: meanings are the doc comments of
//! `src/config`, defaults those of `config/config.yaml`, which a unit test compares with the
//! program's own.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use serde_json::Value;

/// A setting of a section.
struct Setting {
    name: String,
    old_names: Vec<String>,
    kind: String,
    /// `seconds` or `bytes`, for a duration or a size.
    unit: Option<String>,
    meaning: String,
}

/// A declaration of a macro in `src/config/value.rs`: a section, or a choice of words.
struct Declaration {
    meaning: String,
    /// The settings of a section, or the words of a choice (which have no kind).
    members: Vec<Setting>,
    /// Keys of the Go program that are ignored.
    ignored: Vec<String>,
}

/// The declarations of all files of `src/config`, by type name.
fn declarations() -> BTreeMap<String, Declaration> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for start in ["\nsection! {\n", "\nchoice! {\n"] {
            for rest in text.split(start).skip(1) {
                let (body, _) = rest.split_once("\n}\n").unwrap();
                let (name, declared) = parse_declaration(body);
                assert!(found.insert(name, declared).is_none());
            }
        }
    }
    found
}

/// Parses the body of a macro. Panics at a line of an unknown form.
fn parse_declaration(body: &str) -> (String, Declaration) {
    let mut name = String::new();
    let mut declared = Declaration { meaning: String::new(), members: Vec::new(), ignored: Vec::new() };
    let mut comment = String::new();
    let (body, ignored) = body.split_once("ignored [").unwrap_or((body, ""));
    declared.ignored = ignored.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    for line in body.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "}") {
        if let Some(text) = line.strip_prefix("///") {
            comment += text;
        } else if let Some(of) = line.strip_suffix(" {") {
            of.clone_into(&mut name);
            declared.meaning = std::mem::take(&mut comment);
        } else {
            let line = line.strip_suffix(',').unwrap_or_else(|| panic!("unknown line {line}"));
            let (left, right) = line.split_once(" = ").unwrap();
            let (names, kind) = left.split_once(": ").unwrap_or((right.trim_matches('"'), ""));
            let (kind, unit) = match kind.split_once(" as ") {
                Some((kind, unit)) => (kind, Some(unit.to_owned())),
                None => (kind, None),
            };
            let mut names = names.split(" | ").map(str::to_owned);
            declared.members.push(Setting {
                name: names.next().unwrap(),
                old_names: names.collect(),
                kind: kind.to_owned(),
                unit,
                meaning: std::mem::take(&mut comment),
            });
        }
    }
    (name, declared)
}

/// The type of a value, in words.
fn kind_in_words(kind: &str, declared: &BTreeMap<String, Declaration>) -> String {
    let within = |outer: &str| kind.strip_prefix(outer)?.strip_suffix('>');
    if let Some(inner) = within("Option<") {
        return kind_in_words(inner, declared);
    }
    if let Some(inner) = within("Vec<") {
        return format!("list: {}", kind_in_words(inner, declared));
    }
    match kind {
        "bool" => "`true` or `false`".to_owned(),
        "u16" | "u32" | "u64" | "RedisPort" => "whole number".to_owned(),
        "String" => "text".to_owned(),
        "Secret" => "text, never shown".to_owned(),
        "PathBuf" => "path".to_owned(),
        "IpNet" => "network".to_owned(),
        "LinkKeySection" | "StepSection" => "sections, see below".to_owned(),
        choice => {
            let declared = declared.get(choice).unwrap_or_else(|| panic!("unknown type {choice}"));
            let words = declared.members.iter().map(|word| format!("`{}`", word.name));
            words.collect::<Vec<_>>().join(", ")
        }
    }
}

/// What a setting accepts.
fn type_in_words(setting: &Setting, declared: &BTreeMap<String, Declaration>) -> String {
    let is_rate = setting.meaning.contains("per second");
    match setting.unit.as_deref() {
        Some("seconds") => "duration (`30s`, `5m`, `1h`) or seconds".to_owned(),
        Some("bytes") if is_rate => "size (`8MiB`, `1GB`) or bytes, per second".to_owned(),
        Some("bytes") => "size (`8MiB`, `1GB`) or bytes".to_owned(),
        Some(unit) => panic!("unknown unit {unit}"),
        None => kind_in_words(&setting.kind, declared),
    }
}

fn default_in_words(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        value => format!("`{value}`"),
    }
}

/// A meaning, with the words of a choice and the old names, and its danger highlighted. `path` is
/// that of the section.
fn meaning_in_words(setting: &Setting, path: &str, declared: &BTreeMap<String, Declaration>) -> String {
    let mut text = setting.meaning.trim().replace("Danger:", "**Danger:**");
    if let Some(unit) = &setting.unit
        && !text.contains("per second")
    {
        // The type says it. The comment is that of a number in the code.
        text = text.replace(&format!(", in {unit}"), "");
    }
    for old_name in &setting.old_names {
        write!(text, " Old name: `{path}.{old_name}`.").unwrap();
    }
    let kind = setting.kind.trim_start_matches("Option<").trim_end_matches('>');
    for word in declared.get(kind).iter().flat_map(|choice| &choice.members) {
        write!(text, "<br>`{}`: {}", word.name, word.meaning.trim()).unwrap();
    }
    text
}

/// Writes a table of settings, and one for each section among them.
fn describe(
    page: &mut String,
    path: &str,
    section: &Declaration,
    declared: &BTreeMap<String, Declaration>,
    defaults: &Value,
) {
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let is_section = |setting: &&Setting| setting.kind.ends_with("Section");
    page.push_str("\n| setting | type | default | meaning |\n|---|---|---|---|\n");
    for setting in section.members.iter().filter(|setting| !is_section(setting)) {
        let full = join(&setting.name);
        let is_list = setting.kind.starts_with("Vec<") || path.contains('[');
        let variable = match full.to_uppercase().replace('.', "__") {
            _ if is_list => String::new(),
            name => format!("<br>`OSPROXY__{name}`"),
        };
        let kind = type_in_words(setting, declared);
        let default = default_in_words(&defaults[&setting.name]);
        let meaning = meaning_in_words(setting, path, declared);
        writeln!(page, "| `{full}`{variable} | {kind} | {default} | {meaning} |").unwrap();
    }
    if !section.ignored.is_empty() {
        let keys: Vec<_> = section.ignored.iter().map(|key| format!("`{key}`")).collect();
        writeln!(page, "\nAccepted from the Go program, but ignored: {}.", keys.join(", ")).unwrap();
    }
    let is_list = |setting: &Setting| setting.kind.starts_with("Vec<") && setting.kind.ends_with("Section>");
    let lists = section.members.iter().filter(|setting| is_list(setting));
    for setting in section.members.iter().filter(is_section).chain(lists) {
        let is_list = is_list(setting);
        let full = if is_list { format!("{}[]", join(&setting.name)) } else { join(&setting.name) };
        let kind = setting.kind.trim_start_matches("Vec<").trim_end_matches('>');
        let inner = &declared[kind];
        let meaning = match inner.meaning.trim().strip_prefix(&format!("`{full}`: ")) {
            Some(own) => own.to_owned(),
            None if is_list => inner.meaning.trim().to_owned(),
            None => setting.meaning.trim().to_owned(),
        };
        let capital = meaning[..1].to_uppercase() + &meaning[1..];
        let level = if path.is_empty() { "##" } else { "###" };
        writeln!(page, "\n{level} {full}\n\n{capital}").unwrap();
        describe(page, &full, inner, declared, &defaults[&setting.name]);
    }
}

const HEAD: &str = "# Configuration

This page is generated from the code by `just reference`; a test compares it with the code.

osproxy runs without any configuration. Later sources override earlier ones: the defaults below; a YAML file, given by `--config FILE` or
`OSPROXY_CONFIG`; the environment variables named below; the flags `--listen` (`server.listen`) and `--data-dir` (`data_dir`). Lists can only be set in a file.
Unknown keys are errors. `osproxy check-config --config FILE` reports all errors in a file and exits;
[config/config.yaml](../config/config.yaml) has all settings with their defaults.

A duration is text such as `30s`, `5m`, `1h 30m` or `7days`, or a whole number of seconds; fractions of a second are errors. (`m` is minutes, `M` is months of 30.44 days.)
A size is text such as `8MiB`, `5 GiB` or `1GB`, or a whole number of bytes. `KiB`, `MiB`, `GiB` and `TiB` are powers of 1024; `KB`, `MB`, `GB` and `TB`, and also `K`, `M`, `G` and `T`, are powers of 1000.
An old name of a setting still works, in files and in the environment, and writes a warning to the log; using both names is an error.

A secret can be in a file, which keeps it out of the configuration and the environment: set either the secret itself, or the setting that ends with `_file` to the path of that file.
Changes take effect at the next start, except for certificates, which are read again when their files change. The default – means that the setting is not set.
";

#[test]
fn the_reference_is_what_the_code_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let declared = declarations();
    let text = std::fs::read_to_string(root.join("config/config.yaml")).unwrap();
    let defaults: Value = serde_saphyr::from_str(&text).unwrap();
    let mut page = HEAD.to_owned();
    describe(&mut page, "", &declared["Config"], &declared, &defaults);
    assert!(page.matches("\n| `").count() > 120, "{page}");
    let file = root.join("docs/configuration.md");
    if std::env::var_os("OSPROXY_WRITE_REFERENCE").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let kept = std::fs::read_to_string(file).unwrap();
    assert!(kept == page, "docs/configuration.md is outdated; run `just reference`");
}
