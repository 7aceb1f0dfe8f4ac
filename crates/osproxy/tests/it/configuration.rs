//! `docs/configuration.md` is made of the code: meanings are the comments of `src/config`, defaults those of `config/config.yaml`,
//! which a unit test holds against the program's own.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use serde_json::Value;

/// A setting, as a section has it.
struct Setting {
    name: String,
    kind: String,
    meaning: String,
}

/// What a macro of `src/config/value.rs` declares: a section, or one of a few words.
struct Declared {
    meaning: String,
    /// Settings of a section; of a choice its words, which have no kind.
    members: Vec<Setting>,
    /// Keys of the Go program that mean nothing here.
    ignored: Vec<String>,
}

/// What all files of `src/config` declare, by the names of the types.
fn declared() -> BTreeMap<String, Declared> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for start in ["\nsection! {\n", "\nchoice! {\n"] {
            for rest in text.split(start).skip(1) {
                let (body, _) = rest.split_once("\n}\n").unwrap();
                let (name, declared) = read(body);
                assert!(found.insert(name, declared).is_none());
            }
        }
    }
    found
}

/// Reads what stands in the braces of a macro. A line that is none of those it knows is an error.
fn read(body: &str) -> (String, Declared) {
    let mut name = String::new();
    let mut declared = Declared { meaning: String::new(), members: Vec::new(), ignored: Vec::new() };
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
            let line = line.strip_suffix(',').unwrap_or_else(|| panic!("what is {line}?"));
            let (left, right) = line.split_once(" = ").unwrap();
            let (name, kind) = match left.split_once(": ") {
                Some((name, kind)) => (name.to_owned(), kind.to_owned()),
                None => (right.trim_matches('"').to_owned(), String::new()),
            };
            declared.members.push(Setting { name, kind, meaning: std::mem::take(&mut comment) });
        }
    }
    (name, declared)
}

/// What a value is, in words.
fn kind_in_words(kind: &str, declared: &BTreeMap<String, Declared>) -> String {
    let within = |outer: &str| kind.strip_prefix(outer)?.strip_suffix('>');
    if let Some(inner) = within("Option<") {
        return kind_in_words(inner, declared);
    }
    if let Some(inner) = within("Vec<") {
        return format!("list: {}", kind_in_words(inner, declared));
    }
    match kind {
        "bool" => "`true` or `false`".to_owned(),
        "u16" | "u32" | "u64" | "Port" => "whole number".to_owned(),
        "String" => "text".to_owned(),
        "Secret" => "text, never shown".to_owned(),
        "PathBuf" => "path".to_owned(),
        "IpNet" => "network".to_owned(),
        "LinkKeySection" => "sections, see below".to_owned(),
        choice => {
            let declared = declared.get(choice).unwrap_or_else(|| panic!("what is a {choice}?"));
            let words = declared.members.iter().map(|word| format!("`{}`", word.name));
            words.collect::<Vec<_>>().join(", ")
        }
    }
}

/// The unit that a meaning names.
fn unit(meaning: &str) -> &'static str {
    let units = [("in bytes per second", ", B/s"), ("in seconds", ", seconds"), ("in bytes", ", bytes")];
    units.iter().find(|(words, _)| meaning.contains(words)).map_or("", |(_, unit)| unit)
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

/// A meaning, with its words if it is one of a few, and its danger set apart.
fn meaning_in_words(setting: &Setting, declared: &BTreeMap<String, Declared>) -> String {
    let mut text = setting.meaning.trim().replace("Danger:", "**Danger:**");
    let kind = setting.kind.trim_start_matches("Option<").trim_end_matches('>');
    for word in declared.get(kind).iter().flat_map(|choice| &choice.members) {
        write!(text, "<br>`{}`: {}", word.name, word.meaning.trim()).unwrap();
    }
    text
}

/// A table of settings, and one for each section among them.
fn describe(
    page: &mut String,
    path: &str,
    section: &Declared,
    declared: &BTreeMap<String, Declared>,
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
        let (kind, unit) = (kind_in_words(&setting.kind, declared), unit(&setting.meaning));
        let default = default_in_words(&defaults[&setting.name]);
        let meaning = meaning_in_words(setting, declared);
        writeln!(page, "| `{full}`{variable} | {kind}{unit} | {default} | {meaning} |").unwrap();
    }
    if !section.ignored.is_empty() {
        let keys: Vec<_> = section.ignored.iter().map(|key| format!("`{key}`")).collect();
        writeln!(page, "\nOf the Go program, accepted without an effect: {}.", keys.join(", ")).unwrap();
    }
    let list = section.members.iter().find(|setting| setting.kind == "Vec<LinkKeySection>");
    for setting in section.members.iter().filter(is_section).chain(list) {
        let full = if list.is_some() { format!("{}[]", join(&setting.name)) } else { join(&setting.name) };
        let kind = setting.kind.trim_start_matches("Vec<").trim_end_matches('>');
        let inner = &declared[kind];
        let meaning = match inner.meaning.trim().strip_prefix(&format!("`{full}`: ")) {
            Some(own) => own.to_owned(),
            None if list.is_some() => inner.meaning.trim().to_owned(),
            None => setting.meaning.trim().to_owned(),
        };
        let capital = meaning[..1].to_uppercase() + &meaning[1..];
        let level = if path.is_empty() { "##" } else { "###" };
        writeln!(page, "\n{level} {full}\n\n{capital}").unwrap();
        describe(page, &full, inner, declared, &defaults[&setting.name]);
    }
}

const HEAD: &str = "# Configuration

This page is made of the code by `just reference`; a test holds it against it.

No configuration is a valid one. Settings come from, in this order, the later ones winning: the defaults below; a YAML file, `--config FILE` or
the one that `OSPROXY_CONFIG` names; the environment, in the variables that are named here; the flags `--listen` (`server.listen`) and `--data-dir` (`data_dir`). Lists stand in files only.
Keys that are not known are errors. `osproxy check-config --config FILE` says everything that is wrong with a file, and does nothing else;
[config/config.yaml](../config/config.yaml) has all settings with their defaults. Numbers of bytes and seconds are whole numbers without a unit.

What ends with `_file` names a file that holds a secret, so that it stands neither in the configuration nor in the environment: give one of the two.
A change counts from the next start on, but for certificates, which are read again when their files change. A default of – means that it is not set.
";

#[test]
fn the_reference_is_what_the_code_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let declared = declared();
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
    assert!(kept == page, "docs/configuration.md is old: just reference");
}
