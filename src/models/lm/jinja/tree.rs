//! A parsed template.

use std::sync::Arc;

/// A value written in the template.
pub(super) enum Literal {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
}

/// Two values, one result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

/// Two values, true or false.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

/// The arguments in the brackets of a call.
#[derive(Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(String, Expr)>,
    /// `*values`
    pub(super) more: Option<Box<Expr>>,
    /// `**values`
    pub(super) more_named: Option<Box<Expr>>,
}

/// An expression.
pub(super) struct Expr {
    pub(super) line: u32,
    /// How deep it is nested, itself counted.
    pub(super) depth: u32,
    pub(super) kind: ExprKind,
}

pub(super) enum ExprKind {
    Literal(Literal),
    Name(String),
    Tuple(Vec<Expr>),
    List(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, String),
    Item(Box<Expr>, Box<Expr>),
    /// `start:stop:step` as the item that is asked for.
    Slice([Option<Box<Expr>>; 3]),
    Call(Box<Expr>, Arguments),
    /// Without a value it is applied to the text of a block.
    Filter(Option<Box<Expr>>, String, Arguments),
    Test(Box<Expr>, String, Arguments),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Conditional {
        test: Box<Expr>,
        then: Box<Expr>,
        otherwise: Option<Box<Expr>>,
    },
}

impl Arguments {
    fn children(&self) -> impl Iterator<Item = &Expr> {
        let named = self.named.iter().map(|(_, value)| value);
        let more = self.more.iter().chain(&self.more_named);
        let all = self.positional.iter().chain(named);
        all.chain(more.map(|value| &**value))
    }
}

impl ExprKind {
    /// The expressions right inside.
    pub(super) fn children(&self) -> Vec<&Expr> {
        match self {
            Self::Literal(_) | Self::Name(_) => Vec::new(),
            Self::Tuple(list) | Self::List(list) | Self::Concat(list) => list.iter().collect(),
            Self::Dict(pairs) => pairs.iter().flat_map(|(key, value)| [key, value]).collect(),
            Self::Attribute(one, _)
            | Self::Not(one)
            | Self::Negative(one)
            | Self::Positive(one) => {
                vec![one]
            }
            Self::Item(one, other)
            | Self::Binary(_, one, other)
            | Self::And(one, other)
            | Self::Or(one, other) => vec![one, other],
            Self::Slice(parts) => parts.iter().flatten().map(|part| &**part).collect(),
            Self::Call(one, arguments) | Self::Test(one, _, arguments) => std::iter::once(&**one)
                .chain(arguments.children())
                .collect(),
            Self::Filter(one, _, arguments) => {
                let value = one.iter().map(|value| &**value);
                value.chain(arguments.children()).collect()
            }
            Self::Compare(one, rest) => {
                let rest = rest.iter().map(|(_, value)| value);
                std::iter::once(&**one).chain(rest).collect()
            }
            Self::Conditional {
                test,
                then,
                otherwise,
            } => {
                let otherwise = otherwise.iter().map(|value| &**value);
                [&**test, &**then].into_iter().chain(otherwise).collect()
            }
        }
    }
}

impl Expr {
    pub(super) fn new(line: u32, kind: ExprKind) -> Self {
        let inner = kind.children().iter().map(|child| child.depth).max();
        Self {
            line,
            depth: inner.unwrap_or(0) + 1,
            kind,
        }
    }

    /// `true` if a name is read anywhere in it.
    pub(super) fn names(&self, name: &str) -> bool {
        match &self.kind {
            ExprKind::Name(one) => one == name,
            kind => kind.children().iter().any(|child| child.names(name)),
        }
    }
}

/// Where a value is put.
pub(super) enum Target {
    Name(String),
    /// Of a namespace.
    Attribute(String, String),
    Tuple(Vec<Target>),
}

pub(super) type Body = Vec<Statement>;

/// A loop.
pub(super) struct For {
    pub(super) target: Target,
    pub(super) over: Expr,
    pub(super) only_if: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Body,
    pub(super) otherwise: Body,
}

/// A macro, or the body of a `call` block.
pub(super) struct Macro {
    pub(super) name: String,
    pub(super) parameters: Vec<String>,
    /// Of the last parameters.
    pub(super) defaults: Vec<Expr>,
    pub(super) body: Body,
    /// Which of `varargs`, `kwargs` and `caller` the body names.
    pub(super) takes: [bool; 3],
}

/// A statement with its line.
pub(super) struct Statement {
    pub(super) line: u32,
    pub(super) kind: StatementKind,
}

pub(super) enum StatementKind {
    Text(String),
    Print(Expr),
    Set(Target, Expr),
    SetBlock(Target, Option<Expr>, Body),
    For(Arc<For>),
    If(Vec<(Expr, Body)>, Body),
    With(Vec<(Target, Expr)>, Body),
    Filter(Expr, Body),
    Macro(Arc<Macro>),
    Call(Expr, Arc<Macro>),
    Scope(Body),
    Break,
    Continue,
    /// A statement that only several templates together can carry out.
    Refuse(String),
}

/// `true` if a name is read anywhere in statements.
pub(super) fn body_names(body: &[Statement], name: &str) -> bool {
    body.iter().any(|statement| match &statement.kind {
        StatementKind::Text(_)
        | StatementKind::Break
        | StatementKind::Continue
        | StatementKind::Refuse(_) => false,
        StatementKind::Print(value) | StatementKind::Set(_, value) => value.names(name),
        StatementKind::SetBlock(_, filter, body) => {
            filter.as_ref().is_some_and(|filter| filter.names(name)) || body_names(body, name)
        }
        StatementKind::For(one) => {
            one.over.names(name)
                || one.only_if.as_ref().is_some_and(|test| test.names(name))
                || body_names(&one.body, name)
                || body_names(&one.otherwise, name)
        }
        StatementKind::If(cases, otherwise) => {
            let mut cases = cases.iter();
            cases.any(|(test, body)| test.names(name) || body_names(body, name))
                || body_names(otherwise, name)
        }
        StatementKind::With(values, body) => {
            values.iter().any(|(_, value)| value.names(name)) || body_names(body, name)
        }
        StatementKind::Filter(filter, body) => filter.names(name) || body_names(body, name),
        StatementKind::Macro(one) => {
            one.defaults.iter().any(|value| value.names(name)) || body_names(&one.body, name)
        }
        StatementKind::Call(call, one) => call.names(name) || body_names(&one.body, name),
        StatementKind::Scope(body) => body_names(body, name),
    })
}
