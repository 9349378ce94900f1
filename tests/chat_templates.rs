//! Chat templates: rendered as transformers renders them, and refused within bounds where they are hostile.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use preftune::error::{Error, Result};
use preftune::models::lm::chat::ChatTemplate;
use serde_json::{Map, Value, json};

use crate::support::golden;

fn template(source: &str, tokens: &Value) -> Result<ChatTemplate> {
    let tokens = tokens.as_object().cloned().unwrap_or_default();
    ChatTemplate::new(Path::new("chat_template.jinja"), source.to_owned(), tokens)
}

fn render(source: &str) -> Result<String> {
    let messages = [json!({"role": "user", "content": "Hi"})];
    template(source, &Value::Null)?.render(&messages, &Map::new(), false)
}

/// Cases of a file that `tests/golden/templates.py` or `tests/python/chat_templates.py` wrote, with what became of them.
fn rendered(file: &Path) -> Vec<(Value, Result<String>)> {
    let text = fs::read_to_string(file).unwrap();
    let mut all: Value = serde_json::from_str(&text).unwrap();
    let (names, tokens) = (all["names"].take(), all["tokens"].take());
    let Value::Array(cases) = all["cases"].take() else {
        panic!("no cases in {}", file.display());
    };
    let cases = cases.into_iter().map(|case| {
        let messages = case["messages"].as_array().unwrap();
        let variables = case.get("variables").unwrap_or(&names).as_object().unwrap();
        let opened = case["opened"].as_bool().unwrap();
        let rendered = template(case["template"].as_str().unwrap(), &tokens)
            .and_then(|template| template.render(messages, variables, opened));
        (case, rendered)
    });
    cases.collect()
}

fn faults(cases: &[(Value, Result<String>)]) -> Vec<String> {
    let wrong = cases.iter().filter_map(|(case, rendered)| {
        let expected = case["rendered"].as_str()?;
        let name = &case["name"];
        match rendered {
            Ok(text) if text == expected => None,
            Ok(text) => Some(format!(
                "{name}\n  expected {expected:?}\n  rendered {text:?}"
            )),
            Err(error) => Some(format!(
                "{name}\n  expected {expected:?}\n  refused  {error}"
            )),
        }
    });
    wrong.collect()
}

#[test]
fn chat_templates_render_as_jinja2_renders_them_under_transformers() {
    let cases = rendered(&golden("templates/renderings.json"));
    let wrong = faults(&cases);
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    assert!(cases.len() > 700, "{}", cases.len());
}

/// For `tests/python/chat_templates.py`, which renders the templates that an installed TRL ships and names the file.
#[test]
#[ignore = "needs the file that PREFTUNE_RENDERINGS names"]
fn renderings_of_a_file() {
    let file = PathBuf::from(std::env::var_os("PREFTUNE_RENDERINGS").unwrap());
    let cases = rendered(&file);
    let wrong = faults(&cases);
    let expected = cases
        .iter()
        .filter(|(case, _)| case["rendered"].is_string());
    let expected = expected.count();
    let refused = cases.len() - expected;
    let too = cases.iter();
    let too = too.filter(|(case, rendered)| case["rendered"].is_null() && rendered.is_err());
    println!("{}", wrong.join("\n"));
    println!(
        "{} of {expected} renderings equal; transformers refuses {refused} more, preftune {} of them",
        expected - wrong.len(),
        too.count()
    );
    assert!(wrong.is_empty());
}

