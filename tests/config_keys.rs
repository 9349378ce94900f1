//! The JSON Schema of configurations as `preftune check --schema` prints it, and the table of keys that is made of it.
//! `PREFTUNE_WRITE=1 cargo test keys_table` writes the table anew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;
use preftune::config::{ConfigKind, json_schema};
use serde_json::{Map, Value, json};
use toml::Table;

use crate::command::Folder;

const KINDS: [&str; 7] = [
    "subject",
    "pairs",
    "text",
    "rounds",
    "image-rounds",
    "reward",
    "pretrain",
];

/// Between these two lines of `configs/README.md` stands the table.
const BEGIN: &str = "<!-- keys: made by `PREFTUNE_WRITE=1 cargo test keys_table` -->\n";
const END: &str = "<!-- end of keys -->\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn schema(kind: Option<&str>) -> Value {
    json_schema(kind.map(|name| ConfigKind::from_str(name, false).unwrap())).unwrap()
}

/// All configurations of `configs`, with the name of each.
fn configurations() -> Vec<(String, Value)> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in fs::read_dir(root().join("configs")).unwrap() {
        let folder = folder.unwrap().path();
        if folder.is_dir() {
            paths.extend(
                fs::read_dir(folder)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    let read = |path: PathBuf| {
        let table: Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        (
            path.display().to_string(),
            serde_json::to_value(table).unwrap(),
        )
    };
    paths.into_iter().map(read).collect()
}

/// The schema that a reference leads to.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let Some(path) = schema["$ref"].as_str() else {
        return schema;
    };
    let target = root.pointer(path.trim_start_matches('#'));
    resolve(
        target.unwrap_or_else(|| panic!("{path} leads nowhere")),
        root,
    )
}

/// Why a value does not satisfy a schema, by the words of draft 2020-12 that ours uses. Another word is a panic.
fn violation(value: &Value, schema: &Value, root: &Value, at: &str) -> Option<String> {
    let failed = |what: &str| Some(format!("{at}: {value} {what}"));
    let any = |choices: &Value| {
        let choices = choices.as_array().unwrap();
        choices
            .iter()
            .filter(|choice| violation(value, choice, root, at).is_none())
            .count()
    };
    for (word, argument) in schema.as_object().unwrap() {
        let problem = match word.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "format" => None,
            "$ref" => violation(value, resolve(schema, root), root, at),
            "type" => {
                let holds = match argument.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    other => panic!("{at}: type {other}"),
                };
                if holds {
                    None
                } else {
                    failed(&format!("is no {argument}"))
                }
            }
            "minimum" => match value.as_f64() {
                Some(number) if number < argument.as_f64().unwrap() => failed("is too small"),
                _ => None,
            },
            "const" if value == argument => None,
            "enum" if argument.as_array().unwrap().contains(value) => None,
            "const" | "enum" => failed(&format!("is not {argument}")),
            "anyOf" if any(argument) > 0 => None,
            "oneOf" if any(argument) == 1 => None,
            "anyOf" | "oneOf" => failed("fits no choice"),
            "required" => {
                let missing = |name: &&Value| value.get(name.as_str().unwrap()).is_none();
                let missing = argument.as_array().unwrap().iter().find(missing);
                missing.and_then(|name| failed(&format!("lacks {name}")))
            }
            "items" => {
                let mut items = value.as_array().into_iter().flatten();
                items.find_map(|item| violation(item, argument, root, at))
            }
            "properties" => value
                .as_object()
                .into_iter()
                .flatten()
                .find_map(|(key, value)| {
                    let schema = argument.get(key)?;
                    violation(value, schema, root, &format!("{at}.{key}"))
                }),
            // A section of names that the user chooses.
            "additionalProperties" if argument.is_object() => {
                let mut fields = value.as_object().into_iter().flatten();
                fields.find_map(|(key, value)| {
                    violation(value, argument, root, &format!("{at}.{key}"))
                })
            }
            "additionalProperties" => {
                assert_eq!(argument, false);
                let unknown = |key: &&String| schema["properties"].get(key.as_str()).is_none();
                let keys = value.as_object().map(Map::keys);
                let found = keys.into_iter().flatten().find(unknown);
                found.and_then(|key| failed(&format!("has the unknown key {key}")))
            }
            other => panic!("{at}: the word {other} is not known to this test"),
        };
        if problem.is_some() {
            return problem;
        }
    }
    None
}

