//! The dialect: DataFusion's parser, and our own statements recognised by their first tokens.
//!
//! Text is tokenised once; no decision is ever taken on the text itself, so a word inside a literal,
//! a quoted name or a comment is never mistaken for syntax. Statements that are not supported are
//! refused by name. Nothing is resolved here.

mod create;
#[cfg(test)]
mod tests;
mod words;

use super::Statement;
use super::parameters::numbered;
use crate::error::{Error, Result};
use create::create;
use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{
    Ident, Insert, ObjectName, Query, SetExpr, Statement as SqlStatement, TableObject,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use std::sync::Arc;
use words::Words;

const DIALECT: GenericDialect = GenericDialect {};

/// How deep expressions and subqueries may nest before the parser refuses.
const RECURSION_LIMIT: usize = 128;

/// Statements that SQL has and this dialect does not: refused by these names.
const REFUSED: &[&str] = &[
    "ALTER",
    "ANALYZE",
    "BEGIN",
    "CALL",
    "COMMENT",
    "COMMIT",
    "COPY",
    "DEALLOCATE",
    "DECLARE",
    "DELETE",
    "EXECUTE",
    "GRANT",
    "INSTALL",
    "LOAD",
    "LOCK",
    "MERGE",
    "OPTIMIZE",
    "PREPARE",
    "REFRESH",
    "RENAME",
    "REPLACE",
    "RESET",
    "REVOKE",
    "ROLLBACK",
    "SAVEPOINT",
    "SET",
    "START",
    "TRUNCATE",
    "UPDATE",
    "VACUUM",
];

/// Splits and parses a text of one or more statements; refuses what is not supported, by name.
pub fn parse(text: &str) -> Result<Vec<Statement>> {
    let tokens = Tokenizer::new(&DIALECT, text)
        .tokenize_with_location()
        .map_err(|error| syntax(ParserError::from(error)))?;
    numbered(tokens)
        .split(|token| token.token == Token::SemiColon)
        .map(|part| {
            part.iter()
                .filter(|token| !is_blank(token))
                .cloned()
                .collect::<Vec<_>>()
        })
        .filter(|part| !part.is_empty())
        .map(statement)
        .collect()
}

fn is_blank(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_) | Token::EOF)
}

pub(super) fn syntax(error: ParserError) -> Error {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => {
            format!("the statement nests deeper than {RECURSION_LIMIT} levels")
        }
    };
    Error::Rejected(format!("SQL error: {text}"))
}

fn parser_error(error: DataFusionError) -> Error {
    match error {
        DataFusionError::SQL(error, _) => syntax(*error),
        DataFusionError::Diagnostic(_, error) | DataFusionError::Context(_, error) => {
            parser_error(*error)
        }
        other => Error::Sql(Box::new(other)),
    }
}

/// The unquoted word at a position, in capitals.
fn word(tokens: &[TokenWithSpan], index: usize) -> Option<String> {
    match &tokens.get(index)?.token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
        _ => None,
    }
}

fn statement(tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let first = word(&tokens, 0);
    let second = word(&tokens, 1).unwrap_or_default();
    match first.as_deref() {
        Some("USE") => Words::new(tokens, 1).use_statement(),
        Some("SHOW") => show(tokens, &second),
        Some("DESCRIBE" | "DESC") => Words::new(tokens, 1).describe(),
        Some("CREATE") => create(tokens, &second),
        Some("DROP") => Words::new(tokens, 1).drop_statement(),
        Some("ATTACH") => Words::new(tokens, 1).attach(),
        Some("INSERT") => insert(tokens),
        Some("SELECT" | "WITH" | "VALUES" | "EXPLAIN" | "TABLE" | "FROM") => query(tokens),
        Some(refused) if REFUSED.contains(&refused) => Err(Error::Unsupported(refused.to_string())),
        None if tokens[0].token == Token::LParen => query(tokens),
        _ => Err(syntax(ParserError::ParserError(format!(
            "Expected: a statement, found: {}{}",
            tokens[0], tokens[0].span.start
        )))),
    }
}

fn parse_one(tokens: Vec<TokenWithSpan>) -> Result<DfStatement> {
    let mut parser = DFParserBuilder::new(tokens)
        .with_dialect(&DIALECT)
        .with_recursion_limit(RECURSION_LIMIT)
        .build()
        .map_err(parser_error)?;
    let mut statements = parser.parse_statements().map_err(parser_error)?;
    match (statements.pop_front(), statements.pop_front()) {
        (Some(statement), None) => Ok(statement),
        _ => Err(Error::rejected("SQL error: expected one statement")),
    }
}

fn query(tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let statement = parse_one(tokens)?;
    require_query(&statement)?;
    Ok(Statement::Query(Box::new(statement)))
}

