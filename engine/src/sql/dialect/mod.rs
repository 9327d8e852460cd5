//! The dialect: DataFusion's parser, and our own statements recognised by their first tokens.
//!
//! Text is tokenised once; no decision is ever taken on the text itself, so a word inside a literal,
//! a quoted name or a comment is never mistaken for syntax. Statements that are not supported are
//! refused by name. Nothing is resolved here.

#[cfg(test)]
mod tests;

use super::Statement;
use super::types::column_field;
use crate::error::{Error, Result};
use arrow::datatypes::{FieldRef, Schema};
use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{
    ColumnDef, ColumnOption, CreateTable, CreateTableOptions, HiveDistributionStyle, Ident, Insert,
    ObjectName, Query, SetExpr, Statement as SqlStatement, TableObject,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use std::sync::Arc;

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
    tokens
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

fn create(mut tokens: Vec<TokenWithSpan>, what: &str) -> Result<Statement> {
    match what {
        "HIVE" | "DATABASE" | "BOX" | "SCHEMA" => Words::new(tokens, 1).create_namespace(),
        "FRAME" | "TABLE" => {
            tokens[1].token = Token::make_keyword("TABLE");
            create_frame(tokens)
        }
        "" => Words::new(tokens, 1).expected("HIVE, BOX or FRAME"),
        other => Err(Error::Unsupported(match word(&tokens, 2) {
            Some(third) => format!("CREATE {other} {third}"),
            None => format!("CREATE {other}"),
        })),
    }
}

/// A column of `PARTITIONED BY`: a name, or in Hive's way a name and a type.
type PartitionColumn = (Ident, Option<FieldRef>);

/// Takes `PARTITIONED BY (…)` out of the tokens, wherever it stands outside parentheses: no other
/// statement has that pair of words there, and the parser knows only some of its forms.
fn take_partitioned_by(tokens: &mut Vec<TokenWithSpan>) -> Result<Vec<PartitionColumn>> {
    let mut depth = 0_usize;
    let found = (0..tokens.len()).find(|index| {
        match &tokens[*index].token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
            && word(tokens, *index).as_deref() == Some("PARTITIONED")
            && word(tokens, *index + 1).as_deref() == Some("BY")
    });
    let Some(start) = found else {
        return Ok(vec![]);
    };
    let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(tokens[start + 2..].to_vec());
    let mut columns = vec![];
    parser.expect_token(&Token::LParen).map_err(syntax)?;
    loop {
        let name = parser.parse_identifier().map_err(syntax)?;
        let field = match parser.peek_token_ref().token {
            Token::Comma | Token::RParen => None,
            _ => {
                let sql_type = parser.parse_data_type().map_err(syntax)?;
                Some(Arc::new(column_field(&normal(&name), &sql_type, true)?))
            }
        };
        columns.push((name, field));
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen).map_err(syntax)?;
    let length = parser.index();
    tokens.drain(start..start + 2 + length);
    Ok(columns)
}

fn create_frame(mut tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let partitions = take_partitioned_by(&mut tokens)?;
    let DfStatement::Statement(statement) = parse_one(tokens)? else {
        return Err(Error::Unsupported("this form of CREATE TABLE".into()));
    };
    let SqlStatement::CreateTable(table) = *statement else {
        return Err(Error::Unsupported(format!(
            "CREATE {}",
            first_words(&statement)
        )));
    };
    refuse_table_clauses(&table)?;
    let frame = name_parts(&table.name)?;
    let partition_by = partitions.iter().map(|(name, _)| normal(name)).collect();
    if let Some(query) = table.query {
        if !table.columns.is_empty() || partitions.iter().any(|(_, field)| field.is_some()) {
            return Err(Error::Unsupported(
                "a column list in CREATE TABLE … AS".into(),
            ));
        }
        return Ok(Statement::CreateFrameAs {
            frame,
            query: source(query)?,
            partition_by,
            if_not_exists: table.if_not_exists,
        });
    }
    let mut fields = table
        .columns
        .iter()
        .map(column)
        .map(|field| field.map(Arc::new))
        .collect::<Result<Vec<_>>>()?;
    fields.extend(partitions.into_iter().filter_map(|(_, field)| field));
    if fields.is_empty() {
        return Err(Error::rejected(format!(
            "frame {}: a frame needs at least one column",
            frame.join(".")
        )));
    }
    Ok(Statement::CreateFrame {
        frame,
        schema: Arc::new(Schema::new(fields)),
        partition_by,
        if_not_exists: table.if_not_exists,
    })
}

fn refuse_table_clauses(table: &CreateTable) -> Result<()> {
    let refused = [
        (table.or_replace, "CREATE OR REPLACE TABLE"),
        (table.temporary, "CREATE TEMPORARY TABLE"),
        (table.external, "CREATE EXTERNAL TABLE"),
        (!table.constraints.is_empty(), "a table constraint"),
        (table.like.is_some(), "CREATE TABLE … LIKE"),
        (table.clone.is_some(), "CREATE TABLE … CLONE"),
        (
            table.location.is_some(),
            "LOCATION in CREATE TABLE (ATTACH FRAME name LOCATION '…' takes an existing table)",
        ),
        (table.file_format.is_some(), "STORED AS in CREATE TABLE"),
        (
            table.partition_by.is_some(),
            "PARTITION BY in CREATE TABLE (PARTITIONED BY is what partitions a frame)",
        ),
        (
            table.order_by.is_some() || table.cluster_by.is_some() || table.clustered_by.is_some(),
            "ordering in CREATE TABLE",
        ),
        (
            table.table_options != CreateTableOptions::None,
            "options in CREATE TABLE",
        ),
        (
            table.hive_distribution != HiveDistributionStyle::NONE,
            "this form of CREATE TABLE",
        ),
        (
            table.inherits.is_some() || table.on_commit.is_some(),
            "this form of CREATE TABLE",
        ),
    ];
    match refused.iter().find(|(is_there, _)| *is_there) {
        Some((_, what)) => Err(Error::Unsupported((*what).into())),
        None => Ok(()),
    }
}

fn column(definition: &ColumnDef) -> Result<arrow::datatypes::Field> {
    let mut is_nullable = true;
    for option in &definition.options {
        match &option.option {
            ColumnOption::Null => is_nullable = true,
            ColumnOption::NotNull => is_nullable = false,
            other => {
                return Err(Error::Unsupported(format!(
                    "{other} on column {}",
                    definition.name
                )));
            }
        }
    }
    column_field(
        &normal(&definition.name),
        &definition.data_type,
        is_nullable,
    )
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

/// Reads our own statements.
struct Words {
    parser: Parser<'static>,
}

impl Words {
    /// Starts behind the first `skip` tokens.
    fn new(tokens: Vec<TokenWithSpan>, skip: usize) -> Self {
        static DIALECT: GenericDialect = GenericDialect {};
        let tokens = tokens.into_iter().skip(skip).collect();
        Self {
            parser: Parser::new(&DIALECT).with_tokens_with_locations(tokens),
        }
    }

    /// Consumes one of the words, unquoted.
    fn take(&mut self, words: &[&str]) -> bool {
        let found = matches!(&self.parser.peek_token_ref().token, Token::Word(word)
            if word.quote_style.is_none() && words.iter().any(|each| word.value.eq_ignore_ascii_case(each)));
        if found {
            self.parser.next_token();
        }
        found
    }

    fn in_or_from(&mut self) -> bool {
        self.take(&["IN", "FROM"])
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        self.parser
            .expected_ref(what, self.parser.peek_token_ref())
            .map_err(syntax)
    }

    fn end(&mut self) -> Result<()> {
        match self.parser.peek_token_ref().token {
            Token::EOF => Ok(()),
            _ => self.expected("end of statement"),
        }
    }

    /// `LIKE 'pattern'`, if anything is left.
    fn like_to_end(mut self) -> Result<Option<String>> {
        let like = if self.take(&["LIKE"]) {
            Some(self.parser.parse_literal_string().map_err(syntax)?)
        } else {
            None
        };
        self.end()?;
        Ok(like)
    }

    /// A name of one to `most` parts.
    fn parts(&mut self, most: usize) -> Result<Vec<String>> {
        let name = self.parser.parse_object_name(false).map_err(syntax)?;
        let parts = name_parts(&name)?;
        if parts.len() > most {
            return Err(Error::rejected(format!(
                "SQL error: {name} has more than {most} parts"
            )));
        }
        Ok(parts)
    }

    fn name(&mut self) -> Result<String> {
        let mut parts = self.parts(1)?;
        parts.pop().map_or_else(|| self.expected("a name"), Ok)
    }

    fn if_not_exists(&mut self) -> bool {
        self.parser
            .parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS])
    }

    fn use_statement(mut self) -> Result<Statement> {
        let is_box = self.take(&["BOX", "SCHEMA"]);
        if !is_box {
            self.take(&["HIVE", "DATABASE"]);
        }
        let name = self.name()?;
        self.end()?;
        Ok(if is_box {
            Statement::UseBox(name)
        } else {
            Statement::UseHive(name)
        })
    }

    fn describe(mut self) -> Result<Statement> {
        self.take(&["FRAME", "TABLE"]);
        let frame = self.parts(3)?;
        self.end()?;
        Ok(Statement::Describe { frame })
    }

    fn create_namespace(mut self) -> Result<Statement> {
        let is_hive = self.take(&["HIVE", "DATABASE"]);
        if !is_hive {
            self.take(&["BOX", "SCHEMA"]);
        }
        let if_not_exists = self.if_not_exists();
        let statement = if is_hive {
            Statement::CreateHive {
                hive: self.name()?,
                if_not_exists,
            }
        } else {
            let (hive, box_name) = self.box_parts()?;
            Statement::CreateBox {
                hive,
                box_name,
                if_not_exists,
            }
        };
        self.end()?;
        Ok(statement)
    }

    fn box_parts(&mut self) -> Result<(Option<String>, String)> {
        let mut parts = self.parts(2)?;
        match parts.pop() {
            Some(box_name) => Ok((parts.pop(), box_name)),
            None => self.expected("a name"),
        }
    }

    fn drop_statement(mut self) -> Result<Statement> {
        let is_hive = self.take(&["HIVE", "DATABASE"]);
        let is_box = !is_hive && self.take(&["BOX", "SCHEMA"]);
        if !is_hive && !is_box && !self.take(&["FRAME", "TABLE"]) {
            let what = self.parser.peek_token_ref().to_string();
            return Err(Error::Unsupported(format!("DROP {what}")));
        }
        let if_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
        let name = self.parts(if is_hive {
            1
        } else if is_box {
            2
        } else {
            3
        })?;
        let (mut cascade, mut purge) = (false, false);
        loop {
            if self.take(&["CASCADE"]) {
                cascade = true;
            } else if self.take(&["PURGE"]) {
                purge = true;
            } else if !self.take(&["RESTRICT"]) {
                break;
            }
        }
        self.end()?;
        let mut parts = name.clone();
        let last = parts.pop().unwrap_or_default();
        Ok(if is_hive {
            Statement::DropHive {
                hive: last,
                if_exists,
                cascade,
                purge,
            }
        } else if is_box {
            Statement::DropBox {
                hive: parts.pop(),
                box_name: last,
                if_exists,
                cascade,
                purge,
            }
        } else {
            Statement::DropFrame {
                frame: name,
                if_exists,
                purge,
            }
        })
    }

    fn attach(mut self) -> Result<Statement> {
        if !self.take(&["FRAME", "TABLE"]) {
            return self.expected("FRAME");
        }
        let if_not_exists = self.if_not_exists();
        let frame = self.parts(3)?;
        if !self.take(&["LOCATION"]) {
            return self.expected("LOCATION");
        }
        let location = self.parser.parse_literal_string().map_err(syntax)?;
        self.end()?;
        Ok(Statement::AttachFrame {
            frame,
            location,
            if_not_exists,
        })
    }
}