fn holds(value: &Value, schema: &Value) -> Result<(), String> {
    violation(value, schema, schema, "").map_or(Ok(()), Err)
}

#[test]
fn check_prints_the_schema_of_all_kinds_or_of_one() {
    let folder = Folder::new();
    assert_eq!(
        folder.binary(&["check", "--schema"]).done().json(),
        schema(None)
    );
    let one = folder
        .binary(&["check", "--schema", "rounds"])
        .done()
        .json();
    assert_eq!(one, schema(Some("rounds")));
    folder
        .binary(&["check", "--schema", "round"])
        .refused("rounds");
    folder.binary(&["check"]).refused("<CONFIG>");
}

#[test]
fn every_configuration_satisfies_the_schema_and_that_of_one_kind() {
    let (all, kinds) = (schema(None), KINDS.map(|kind| schema(Some(kind))));
    let configurations = configurations();
    assert!(configurations.len() > 20);
    for (name, value) in &configurations {
        assert_eq!(holds(value, &all), Ok(()), "{name}");
        assert!(
            kinds.iter().any(|kind| holds(value, kind).is_ok()),
            "{name}"
        );
    }
}

#[test]
fn what_check_prints_satisfies_the_schema() {
    let all = schema(None);
    let folder = Folder::new();
    for (name, kind) in [
        ("image/quickstart.toml", "subject"),
        ("image/dpo_sd15_lora.toml", "pairs"),
        ("text/dpo.toml", "text"),
        ("text/dno_prct.toml", "rounds"),
        ("image/rounds.toml", "image-rounds"),
        ("reward/pal.toml", "reward"),
        ("world/unet.toml", "pretrain"),
    ] {
        let path = root().join("configs").join(name);
        let resolved = folder
            .binary(&["check", path.to_str().unwrap()])
            .done()
            .stdout;
        let resolved = serde_json::to_value(resolved.parse::<Table>().unwrap()).unwrap();
        assert_eq!(holds(&resolved, &all), Ok(()), "{name}");
        assert_eq!(holds(&resolved, &schema(Some(kind))), Ok(()), "{name}");
    }
}

#[test]
fn an_unknown_key_and_a_value_of_another_type_do_not_satisfy_the_schema() {
    let all = schema(None);
    for (name, value) in configurations() {
        for (section, key, wrong) in [
            ("train", "stepz", json!(3)),
            ("train", "steps", json!("three")),
            ("train", "steps", json!(-1)),
            ("train", "schedule", json!("sawtooth")),
            ("adapter", "targets", json!(3)),
        ] {
            let mut changed = value.clone();
            changed[section][key] = wrong;
            assert!(holds(&changed, &all).is_err(), "{name}: {section}.{key}");
        }
        let mut changed = value.clone();
        changed["trains"] = json!({});
        assert!(holds(&changed, &all).is_err(), "{name}");
    }
}

#[test]
fn the_schema_has_the_defaults_of_its_kind_of_run() {
    let rate = |kind| {
        schema(Some(kind))["$defs"]["TrainSection"]["properties"]["learning_rate"]["default"]
            .clone()
    };
    assert_eq!(rate("subject"), json!(1e-4));
    assert_eq!(rate("text"), json!(1e-5));
    assert_eq!(rate("pairs"), json!(1e-5));
}

