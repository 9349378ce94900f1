//! Tokens to expressions, with Jinja2's precedences.

use super::lexer::{Kind, Token};
use super::tree::{Arguments, Comparison, Expr, ExprKind, Literal, Operator};
use super::{Outcome, Problem};

/// Deepest nesting of expressions and of blocks. Python's own limit lets fewer through.
pub(super) const MOST_DEPTH: u32 = 500;

/// Reads tokens from the first to the last.
pub(super) struct Expressions {
    tokens: Vec<Token>,
    at: usize,
    nested: u32,
}

impl Expressions {
    pub(super) fn new(tokens: Vec<Token>) -> Self {
        Self {
            tokens,
            at: 0,
            nested: 0,
        }
    }

    fn kind(&self, ahead: usize) -> &Kind {
        let last = self.tokens.len() - 1;
        &self.tokens[(self.at + ahead).min(last)].kind
    }

    /// Line of the next token.
    pub(super) fn line(&self) -> u32 {
        self.tokens[self.at.min(self.tokens.len() - 1)].line
    }

    /// The next token, which is read.
    pub(super) fn next(&mut self) -> Kind {
        let kind = self.kind(0).clone();
        self.at += 1;
        kind
    }

    pub(super) fn at_kind(&self, kind: &Kind) -> bool {
        self.kind(0) == kind
    }

    pub(super) fn is(&self, operator: &str) -> bool {
        matches!(self.kind(0), Kind::Operator(one) if *one == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        self.is_name_ahead(0, name)
    }

    fn is_name_ahead(&self, ahead: usize, name: &str) -> bool {
        matches!(self.kind(ahead), Kind::Name(one) if one == name)
    }

    /// Reads an operator where it is there.
    pub(super) fn skip(&mut self, operator: &str) -> bool {
        let there = self.is(operator);
        self.at += usize::from(there);
        there
    }

    /// Reads a name where it is there.
    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let there = self.is_name(name);
        self.at += usize::from(there);
        there
    }

    pub(super) fn expect(&mut self, operator: &str) -> Outcome<()> {
        if self.skip(operator) {
            return Ok(());
        }
        let found = describe(self.kind(0));
        Err(self.problem(format!("`{operator}` is missing before {found}")))
    }

    pub(super) fn expect_kind(&mut self, kind: &Kind) -> Outcome<()> {
        if self.at_kind(kind) {
            self.at += 1;
            return Ok(());
        }
        let found = self.kind(0).clone();
        Err(self.unexpected(&found))
    }

    pub(super) fn name(&mut self) -> Outcome<String> {
        match self.kind(0).clone() {
            Kind::Name(name) => {
                self.at += 1;
                Ok(name)
            }
            other => Err(self.problem(format!("a name is missing before {}", describe(&other)))),
        }
    }

    pub(super) fn unexpected(&self, kind: &Kind) -> Problem {
        self.problem(format!("an unexpected {}", describe(kind)))
    }

    fn made(&self, line: u32, kind: ExprKind) -> Outcome<Expr> {
        let made = Expr::new(line, kind);
        if made.depth > MOST_DEPTH {
            return Err(self.problem(format!(
                "an expression of more than {MOST_DEPTH} terms in each other"
            )));
        }
        Ok(made)
    }

    /// Values with commas between them, or one alone. `conditional` allows `a if b else c`; `until` is a name that ends it.
    pub(super) fn tuple(&mut self, conditional: bool, until: Option<&str>) -> Outcome<Expr> {
        let line = self.line();
        let (values, is_tuple) = self.values(conditional, until)?;
        match (is_tuple, values) {
            (false, mut values) if values.len() == 1 => Ok(values.remove(0)),
            (true, values) => self.made(line, ExprKind::Tuple(values)),
            _ => {
                let found = describe(self.kind(0));
                Err(self.problem(format!("a value is missing before {found}")))
            }
        }
    }

