//! The variables that a row gives its chat template beside the messages.

use serde_json::{Map, Value};

use crate::data::columns::Columns;
use crate::data::left_out::shown;

type Variables = Map<String, Value>;

/// The column of all that a template reads by its own names, `tools` apart.
const MORE: &str = "chat_template_kwargs";

/// Variables that a template is given by other means.
const TAKEN: [&str; 3] = ["messages", "tools", "add_generation_prompt"];

/// `tools` and all that `chat_template_kwargs` names, by the names that templates read; both may be JSON in a string.
///
/// # Errors
/// A sentence on the column that is not of its kind.
pub(super) fn variables(columns: &Columns) -> Result<Variables, String> {
    let mut variables = match column(columns, MORE)? {
        None => Variables::new(),
        Some(Value::Object(more)) => more,
        Some(other) => return Err(format!("`{MORE}` is no object: {}", shown(&other))),
    };
    if let Some(name) = TAKEN.iter().find(|name| variables.contains_key(**name)) {
        return Err(format!(
            "`{MORE}` names `{name}`, which the template is given already"
        ));
    }
    match column(columns, "tools")? {
        None => {}
        Some(Value::Array(tools)) if tools.is_empty() => {}
        Some(Value::Array(tools)) if tools.iter().all(Value::is_object) => {
            variables.insert("tools".to_owned(), Value::Array(tools));
        }
        Some(other) => return Err(format!("`tools` is no list of objects: {}", shown(&other))),
    }
    Ok(variables)
}

/// Adds to a row that is written what a chat template was given beside its messages.
pub fn put_variables(row: &mut Value, variables: &Variables) {
    let mut variables = variables.clone();
    if let Some(tools) = variables.remove("tools") {
        row["tools"] = tools;
    }
    if !variables.is_empty() {
        row[MORE] = variables.into();
    }
}

/// The value of a column, parsed where it is text.
fn column(columns: &Columns, name: &str) -> Result<Option<Value>, String> {
    match columns.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map(Some)
            .map_err(|error| format!("`{name}` is text, but not JSON: {error}")),
        Some(value) => Ok(Some(value.clone())),
    }
}