/// Templates that must end soon, with an error that names their file.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn hostile() -> Vec<String> {
    let many = |one: &str| one.repeat(50_000);
    let mut all: Vec<String> = [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=['ab']) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=['ab']) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[]) %}{% for i in range(99999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='a' * 9999) %}{% for i in range(99) %}{% set ns.s = ns.s.replace('a', 'aa' * 99) %}{% endfor %}",
        "{% set ns = namespace(s='a' * 9999) %}{% for i in range(99) %}{% set ns.s = ns.s|replace('a', 'aa' * 99) %}{% endfor %}",
        "{% set ns = namespace(s='a' * 9999) %}{% for i in range(99) %}{% set ns.s = ns.s|list|join(ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='a' * 9999) %}{% for i in range(99) %}{% set ns.s = ns.s.join(ns.s|list) %}{% endfor %}",
        "{% set ns = namespace(s='&' * 9999) %}{% for i in range(99) %}{% set ns.s = ns.s|forceescape %}{% endfor %}",
        "{% set ns = namespace(s='\"' * 9999) %}{% for i in range(99) %}{% set ns.s = ns.s|tojson %}{% endfor %}",
        "{{ messages|tojson(indent=100000000000) }}",
        "{{ 'a\nb'|indent(1000000000000) }}",
        "{{ '%1000000000000d'|format(5) }}",
        "{{ '%*d'|format(1000000000000, 5) }}",
        "{{ '%.1000000000000f'|format(5) }}",
        "{{ '{:>1000000000000}'.format(5) }}",
        "{{ '{:{}}'.format(5, 1000000000000) }}",
        "{{ '{:.1000000000000f}'.format(5.0) }}",
        "{{ [1]|batch(100000000000, 'x')|list }}",
        "{{ [1]|slice(100000000000)|list }}",
        "{{ [1, 2] * 1000000000 }}",
        "{{ (1, 2) * 100000000000000000000 }}",
        "{{ 'ab' * 1000000000000 }}",
        "{{ 'ab'.center(1000000000000) }}",
        "{{ 'ab'|center(1000000000000) }}",
        "{{ 'ab'.zfill(1000000000000) }}",
        "{{ 'ab'.ljust(1000000000000) }}",
        "{{ 10 ** 1000000000000 }}",
        "{{ range(1000000000000)|list }}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns.a|string }}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns|tojson }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(x) %}{{ m([x]) }}{% endmacro %}{{ m(1) }}",
        "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
        "{% for x in [1] %}{{ loop.cycle() }}{% endfor %}",
        "{% for x in [1] %}{{ loop([1]) }}{% endfor %}",
        "{{ 1 // 0 }}",
        "{{ 1.5 % 0 }}",
        "{{ -170141183460469231731687303715884105728 // -1 }}",
        "{{ (-170141183460469231731687303715884105727 - 1)|abs }}",
        "{{ -(-170141183460469231731687303715884105727 - 1) }}",
        "{{ [1, 'a', none]|sort }}",
        "{{ messages[0][:] }}{{ messages['a']['b'] }}",
        "{{ 'x'[::0] }}",
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% import 'x' as y %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 'a'.split('') }}",
        "{{ cycler() }}",
        "{{ 'x'|nothing }}",
        "{{ 'x' is nothing }}",
        "{{ '{0.__class__.__init__}'.format('x') }}{{ missing.x }}",
        "{{ '{'.format(1) }}",
        "{{ '%(a' % {} }}",
        "{{ '%' % 1 }}",
        "{{ range(1, 2, 0) }}",
        "{{ dict([1]) }}",
        "{{ 'x'|truncate(1) }}",
        "{{ 'x'|wordwrap(0) }}",
        "{{ {[]: 1} }}",
        "{{ '\\xZZ' }}",
        "{{ 'unfinished }}",
        "{# unfinished",
        "{% raw %} unfinished",
        "{% if true %}",
        "{{ 99999999999999999999999999999999999999999999999 }}",
        "{{ 0x }}",
        "{{ strftime_now() }}",
    ]
    .map(str::to_owned)
    .to_vec();
    for (before, one, after) in [
        ("{{ 1", "+1", " }}"),
        ("{{ 'a'", "~'a'|string|string", " }}{{ missing.x }}"),
        ("{{ 1", " and 1", " }}"),
        ("{{ 1", " or 1", " }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ ", "-", "1 }}"),
        ("{{ 1", "**1", " }}"),
        ("{{ 'a'", "|string", " }}"),
        ("{{ messages", ".a", " }}"),
        ("{{ messages", "[0]", " }}"),
        ("{{ messages", "()", " }}"),
        ("{{ ", "(", "1 }}"),
        ("{{ ", "[", " }}"),
        ("{{ ", "{1:", " }}"),
        ("{{ 1", " if 1 else 1", " }}"),
        ("{{ 1", " is odd is odd", " }}"),
        ("{{ 'a'", "[:'a'", " }}"),
        ("", "{% if true %}", ""),
        ("", "{% for x in [1] %}", ""),
        ("", "{% macro m() %}", ""),
        ("{% set ", "(", "a = 1 %}"),
    ] {
        all.push(format!("{before}{}{after}", many(one)));
    }
    all
}

