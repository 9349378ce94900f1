//! Tokens to a tree: Jinja2's statements, those of its extension for loops, and transformers' `generation`.

use std::sync::Arc;

use super::expressions::{Expressions, MOST_DEPTH};
use super::lexer::{Kind, tokenize};
use super::tree::{Body, Expr, ExprKind, For, Macro, Statement, StatementKind, Target, body_names};
use super::{Outcome, Problem};

/// Parses a template.
///
/// # Errors
/// It is not Jinja, or nested deeper than any chat template is.
pub(super) fn parse(source: &str) -> Outcome<Body> {
    let mut parser = Parser {
        read: Expressions::new(tokenize(source)?),
        nested: 0,
    };
    let body = parser.body(&[])?;
    Ok(body)
}

struct Parser {
    read: Expressions,
    nested: u32,
}

impl Parser {
    /// Statements up to a tag of these names, which is left to be read; without names, up to the end.
    fn body(&mut self, ends: &[&str]) -> Outcome<Body> {
        self.nested += 1;
        if self.nested > MOST_DEPTH {
            return Err(self
                .read
                .problem("blocks are nested deeper than preftune reads"));
        }
        let mut body = Vec::new();
        loop {
            let line = self.read.line();
            let kind = match self.read.next() {
                Kind::End if ends.is_empty() => break,
                Kind::End => {
                    let ends = ends.join("`, `");
                    return Err(self
                        .read
                        .problem(format!("the template ends before `{ends}`")));
                }
                Kind::Data(text) => StatementKind::Text(text),
                Kind::PrintBegin => {
                    let value = self.read.tuple(true, None)?;
                    self.read.expect_kind(&Kind::PrintEnd)?;
                    StatementKind::Print(value)
                }
                Kind::BlockBegin => {
                    if ends.iter().any(|end| self.read.is_name(end)) {
                        break;
                    }
                    let kind = self.statement(&mut body)?;
                    self.read.expect_kind(&Kind::BlockEnd)?;
                    match kind {
                        Some(kind) => kind,
                        None => continue,
                    }
                }
                other => return Err(self.read.unexpected(&other)),
            };
            body.push(Statement { line, kind });
        }
        self.nested -= 1;
        Ok(body)
    }

    /// The body of a block, behind the end of its first tag, up to a tag of these names.
    fn block(&mut self, ends: &[&str]) -> Outcome<Body> {
        self.read.skip(":");
        self.read.expect_kind(&Kind::BlockEnd)?;
        self.body(ends)
    }

    /// As [`Self::block`] with the one name, which is read too.
    fn whole_block(&mut self, end: &str) -> Outcome<Body> {
        let body = self.block(&[end])?;
        self.read.next();
        Ok(body)
    }

    /// A statement up to the end of its last tag; `print` may give several and puts them into `body`.
    fn statement(&mut self, body: &mut Body) -> Outcome<Option<StatementKind>> {
        let line = self.read.line();
        let name = self.read.name()?;
        let kind = match name.as_str() {
            "set" => self.set()?,
            "for" => self.for_loop()?,
            "if" => self.condition()?,
            "with" => self.with()?,
            "macro" => {
                let name = self.read.name()?;
                let (parameters, defaults) = self.parameters()?;
                let body = self.whole_block("endmacro")?;
                StatementKind::Macro(Arc::new(callable(name, parameters, defaults, body)))
            }
            "call" => {
                let (parameters, defaults) = if self.read.is("(") {
                    self.parameters()?
                } else {
                    (Vec::new(), Vec::new())
                };
                let call = self.read.expression()?;
                if !matches!(call.kind, ExprKind::Call(..)) {
                    return Err(self.read.problem("`call` takes a call"));
                }
                let body = self.whole_block("endcall")?;
                let body = callable("caller".to_owned(), parameters, defaults, body);
                StatementKind::Call(call, Arc::new(body))
            }
            "filter" => {
                let filter = self.read.filters(None, true)?;
                let body = self.whole_block("endfilter")?;
                match filter {
                    Some(filter) => StatementKind::Filter(filter, body),
                    None => return Err(self.read.problem("`filter` takes a filter")),
                }
            }
            "print" => {
                while !self.read.at_kind(&Kind::BlockEnd) {
                    if !body.is_empty() && self.read.is(",") {
                        self.read.next();
                    }
                    let value = self.read.expression()?;
                    let kind = StatementKind::Print(value);
                    body.push(Statement { line, kind });
                }
                return Ok(None);
            }
            "generation" => StatementKind::Scope(self.whole_block("endgeneration")?),
            "autoescape" => {
                self.read.expression()?;
                StatementKind::Scope(self.whole_block("endautoescape")?)
            }
            "block" => {
                let name = self.read.name()?;
                while self.read.is_name("scoped") || self.read.is_name("required") {
                    self.read.next();
                }
                let body = self.whole_block("endblock")?;
                if self.read.is_name(&name) {
                    self.read.next();
                }
                StatementKind::Scope(body)
            }
            "break" => StatementKind::Break,
            "continue" => StatementKind::Continue,
            "include" | "import" | "from" | "extends" => {
                while !self.read.at_kind(&Kind::BlockEnd) && !self.read.at_kind(&Kind::End) {
                    self.read.next();
                }
                StatementKind::Refuse(format!(
                    "`{name}` names another template; a chat template has none beside it"
                ))
            }
            other => {
                return Err(self.read.problem(format!("`{other}` is no statement here")));
            }
        };
        Ok(Some(kind))
    }

