//! Node graphs of ComfyUI as its images carry them: what the sampler was told to draw. Format: the API form of a
//! workflow, `{"id": {"class_type": "...", "inputs": {"name": value or ["id", output]}}}`.

use serde_json::{Map, Value};

/// Nodes by their ids.
pub(super) type Nodes = Map<String, Value>;

/// Links that are followed at most, as a graph may run in a circle.
const DEPTH: usize = 32;
/// Inputs of a text encoding node that hold its text; SDXL and Flux have two.
const TEXTS: [&str; 6] = ["text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl"];
/// Inputs under which nodes of plain text hold it.
const LITERALS: [&str; 5] = ["text", "string", "String", "value", "prompt"];
/// Nodes that pass on what they are given as `conditioning` with its text.
const PASSING: [&str; 3] = ["ControlNetApply", "FluxGuidance", "BasicGuider"];

/// The graph that a text holds; `None` of any other text.
pub(super) fn parse(text: &str) -> Option<Nodes> {
    let text = text.trim();
    if !text.starts_with('{') {
        return None;
    }
    let nodes: Nodes = serde_json::from_str(&without_nan(text)).ok()?;
    let is_node = |node: &Value| node.get("class_type").is_some_and(Value::is_string);
    (!nodes.is_empty() && nodes.values().all(is_node)).then_some(nodes)
}

/// Python writes NaN where JSON has no word for it; ComfyUI marks changed nodes by it.
fn without_nan(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        if !quoted && rest.starts_with("NaN") {
            out.push_str("null");
            rest = &rest["NaN".len()..];
            continue;
        }
        if escaped {
            escaped = false;
        } else if quoted && letter == '\\' {
            escaped = true;
        } else if letter == '"' {
            quoted = !quoted;
        }
        out.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    out
}

/// The text that all samplers of a graph were given as what to draw.
///
/// # Errors
/// Why there is none that is sure.
pub(super) fn positive_text(nodes: &Nodes) -> Result<String, String> {
    let mut found: Option<String> = None;
    for node in nodes.values() {
        let Some(link) = drawn_from(node) else {
            continue;
        };
        let text = conditioning(nodes, link, DEPTH)?;
        match &found {
            Some(other) if *other != text => {
                return Err("its samplers draw different texts".to_owned());
            }
            _ => found = Some(text),
        }
    }
    match found {
        Some(text) if text.trim().is_empty() => Err("its positive prompt is empty".to_owned()),
        Some(text) => Ok(text),
        None => Err("it has no sampler with a positive prompt".to_owned()),
    }
}

fn input<'a>(node: &'a Value, name: &str) -> Option<&'a Value> {
    node.get("inputs")?.get(name)
}

fn class(node: &Value) -> &str {
    node["class_type"].as_str().unwrap_or_default()
}

/// The link by which a sampler gets what it is to draw; `None` of other nodes.
fn drawn_from(node: &Value) -> Option<&Value> {
    let positive = input(node, "positive").filter(|value| value.is_array());
    let samples = class(node).contains("Sampler") || input(node, "latent_image").is_some();
    match positive {
        Some(link) if samples => Some(link),
        _ => input(node, "guider").filter(|value| value.is_array()),
    }
}

/// The node at the other end of a link, and which of its outputs.
fn follow<'a>(nodes: &'a Nodes, link: &Value, depth: usize) -> Result<(&'a Value, u64), String> {
    let output = link.get(1).and_then(Value::as_u64).unwrap_or_default();
    let id = match link.get(0) {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => return Err("a link in it names no node".to_owned()),
    };
    match nodes.get(&id) {
        Some(node) if depth > 0 => Ok((node, output)),
        Some(_) => Err("its links do not end".to_owned()),
        None => Err(format!("it has no node `{id}`")),
    }
}

/// The text that a conditioning was made from.
fn conditioning(nodes: &Nodes, link: &Value, depth: usize) -> Result<String, String> {
    let (node, output) = follow(nodes, link, depth)?;
    let depth = depth - 1;
    let class = class(node);
    if class.starts_with("CLIPTextEncode") {
        let mut texts = Vec::new();
        for value in TEXTS.iter().filter_map(|name| input(node, name)) {
            texts.push(text(nodes, value, depth)?);
        }
        texts.dedup();
        return match <[String; 1]>::try_from(texts) {
            Ok([text]) => Ok(text),
            Err(_) => Err(format!("its node `{class}` has no text, or several")),
        };
    }
    // What changes both conditionings gives them out in this order.
    if let (Some(positive), Some(negative)) = (input(node, "positive"), input(node, "negative")) {
        let link = if output == 0 { positive } else { negative };
        return conditioning(nodes, link, depth);
    }
    match input(node, "conditioning") {
        Some(link) if PASSING.contains(&class) => conditioning(nodes, link, depth),
        _ => Err(format!("its prompt comes out of a node `{class}`")),
    }
}

/// A text as it is written, or that of the node that it is linked to.
fn text(nodes: &Nodes, value: &Value, depth: usize) -> Result<String, String> {
    if let Value::String(text) = value {
        return Ok(text.clone());
    }
    let (node, _) = follow(nodes, value, depth)?;
    let inputs: Vec<(&String, &Value)> = node
        .get("inputs")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .collect();
    let mut texts = inputs.iter().filter(|(_, value)| value.is_string());
    let linked = inputs.iter().any(|(_, value)| value.is_array());
    match (texts.next(), texts.next(), linked) {
        (Some((name, Value::String(text))), None, false) if LITERALS.contains(&name.as_str()) => {
            Ok(text.clone())
        }
        _ => Err(format!("its text comes out of a node `{}`", class(node))),
    }
}