    fn values(&mut self, conditional: bool, until: Option<&str>) -> Outcome<(Vec<Expr>, bool)> {
        let (mut values, mut is_tuple) = (Vec::new(), false);
        loop {
            let ends = matches!(
                self.kind(0),
                Kind::PrintEnd | Kind::BlockEnd | Kind::Operator(")")
            );
            if ends || until.is_some_and(|name| self.is_name(name)) {
                break;
            }
            values.push(if conditional {
                self.expression()?
            } else {
                self.either()?
            });
            if !self.skip(",") {
                break;
            }
            is_tuple = true;
        }
        Ok((values, is_tuple))
    }

    /// A whole expression.
    pub(super) fn expression(&mut self) -> Outcome<Expr> {
        self.nested += 1;
        if self.nested > MOST_DEPTH {
            return Err(self.problem(format!(
                "an expression of more than {MOST_DEPTH} terms in each other"
            )));
        }
        let line = self.line();
        let mut value = self.either()?;
        while self.skip_name("if") {
            let test = Box::new(self.either()?);
            let otherwise = if self.skip_name("else") {
                Some(Box::new(self.expression()?))
            } else {
                None
            };
            let kind = ExprKind::Conditional {
                test,
                then: Box::new(value),
                otherwise,
            };
            value = self.made(line, kind)?;
        }
        self.nested -= 1;
        Ok(value)
    }

    fn either(&mut self) -> Outcome<Expr> {
        let line = self.line();
        let mut left = self.both()?;
        while self.skip_name("or") {
            let right = Box::new(self.both()?);
            left = self.made(line, ExprKind::Or(Box::new(left), right))?;
        }
        Ok(left)
    }