/// A type in a few words.
fn type_words(schema: &Value, root: &Value) -> String {
    let schema = resolve(schema, root);
    let choices = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    if let Some(choices) = choices {
        let words: Vec<String> = choices
            .iter()
            .map(|choice| type_words(choice, root))
            .collect();
        return words.join(" or ");
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(values) = schema["enum"].as_array() {
        let words: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        return words.join(" or ");
    }
    match schema["type"].as_str().unwrap() {
        "array" => format!("list of {}", type_words(&schema["items"], root)),
        name => name.to_owned(),
    }
}

fn in_a_cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

/// The description of a key with those of its values.
fn description(schema: &Value, root: &Value) -> String {
    let mut text = schema["description"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let choices = resolve(schema, root)["oneOf"]
        .as_array()
        .into_iter()
        .flatten();
    for choice in choices {
        let (Some(value), Some(words)) = (choice["const"].as_str(), choice["description"].as_str())
        else {
            continue;
        };
        let _ = write!(text, " `{value}`: {words}");
    }
    in_a_cell(&text)
}

/// A section as one or several kinds of run have it.
struct Section {
    name: String,
    definition: Value,
    /// The kinds, each with its own schema.
    kinds: Vec<(&'static str, Value)>,
}

fn sections() -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for kind in KINDS {
        let root = schema(Some(kind));
        for (name, property) in root["properties"].as_object().unwrap() {
            let definition = property["$ref"].clone();
            let known = sections
                .iter_mut()
                .find(|section| section.name == *name && section.definition == definition);
            match known {
                Some(section) => section.kinds.push((kind, root.clone())),
                None => sections.push(Section {
                    name: name.clone(),
                    definition,
                    kinds: vec![(kind, root.clone())],
                }),
            }
        }
    }
    sections
}

/// The default, with the kinds that have another one than the first.
fn default(section: &Section, key: &str) -> String {
    let of = |root: &Value| {
        let schema = &resolve(&root["properties"][&section.name], root)["properties"][key];
        match schema.get("default") {
            None => String::new(),
            Some(value) if *value == json!("") => String::new(),
            Some(value) => format!("`{value}`"),
        }
    };
    let first = of(&section.kinds[0].1);
    let mut others: Vec<(String, Vec<&str>)> = Vec::new();
    for (kind, root) in &section.kinds {
        let value = of(root);
        match others.iter_mut().find(|(known, _)| *known == value) {
            _ if value == first => {}
            Some((_, kinds)) => kinds.push(kind),
            None => others.push((value, vec![kind])),
        }
    }
    let words = |(value, kinds): &(String, Vec<&str>)| format!("; {}: {value}", kinds.join(", "));
    let others: Vec<String> = others.iter().map(words).collect();
    in_a_cell(&(first + &others.concat()))
}

fn keys_table() -> String {
    let mut text = String::new();
    for section in sections() {
        let kinds: Vec<&str> = section.kinds.iter().map(|(kind, _)| *kind).collect();
        let kinds = if kinds == KINDS {
            "all kinds".to_owned()
        } else {
            kinds.join(", ")
        };
        let _ = write!(
            text,
            "\n### `[{}]` of {kinds}\n\n| key | type | default | |\n|---|---|---|---|\n",
            section.name
        );
        let root = &section.kinds[0].1;
        let keys = &resolve(&root["properties"][&section.name], root)["properties"];
        for (key, schema) in keys.as_object().unwrap() {
            let _ = writeln!(
                text,
                "| `{key}` | {} | {} | {} |",
                in_a_cell(&type_words(schema, root)),
                default(&section, key),
                description(schema, root)
            );
        }
    }
    text + "\n"
}

#[test]
fn keys_table_in_the_readme_of_configurations_is_fresh() {
    let path = root().join("configs/README.md");
    let text = fs::read_to_string(&path).unwrap();
    let begin = text.find(BEGIN).unwrap() + BEGIN.len();
    let end = text.find(END).unwrap();
    let fresh = keys_table();
    if std::env::var_os("PREFTUNE_WRITE").is_some() {
        fs::write(&path, [&text[..begin], &fresh, &text[end..]].concat()).unwrap();
    } else {
        let hint = "configs/README.md is not that of the structs: `PREFTUNE_WRITE=1 cargo test keys_table`";
        assert!(text[begin..end] == fresh, "{hint}");
    }
}

#[test]
fn the_small_world_of_a_configuration_is_found_from_any_folder() {
    let folder = Folder::new();
    let checked = folder
        .binary(&["check", "configs/image/quickstart.toml"])
        .done();
    let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/emoji-world");
    for place in [
        "",
        "/reward",
        "/prompts/train.txt",
        "/prompts/validation.txt",
    ] {
        let path = format!("{}{place}\"", world.display());
        assert!(checked.stdout.contains(&path), "{path}: {}", checked.stdout);
    }
    // A folder of that name where the program is run is the one that is meant.
    fs::create_dir_all(folder.path("assets/emoji-world")).unwrap();
    let checked = folder
        .binary(&["check", "configs/image/quickstart.toml"])
        .done();
    assert!(
        checked.stdout.contains("base = \"assets/emoji-world\""),
        "{}",
        checked.stdout
    );
}