    fn set(&mut self) -> Outcome<StatementKind> {
        let target = self.target(true)?;
        if self.read.skip("=") {
            return Ok(StatementKind::Set(target, self.read.tuple(true, None)?));
        }
        let filter = self.read.filters(None, false)?;
        let body = self.whole_block("endset")?;
        Ok(StatementKind::SetBlock(target, filter, body))
    }

    fn for_loop(&mut self) -> Outcome<StatementKind> {
        let target = self.target(false)?;
        if !self.read.skip_name("in") {
            return Err(self.read.problem("`for` without `in`"));
        }
        let over = self.read.tuple(false, Some("recursive"))?;
        let only_if = if self.read.skip_name("if") {
            Some(self.read.expression()?)
        } else {
            None
        };
        let recursive = self.read.skip_name("recursive");
        let body = self.block(&["endfor", "else"])?;
        let otherwise = if self.read.skip_name("else") {
            self.whole_block("endfor")?
        } else {
            self.read.next();
            Vec::new()
        };
        Ok(StatementKind::For(Arc::new(For {
            target,
            over,
            only_if,
            recursive,
            body,
            otherwise,
        })))
    }

    fn condition(&mut self) -> Outcome<StatementKind> {
        let mut cases = Vec::new();
        loop {
            let test = self.read.tuple(false, None)?;
            let body = self.block(&["elif", "else", "endif"])?;
            cases.push((test, body));
            if self.read.skip_name("elif") {
                continue;
            }
            let otherwise = if self.read.skip_name("else") {
                self.whole_block("endif")?
            } else {
                self.read.next();
                Vec::new()
            };
            return Ok(StatementKind::If(cases, otherwise));
        }
    }

    fn with(&mut self) -> Outcome<StatementKind> {
        let mut values = Vec::new();
        while !self.read.at_kind(&Kind::BlockEnd) {
            if !values.is_empty() {
                self.read.expect(",")?;
            }
            let target = self.target(false)?;
            self.read.expect("=")?;
            values.push((target, self.read.expression()?));
        }
        let body = self.whole_block("endwith")?;
        Ok(StatementKind::With(values, body))
    }

    /// Names in brackets, and the values of the last ones.
    fn parameters(&mut self) -> Outcome<(Vec<String>, Vec<Expr>)> {
        let (mut names, mut defaults) = (Vec::new(), Vec::new());
        self.read.expect("(")?;
        while !self.read.is(")") {
            if !names.is_empty() {
                self.read.expect(",")?;
            }
            names.push(self.read.name()?);
            if self.read.skip("=") {
                defaults.push(self.read.expression()?);
            } else if !defaults.is_empty() {
                let message = "a parameter without a default follows one with a default";
                return Err(self.read.problem(message));
            }
        }
        self.read.next();
        Ok((names, defaults))
    }

    /// One name or several; `attributes` allows those of namespaces.
    fn target(&mut self, attributes: bool) -> Outcome<Target> {
        let first = self.one_target(attributes)?;
        if !self.read.is(",") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.read.skip(",") {
            if self.read.is_name("in") || self.read.is("=") || self.read.at_kind(&Kind::BlockEnd) {
                break;
            }
            all.push(self.one_target(attributes)?);
        }
        Ok(Target::Tuple(all))
    }

    fn one_target(&mut self, attributes: bool) -> Outcome<Target> {
        self.nested += 1;
        if self.nested > MOST_DEPTH {
            return Err(self
                .read
                .problem("names are nested deeper than preftune reads"));
        }
        let target = if self.read.skip("(") {
            let target = self.target(attributes)?;
            self.read.expect(")")?;
            target
        } else {
            let name = self.read.name()?;
            if ["true", "false", "True", "False", "none", "None"].contains(&name.as_str()) {
                return Err(self
                    .read
                    .problem(format!("nothing can be put into `{name}`")));
            }
            if attributes && self.read.skip(".") {
                Target::Attribute(name, self.read.name()?)
            } else {
                Target::Name(name)
            }
        };
        self.nested -= 1;
        Ok(target)
    }
}

fn callable(name: String, parameters: Vec<String>, defaults: Vec<Expr>, body: Body) -> Macro {
    let takes = ["varargs", "kwargs", "caller"]
        .map(|name| body_names(&body, name) && !parameters.iter().any(|one| one == name));
    Macro {
        name,
        parameters,
        defaults,
        body,
        takes,
    }
}

impl Expressions {
    /// A fault at the place that is read.
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            line: Some(self.line()),
            message: message.into(),
        }
    }
}
