//! The JSON Schema of configurations: keys, types, defaults and descriptions come from the structs and their doc comments.

use clap::ValueEnum as _;
use schemars::{JsonSchema, schema_for};
use serde_json::{Map, Value as Json, json};
use toml::Table;

use super::{
    ConfigKind, ImageRoundsConfig, PairsConfig, PretrainConfig, RewardConfig, RoundsConfig,
    RunConfig, SubjectConfig, TextConfig, to_table,
};
use crate::error::Result;

/// The JSON Schema (draft 2020-12) of the configurations of one kind of run, or of all kinds.
///
/// # Errors
/// A default that TOML cannot hold.
pub fn json_schema(kind: Option<ConfigKind>) -> Result<Json> {
    if let Some(kind) = kind {
        return of_kind(kind);
    }
    let mut kinds = Map::new();
    for &kind in ConfigKind::value_variants() {
        let name = word(kind);
        let mut schema = of_kind(kind)?;
        move_definitions(&mut schema, &format!("#/$defs/{name}/$defs/"));
        let root = schema.as_object_mut().expect("a schema is an object");
        root.remove("$schema");
        let section = ConfigKind::SECTIONS.iter().find(|(_, of)| *of == kind);
        if let Some((section, _)) = section {
            root.insert("required".to_owned(), json!([section]));
        }
        kinds.insert(name, schema);
    }
    let any: Vec<Json> = kinds
        .keys()
        .map(|name| json!({ "$ref": format!("#/$defs/{name}") }))
        .collect();
    Ok(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of preftune",
        "anyOf": any,
        "$defs": kinds,
    }))
}

/// A kind in a word, as the command line has it.
fn word(kind: ConfigKind) -> String {
    let value = kind.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

fn of_kind(kind: ConfigKind) -> Result<Json> {
    let mut schema = match kind {
        ConfigKind::Subject => schema::<SubjectConfig>(),
        ConfigKind::Pairs => schema::<PairsConfig>(),
        ConfigKind::Text => schema::<TextConfig>(),
        ConfigKind::Rounds => schema::<RoundsConfig>(),
        ConfigKind::ImageRounds => schema::<ImageRoundsConfig>(),
        ConfigKind::Reward => schema::<RewardConfig>(),
        ConfigKind::Pretrain => schema::<PretrainConfig>(),
    }?;
    schema["title"] = json!(format!("Configuration of preftune: {}", word(kind)));
    Ok(schema)
}

/// The schema of one configuration, closed to unknown keys, with the defaults that an empty configuration is given.
fn schema<C: RunConfig + JsonSchema>() -> Result<Json> {
    let mut schema = schema_for!(C).to_value();
    for_toml(&mut schema);
    // What is set for this kind of run alone, as its learning rate is, is not in the section's own defaults.
    let defaults = to_table(&C::from_sections(&Table::new(), &mut Vec::new()))?;
    let sections = schema["properties"].clone();
    for (name, section) in sections.as_object().into_iter().flatten() {
        let definition = section["$ref"]
            .as_str()
            .and_then(|path| path.rsplit('/').next());
        let Some(definition) = definition else {
            continue;
        };
        let keys = schema["$defs"][definition]["properties"].as_object_mut();
        for (key, schema) in keys.into_iter().flatten() {
            let default = defaults.get(name).and_then(|section| section.get(key));
            if let (Some(default), Some(schema)) = (default, schema.as_object_mut()) {
                schema.insert("default".to_owned(), json!(default));
            }
        }
    }
    Ok(schema)
}

/// Closes objects to unknown keys, and leaves out what TOML has no word for: null.
fn for_toml(schema: &mut Json) {
    match schema {
        Json::Array(schemas) => schemas.iter_mut().for_each(for_toml),
        Json::Object(object) => {
            let null = json!({ "type": "null" });
            if object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), json!(false));
            }
            if object
                .get("default")
                .is_some_and(|value| value.is_null() || value.is_object())
            {
                object.remove("default");
            }
            if let Some(Json::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Json::Array(choices)) = object.get_mut("anyOf") {
                choices.retain(|choice| *choice != null);
                if let [Json::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
            object.values_mut().for_each(for_toml);
        }
        _ => {}
    }
}

/// Has references to definitions lead to another place.
fn move_definitions(schema: &mut Json, to: &str) {
    match schema {
        Json::Array(schemas) => schemas
            .iter_mut()
            .for_each(|schema| move_definitions(schema, to)),
        Json::Object(object) => {
            for (key, value) in object {
                match value {
                    Json::String(path) if key == "$ref" => *path = path.replace("#/$defs/", to),
                    _ => move_definitions(value, to),
                }
            }
        }
        _ => {}
    }
}
