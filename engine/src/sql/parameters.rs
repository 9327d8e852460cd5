//! Values for the placeholders of statements: `?` by position, `$1` by number, `$name` by name.
//!
//! Values are put into the parsed statement, never into its text, so no value can become syntax. All
//! that comes later (plans, writes, tasks on other nodes) sees literals.
//!
//! Invariant: after [`bind`] no placeholder is left, and every value was used.

use super::Statement;
use crate::error::{Error, Result};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{Array, Expr, Value, visit_expressions_mut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Digits as written: `-12.50`.
    Decimal {
        text: String,
        precision: u8,
        scale: i8,
    },
    /// ISO 8601: `2025-05-01`.
    Date(String),
    /// ISO 8601: `08:30:00.250000`.
    Time(String),
    /// ISO 8601 with at most microseconds; in UTC when `utc`, of no zone otherwise.
    Timestamp {
        text: String,
        utc: bool,
    },
    List(Vec<Parameter>),
}

/// The values of one call.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameters {
    /// For `?` in the order of the text, and for `$1`, `$2`, ….
    Positional(Vec<Parameter>),
    /// For `$name`, in any order and as often as it stands there.
    Named(BTreeMap<String, Parameter>),
}

impl Default for Parameters {
    fn default() -> Self {
        Self::Positional(Vec::new())
    }
}

/// Puts values into statements.
///
/// # Errors
/// `Rejected`, naming it, for a placeholder without a value and for a value without a placeholder.
pub fn bind(statements: Vec<Statement>, parameters: &Parameters) -> Result<Vec<Statement>> {
    let mut binding = Binding {
        parameters,
        used: BTreeSet::new(),
    };
    let bound = statements
        .into_iter()
        .map(|statement| binding.statement(statement))
        .collect::<Result<Vec<_>>>()?;
    binding.refuse_unused()?;
    Ok(bound)
}

struct Binding<'a> {
    parameters: &'a Parameters,
    /// Names without their `$`, numbers from 1.
    used: BTreeSet<String>,
}

impl Binding<'_> {
    fn statement(&mut self, mut statement: Statement) -> Result<Statement> {
        match &mut statement {
            Statement::Query(query) => self.parsed(query)?,
            Statement::Insert { source, .. } => self.parsed(source)?,
            Statement::CreateFrameAs { query, .. } => self.parsed(query)?,
            // The others hold no expression.
            _ => {}
        }
        Ok(statement)
    }

    fn parsed(&mut self, statement: &mut DfStatement) -> Result<()> {
        match statement {
            DfStatement::Explain(explain) => self.parsed(&mut explain.statement),
            DfStatement::Statement(inner) => {
                let visited = visit_expressions_mut(inner.as_mut(), |expression| {
                    match self.replace(expression) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(error) => ControlFlow::Break(error),
                    }
                });
                match visited {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(error) => Err(error),
                }
            }
            _ => Ok(()),
        }
    }

    fn replace(&mut self, expression: &mut Expr) -> Result<()> {
        let Expr::Value(value) = &*expression else {
            return Ok(());
        };
        let Value::Placeholder(placeholder) = &value.value else {
            return Ok(());
        };
        let parameter = self.value_of(placeholder)?.clone();
        *expression = literal(&parameter)?;
        Ok(())
    }

    fn value_of(&mut self, placeholder: &str) -> Result<&Parameter> {
        let name = placeholder.trim_start_matches(['$', '?']);
        let found = match self.parameters {
            Parameters::Named(values) => values.get(name),
            Parameters::Positional(values) => {
                let number = name.parse::<usize>().ok();
                number.and_then(|number| values.get(number.checked_sub(1)?))
            }
        };
        self.used.insert(name.to_string());
        found.ok_or_else(|| {
            let given = match self.parameters {
                Parameters::Positional(values) => format!("{} by position", values.len()),
                Parameters::Named(values) => {
                    let names: Vec<&str> = values.keys().map(String::as_str).collect();
                    format!("these names: {}", names.join(", "))
                }
            };
            Error::rejected(format!(
                "SQL error: the placeholder {placeholder} has no value; given are {given}"
            ))
        })
    }

    fn refuse_unused(&self) -> Result<()> {
        let unused = match self.parameters {
            Parameters::Positional(values) => (1..=values.len())
                .map(|number| number.to_string())
                .find(|number| !self.used.contains(number)),
            Parameters::Named(values) => values
                .keys()
                .find(|name| !self.used.contains(*name))
                .cloned(),
        };
        match unused {
            None => Ok(()),
            Some(name) => Err(Error::rejected(format!(
                "SQL error: the value {name} has no placeholder in the text"
            ))),
        }
    }
}