    fn both(&mut self) -> Outcome<Expr> {
        let line = self.line();
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = Box::new(self.not()?);
            left = self.made(line, ExprKind::And(Box::new(left), right))?;
        }
        Ok(left)
    }

    fn not(&mut self) -> Outcome<Expr> {
        let line = self.line();
        let mut count = 0;
        while self.skip_name("not") {
            count += 1;
        }
        let mut value = self.comparison()?;
        for _ in 0..count {
            value = self.made(line, ExprKind::Not(Box::new(value)))?;
        }
        Ok(value)
    }

    fn comparison(&mut self) -> Outcome<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.kind(0) {
                Kind::Operator("==") => Comparison::Equal,
                Kind::Operator("!=") => Comparison::NotEqual,
                Kind::Operator("<") => Comparison::Less,
                Kind::Operator("<=") => Comparison::LessOrEqual,
                Kind::Operator(">") => Comparison::Greater,
                Kind::Operator(">=") => Comparison::GreaterOrEqual,
                Kind::Name(name) if name == "in" => Comparison::In,
                Kind::Name(name) if name == "not" && self.is_name_ahead(1, "in") => {
                    self.at += 1;
                    Comparison::NotIn
                }
                _ => break,
            };
            self.at += 1;
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        self.made(line, ExprKind::Compare(Box::new(first), rest))
    }

    /// A row of operators of one rank between parts of the next.
    fn row(
        &mut self,
        operators: &[(&str, Operator)],
        part: fn(&mut Self) -> Outcome<Expr>,
    ) -> Outcome<Expr> {
        let line = self.line();
        let mut left = part(self)?;
        loop {
            let found = operators.iter().find(|(name, _)| self.is(name));
            let Some(&(_, operator)) = found else {
                return Ok(left);
            };
            self.at += 1;
            let right = Box::new(part(self)?);
            left = self.made(line, ExprKind::Binary(operator, Box::new(left), right))?;
        }
    }

    fn sum(&mut self) -> Outcome<Expr> {
        let operators = [("+", Operator::Add), ("-", Operator::Subtract)];
        self.row(&operators, Self::concat)
    }

    fn concat(&mut self) -> Outcome<Expr> {
        let line = self.line();
        let first = self.product()?;
        if !self.is("~") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip("~") {
            all.push(self.product()?);
        }
        self.made(line, ExprKind::Concat(all))
    }

    fn product(&mut self) -> Outcome<Expr> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Modulo),
        ];
        self.row(&operators, Self::power)
    }

    fn power(&mut self) -> Outcome<Expr> {
        self.row(&[("**", Operator::Power)], |parser| parser.signed(true))
    }

    fn signed(&mut self, filtered: bool) -> Outcome<Expr> {
        let line = self.line();
        let mut signs = Vec::new();
        while self.is("-") || self.is("+") {
            signs.push(self.next() == Kind::Operator("-"));
        }
        let mut value = self.primary()?;
        value = self.postfix(value)?;
        for negative in signs.into_iter().rev() {
            value = if negative {
                self.made(line, ExprKind::Negative(Box::new(value)))?
            } else {
                self.made(line, ExprKind::Positive(Box::new(value)))?
            };
        }
        if filtered {
            value = self.filtered(value)?;
        }
        Ok(value)
    }

    fn primary(&mut self) -> Outcome<Expr> {
        let line = self.line();
        let kind = match self.next() {
            Kind::Name(name) => match name.as_str() {
                "true" | "True" => ExprKind::Literal(Literal::Bool(true)),
                "false" | "False" => ExprKind::Literal(Literal::Bool(false)),
                "none" | "None" => ExprKind::Literal(Literal::None),
                _ => ExprKind::Name(name),
            },
            Kind::Text(mut text) => {
                while let Kind::Text(more) = self.kind(0) {
                    text.push_str(more);
                    self.at += 1;
                }
                ExprKind::Literal(Literal::Text(text))
            }
            Kind::Int(number) => ExprKind::Literal(Literal::Int(number)),
            Kind::Float(number) => ExprKind::Literal(Literal::Float(number)),
            Kind::Operator("(") => {
                let (mut values, is_tuple) = self.values(true, None)?;
                self.expect(")")?;
                if !is_tuple && values.len() == 1 {
                    return Ok(values.remove(0));
                }
                ExprKind::Tuple(values)
            }
            Kind::Operator("[") => ExprKind::List(self.list()?),
            Kind::Operator("{") => self.dict()?,
            other => return Err(self.unexpected(&other)),
        };
        self.made(line, kind)
    }

    fn list(&mut self) -> Outcome<Vec<Expr>> {
        let mut items = Vec::new();
        while !self.is("]") {
            if !items.is_empty() {
                self.expect(",")?;
            }
            if self.is("]") {
                break;
            }
            items.push(self.expression()?);
        }
        self.expect("]")?;
        Ok(items)
    }

    fn dict(&mut self) -> Outcome<ExprKind> {
        let mut pairs = Vec::new();
        while !self.is("}") {
            if !pairs.is_empty() {
                self.expect(",")?;
            }
            if self.is("}") {
                break;
            }
            let key = self.expression()?;
            self.expect(":")?;
            pairs.push((key, self.expression()?));
        }
        self.expect("}")?;
        Ok(ExprKind::Dict(pairs))
    }

    fn postfix(&mut self, mut value: Expr) -> Outcome<Expr> {
        loop {
            let line = self.line();
            let kind = if self.skip(".") {
                match self.next() {
                    Kind::Name(name) => ExprKind::Attribute(Box::new(value), name),
                    Kind::Int(number) => {
                        let number = Expr::new(line, ExprKind::Literal(Literal::Int(number)));
                        ExprKind::Item(Box::new(value), Box::new(number))
                    }
                    other => return Err(self.unexpected(&other)),
                }
            } else if self.skip("[") {
                let mut asked = Vec::new();
                while !self.is("]") {
                    if !asked.is_empty() {
                        self.expect(",")?;
                    }
                    asked.push(self.subscript()?);
                }
                self.expect("]")?;
                let asked = if asked.len() == 1 {
                    asked.remove(0)
                } else {
                    self.made(line, ExprKind::Tuple(asked))?
                };
                ExprKind::Item(Box::new(value), Box::new(asked))
            } else if self.is("(") {
                ExprKind::Call(Box::new(value), self.arguments()?)
            } else {
                return Ok(value);
            };
            value = self.made(line, kind)?;
        }
    }

    fn subscript(&mut self) -> Outcome<Expr> {
        let line = self.line();
        let mut parts = [None, None, None];
        if !self.is(":") {
            let value = self.expression()?;
            if !self.is(":") {
                return Ok(value);
            }
            parts[0] = Some(Box::new(value));
        }
        for part in &mut parts[1..] {
            if self.skip(":") && !self.is(":") && !self.is("]") && !self.is(",") {
                *part = Some(Box::new(self.expression()?));
            }
        }
        self.made(line, ExprKind::Slice(parts))
    }

    fn arguments(&mut self) -> Outcome<Arguments> {
        let mut all = Arguments::default();
        self.expect("(")?;
        let mut first = true;
        while !self.is(")") {
            if !first {
                self.expect(",")?;
                if self.is(")") {
                    break;
                }
            }
            first = false;
            if self.skip("*") {
                all.more = Some(Box::new(self.expression()?));
            } else if self.skip("**") {
                all.more_named = Some(Box::new(self.expression()?));
            } else if let (Kind::Name(name), Kind::Operator("=")) = (self.kind(0), self.kind(1)) {
                let name = name.clone();
                self.at += 2;
                all.named.push((name, self.expression()?));
            } else {
                if !all.named.is_empty() {
                    return Err(self.problem("a value without a name follows one with a name"));
                }
                all.positional.push(self.expression()?);
            }
        }
        self.expect(")")?;
        Ok(all)
    }

    fn filtered(&mut self, mut value: Expr) -> Outcome<Expr> {
        loop {
            let line = self.line();
            if self.is("|") {
                match self.filters(Some(value), false)? {
                    Some(filtered) => value = filtered,
                    None => return Err(self.problem("a filter is missing")),
                }
            } else if self.is_name("is") {
                value = self.test(value)?;
            } else if self.is("(") {
                let arguments = self.arguments()?;
                value = self.made(line, ExprKind::Call(Box::new(value), arguments))?;
            } else {
                return Ok(value);
            }
        }
    }

    fn dotted(&mut self) -> Outcome<String> {
        let mut name = self.name()?;
        while self.skip(".") {
            name = name + "." + &self.name()?;
        }
        Ok(name)
    }

    /// Filters one after the other; `inline` reads the first without `|`.
    pub(super) fn filters(
        &mut self,
        mut value: Option<Expr>,
        mut inline: bool,
    ) -> Outcome<Option<Expr>> {
        while inline || self.skip("|") {
            inline = false;
            let line = self.line();
            let name = self.dotted()?;
            let arguments = if self.is("(") {
                self.arguments()?
            } else {
                Arguments::default()
            };
            let kind = ExprKind::Filter(value.map(Box::new), name, arguments);
            value = Some(self.made(line, kind)?);
        }
        Ok(value)
    }

    fn test(&mut self, value: Expr) -> Outcome<Expr> {
        let line = self.line();
        self.at += 1;
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let mut arguments = Arguments::default();
        let takes_one = match self.kind(0) {
            Kind::Name(name) => !["else", "or", "and"].contains(&name.as_str()),
            Kind::Text(_) | Kind::Int(_) | Kind::Float(_) => true,
            Kind::Operator(operator) => ["[", "{"].contains(operator),
            _ => false,
        };
        if self.is("(") {
            arguments = self.arguments()?;
        } else if takes_one {
            if self.is_name("is") {
                return Err(self.problem("tests with `is` cannot follow each other"));
            }
            let one = self.primary()?;
            arguments.positional.push(self.postfix(one)?);
        }
        let tested = self.made(line, ExprKind::Test(Box::new(value), name, arguments))?;
        if negated {
            return self.made(line, ExprKind::Not(Box::new(tested)));
        }
        Ok(tested)
    }
}

fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Data(_) => "text".to_owned(),
        Kind::PrintBegin => "`{{`".to_owned(),
        Kind::PrintEnd => "`}}`".to_owned(),
        Kind::BlockBegin => "`{%`".to_owned(),
        Kind::BlockEnd => "`%}`".to_owned(),
        Kind::Name(name) => format!("`{name}`"),
        Kind::Text(text) => format!("`{text:?}`"),
        Kind::Int(number) => format!("`{number}`"),
        Kind::Float(number) => format!("`{number}`"),
        Kind::Operator(operator) => format!("`{operator}`"),
        Kind::End => "end of the template".to_owned(),
    }
}