#[test]
fn hostile_templates_end_soon_with_an_error_that_names_the_file() {
    for source in hostile() {
        let shown: String = source.chars().take(100).collect();
        let begun = Instant::now();
        let error = render(&source).expect_err(&shown);
        let took = begun.elapsed();
        println!("{took:?} {shown}: {error}");
        let text = error.to_string();
        assert!(text.contains("chat_template.jinja"), "{shown}: {text}");
        assert!(text.contains("line "), "{shown}: {text}");
        assert!(text.len() < 400, "{shown}: {text}");
        assert_eq!(error.exit_code(), 2, "{shown}: {text}");
        assert!(took < Duration::from_secs(60), "{shown}: {took:?}");
    }
}

#[test]
fn a_long_chat_is_no_hostile_one() {
    let long = "A sentence that is said again and again. ".repeat(500);
    let messages: Vec<Value> = (0..2000)
        .map(|at| json!({"role": if at % 2 == 0 { "user" } else { "assistant" }, "content": long}))
        .collect();
    let source = "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text[-1000:] ~ m.role %}\
                  {{ m.content | trim }}{% if loop.nextitem is defined %}{{ loop.nextitem.role }}{% endif %}{% endfor %}";
    let template = template(source, &Value::Null).unwrap();
    let text = template.render(&messages, &Map::new(), false).unwrap();
    assert!(text.len() > 40_000_000, "{}", text.len());
}

#[test]
fn a_message_of_a_template_is_shown_in_one_line_without_control_characters() {
    let error = render("{{ raise_exception('a\\x1b]0;title\\x07\\x1b[2J\\nb') }}").unwrap_err();
    let text = error.to_string();
    assert!(
        !text.contains('\u{1b}') && !text.contains('\u{7}'),
        "{text:?}"
    );
    assert!(text.contains("\\u{1b}]0;title"), "{text:?}");
}

#[test]
fn tools_have_the_template_that_is_theirs() {
    let settings = json!({"chat_template": [
        {"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with {{ tools|length }}"},
    ]});
    let chat = ChatTemplate::read(
        Path::new("tokenizer_config.json"),
        settings.as_object().unwrap(),
    );
    let chat = chat.unwrap().unwrap();
    let tools = json!({"tools": [{"name": "clock"}]});
    let tools = tools.as_object().unwrap();
    assert_eq!(chat.render(&[], tools, false).unwrap(), "with 1");
    assert_eq!(chat.render(&[], &Map::new(), false).unwrap(), "plain");
}

#[test]
fn what_is_null_in_a_message_is_not_there_and_reasoning_has_one_name() {
    let source = "{% for m in messages %}{{ m.content is defined }} {{ m.reasoning_content }} {{ m.thinking }};{% endfor %}";
    let messages = [
        json!({"role": "assistant", "content": null, "reasoning": "so"}),
        json!({"role": "assistant", "content": "x"}),
    ];
    let text = template(source, &Value::Null)
        .unwrap()
        .render(&messages, &Map::new(), false);
    assert_eq!(text.unwrap(), "False so so;True  ;");
}

#[test]
fn the_error_is_of_the_users_input() {
    let error: Error = render("{{ missing.x }}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "`chat_template.jinja`: the chat template, line 1: 'missing' is undefined"
    );
}