/// A value as an expression of the statement.
fn literal(parameter: &Parameter) -> Result<Expr> {
    let value = |value: Value| Ok(Expr::Value(value.into()));
    match parameter {
        Parameter::Null => value(Value::Null),
        Parameter::Boolean(flag) => value(Value::Boolean(*flag)),
        Parameter::Integer(number) => match i64::try_from(*number) {
            Ok(_) => value(Value::Number(number.to_string(), false)),
            Err(_) if u64::try_from(*number).is_ok() => {
                value(Value::Number(number.to_string(), false))
            }
            Err(_) => typed(&number.to_string(), "DECIMAL(38, 0)"),
        },
        Parameter::Float(number) => typed(&number.to_string(), "DOUBLE"),
        Parameter::Text(text) => value(Value::SingleQuotedString(text.clone())),
        Parameter::Bytes(bytes) => {
            let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            value(Value::HexStringLiteral(hex))
        }
        Parameter::Decimal {
            text,
            precision,
            scale,
        } => typed(text, &format!("DECIMAL({precision}, {scale})")),
        Parameter::Date(text) => typed(text, "DATE"),
        Parameter::Time(text) => typed(text, "TIME"),
        Parameter::Timestamp { text, utc } => {
            // SQL's TIMESTAMP has nanoseconds here, and ends in 2262.
            let zone = if *utc { "Some(\"UTC\")" } else { "None" };
            let data_type = format!("Timestamp(Microsecond, {zone})");
            parsed(&format!(
                "arrow_cast({}, {})",
                quoted(text),
                quoted(&data_type)
            ))
        }
        Parameter::List(values) => {
            let elem = values.iter().map(literal).collect::<Result<Vec<_>>>()?;
            Ok(Expr::Array(Array { elem, named: true }))
        }
    }
}

fn typed(text: &str, data_type: &str) -> Result<Expr> {
    parsed(&format!("CAST({} AS {data_type})", quoted(text)))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An expression that was written here, around a quoted value.
fn parsed(text: &str) -> Result<Expr> {
    Parser::new(&GenericDialect {})
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_expr())
        .map_err(|error| Error::Bug(format!("a parameter as an expression: {error}")))
}

/// Numbers the `?` of a text, so that each keeps its value wherever the parser puts it.
pub(super) fn numbered(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut count = 0;
    for token in &mut tokens {
        if let Token::Placeholder(text) = &mut token.token
            && text == "?"
        {
            count += 1;
            *text = format!("?{count}");
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    fn bound(text: &str, parameters: &Parameters) -> Result<String> {
        let statements = bind(parse(text)?, parameters)?;
        let texts = statements.iter().map(|statement| match statement {
            Statement::Query(query) => query.to_string(),
            Statement::Insert { source, .. } => source.to_string(),
            Statement::CreateFrameAs { query, .. } => query.to_string(),
            other => format!("{other:?}"),
        });
        Ok(texts.collect::<Vec<_>>().join("; "))
    }

    fn positional(values: &[Parameter]) -> Parameters {
        Parameters::Positional(values.to_vec())
    }

    #[test]
    fn question_marks_take_values_in_the_order_of_the_text() {
        let values = positional(&[
            Parameter::Integer(1),
            Parameter::Text("it's".into()),
            Parameter::Integer(-3),
        ]);
        let text = "SELECT ?||'x' FROM t WHERE a = ? AND b > ?-1";
        assert_eq!(
            bound(text, &values).unwrap(),
            "SELECT 1 || 'x' FROM t WHERE a = 'it''s' AND b > -3 - 1"
        );
    }

    #[test]
    fn names_and_numbers_may_stand_more_than_once() {
        let named = Parameters::Named([("low".to_string(), Parameter::Integer(2))].into());
        assert_eq!(
            bound("SELECT $low, $low + 1", &named).unwrap(),
            "SELECT 2, 2 + 1"
        );
        let values = positional(&[Parameter::Boolean(true), Parameter::Null]);
        assert_eq!(
            bound("SELECT $2, $1, $1", &values).unwrap(),
            "SELECT NULL, true, true"
        );
    }

    #[test]
    fn every_place_of_a_value_is_found() {
        let two = positional(&[Parameter::Integer(1), Parameter::Integer(2)]);
        for (text, expected) in [
            ("INSERT INTO t VALUES (?, ?)", "VALUES (1, 2)"),
            (
                "CREATE TABLE t AS SELECT ? AS a, ? AS b",
                "SELECT 1 AS a, 2 AS b",
            ),
            (
                "SELECT a FROM t LIMIT ? OFFSET ?",
                "SELECT a FROM t LIMIT 1 OFFSET 2",
            ),
            ("SELECT ?; SELECT ?", "SELECT 1; SELECT 2"),
            (
                "SELECT a FROM (SELECT ? AS a) WHERE a IN (SELECT ?)",
                "SELECT a FROM (SELECT 1 AS a) WHERE a IN (SELECT 2)",
            ),
        ] {
            assert_eq!(bound(text, &two).unwrap(), expected, "{text}");
        }
        assert!(bound("EXPLAIN SELECT ?, ?", &two).unwrap().contains("1, 2"));
    }

    #[test]
    fn a_question_mark_in_a_literal_or_a_name_is_none() {
        let none = Parameters::default();
        let text = "SELECT '?' AS \"a?\" -- ?";
        assert_eq!(bound(text, &none).unwrap(), "SELECT '?' AS \"a?\"");
    }

    #[test]
    fn missing_and_superfluous_values_are_refused_by_name() {
        let one = positional(&[Parameter::Integer(1)]);
        let refusal =
            |text: &str, values: &Parameters| bound(text, values).unwrap_err().to_string();
        assert!(refusal("SELECT ?, ?", &one).contains("?2 has no value"));
        assert!(refusal("SELECT 1", &one).contains("value 1 has no placeholder"));
        assert!(refusal("SELECT $name", &one).contains("$name has no value"));
        let named = Parameters::Named([("b".to_string(), Parameter::Null)].into());
        assert!(refusal("SELECT $a", &named).contains("these names: b"));
        assert!(refusal("SELECT 1", &named).contains("value b has no placeholder"));
    }
}