/// Only what reads may be a query, wherever a parser lets other statements stand.
fn require_query(statement: &DfStatement) -> Result<()> {
    match statement {
        DfStatement::Explain(explain) => require_query(&explain.statement),
        DfStatement::Statement(inner) => match inner.as_ref() {
            SqlStatement::Query(query) => require_reading(&query.body),
            SqlStatement::ShowVariable { .. } | SqlStatement::ShowFunctions { .. } => Ok(()),
            other => Err(Error::Unsupported(format!(
                "EXPLAIN or SHOW of {}",
                first_words(other)
            ))),
        },
        other => Err(Error::Unsupported(first_words(other))),
    }
}

fn first_words(statement: &impl ToString) -> String {
    statement
        .to_string()
        .split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
}

fn require_reading(body: &SetExpr) -> Result<()> {
    match body {
        SetExpr::Insert(_) => Err(Error::Unsupported("INSERT after WITH".into())),
        SetExpr::Update(_) => Err(Error::Unsupported("UPDATE".into())),
        SetExpr::Delete(_) => Err(Error::Unsupported("DELETE".into())),
        SetExpr::Merge(_) => Err(Error::Unsupported("MERGE".into())),
        SetExpr::Query(query) => require_reading(&query.body),
        SetExpr::SetOperation { left, right, .. } => {
            require_reading(left)?;
            require_reading(right)
        }
        _ => Ok(()),
    }
}

fn show(tokens: Vec<TokenWithSpan>, what: &str) -> Result<Statement> {
    match what {
        "HIVES" | "DATABASES" => {
            let like = Words::new(tokens, 2).like_to_end()?;
            Ok(Statement::ShowHives { like })
        }
        "BOXES" | "SCHEMAS" => {
            let mut words = Words::new(tokens, 2);
            let hive = if words.in_or_from() {
                Some(words.name()?)
            } else {
                None
            };
            let like = words.like_to_end()?;
            Ok(Statement::ShowBoxes { hive, like })
        }
        "FRAMES" | "TABLES" => {
            let mut words = Words::new(tokens, 2);
            let mut parts = if words.in_or_from() {
                words.parts(2)?
            } else {
                vec![]
            };
            let like = words.like_to_end()?;
            let box_name = parts.pop();
            Ok(Statement::ShowFrames {
                hive: parts.pop(),
                box_name,
                like,
            })
        }
        "COLUMNS" | "FIELDS" => {
            let mut words = Words::new(tokens, 2);
            if !words.in_or_from() {
                return words.expected("FROM and the name of a frame");
            }
            let frame = words.parts(3)?;
            let like = words.like_to_end()?;
            Ok(Statement::ShowColumns { frame, like })
        }
        "CREATE" => Err(Error::Unsupported("SHOW CREATE".into())),
        _ => query(tokens),
    }
}

fn insert(tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let DfStatement::Statement(statement) = parse_one(tokens)? else {
        return Err(Error::Unsupported("this form of INSERT".into()));
    };
    let SqlStatement::Insert(insert) = *statement else {
        return Err(Error::Unsupported(first_words(&statement)));
    };
    refuse_insert_clauses(&insert)?;
    let TableObject::TableName(name) = &insert.table else {
        return Err(Error::Unsupported("INSERT into a function".into()));
    };
    let Some(query) = insert.source else {
        return Err(Error::rejected("SQL error: INSERT needs VALUES or a query"));
    };
    let columns = insert
        .columns
        .iter()
        .map(|name| match name_parts(name)?.as_slice() {
            [column] => Ok(column.clone()),
            _ => Err(Error::rejected(format!(
                "SQL error: {name} is not a column name"
            ))),
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Statement::Insert {
        frame: name_parts(name)?,
        columns,
        source: source(query)?,
        overwrite: insert.overwrite,
    })
}

fn refuse_insert_clauses(insert: &Insert) -> Result<()> {
    let refused = [
        (
            insert.or.is_some() || insert.ignore || insert.replace_into,
            "INSERT OR …, INSERT IGNORE and REPLACE",
        ),
        (insert.on.is_some(), "ON CONFLICT"),
        (insert.returning.is_some(), "RETURNING"),
        (insert.partitioned.is_some(), "PARTITION in INSERT"),
        (!insert.assignments.is_empty(), "INSERT … SET"),
        (insert.table_alias.is_some(), "an alias in INSERT"),
    ];
    match refused.iter().find(|(is_there, _)| *is_there) {
        Some((_, what)) => Err(Error::Unsupported((*what).into())),
        None => Ok(()),
    }
}

fn source(query: Box<Query>) -> Result<Box<DfStatement>> {
    require_reading(&query.body)?;
    Ok(Box::new(DfStatement::Statement(Box::new(
        SqlStatement::Query(query),
    ))))
}

/// Unquoted names are lower case, quoted ones keep their spelling. (Names of hives, boxes and frames
/// are compared ignoring case in any event; columns are not.)
fn normal(name: &Ident) -> String {
    match name.quote_style {
        None => name.value.to_lowercase(),
        Some(_) => name.value.clone(),
    }
}

fn name_parts(name: &ObjectName) -> Result<Vec<String>> {
    name.0
        .iter()
        .map(|part| match part.as_ident() {
            Some(ident) => Ok(normal(ident)),
            None => Err(Error::rejected(format!("SQL error: {name} is not a name"))),
        })
        .collect()
}
