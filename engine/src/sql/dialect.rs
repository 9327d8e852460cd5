//! The dialect: DataFusion's parser, and our own statements recognised by their first tokens.
//!
//! Text is tokenised once; no decision is ever taken on the text itself, so a word inside a literal,
//! a quoted name or a comment is never mistaken for syntax. Statements that are not supported are
//! refused by name. Nothing is resolved here.

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
            let mut words = Words::new(tokens, 2);
            words.end()?;
            Ok(Statement::ShowHives)
        }
        "BOXES" | "SCHEMAS" => {
            let mut words = Words::new(tokens, 2);
            let hive = if words.in_or_from() {
                Some(words.name()?)
            } else {
                None
            };
            words.end()?;
            Ok(Statement::ShowBoxes { hive })
        }
        "FRAMES" | "TABLES" => {
            let mut words = Words::new(tokens, 2);
            let mut parts = if words.in_or_from() {
                words.parts(2)?
            } else {
                vec![]
            };
            words.end()?;
            let box_name = parts.pop();
            Ok(Statement::ShowFrames {
                hive: parts.pop(),
                box_name,
            })
        }
        "COLUMNS" | "FIELDS" => {
            let mut words = Words::new(tokens, 2);
            if !words.in_or_from() {
                return words.expected("FROM and the name of a frame");
            }
            let frame = words.parts(3)?;
            words.end()?;
            Ok(Statement::ShowColumns { frame })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Statement {
        let mut statements = parse(text).unwrap();
        assert_eq!(statements.len(), 1, "{text}");
        statements.remove(0)
    }

    fn refusal(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn semicolons_in_literals_names_and_comments_separate_nothing() {
        let statements = parse("SELECT ';' AS \";\"; -- one; two\n /* ; */ SELECT 2;; ").unwrap();
        assert_eq!(statements.len(), 2);
        assert!(parse("").unwrap().is_empty());
        assert!(parse(" ; -- nothing\n;").unwrap().is_empty());
    }

    #[test]
    fn words_of_our_own_are_found_only_where_they_begin_a_statement() {
        for text in [
            "SELECT 'DROP TABLE x', hive, box, frame FROM use WHERE show = 'USE HIVE y'",
            "WITH attach AS (SELECT 1) SELECT * FROM attach",
            "(SELECT 1) UNION (SELECT 2)",
            "VALUES (1), (2)",
            "EXPLAIN ANALYZE VERBOSE SELECT 1",
            "EXPLAIN SELECT 'DELETE FROM t'",
            "SHOW ALL",
        ] {
            assert!(matches!(one(text), Statement::Query(_)), "{text}");
        }
    }

    #[test]
    fn both_vocabularies_mean_the_same() {
        let same = [
            ("USE HIVE h", "use database H"),
            ("USE BOX b", "USE SCHEMA b"),
            ("SHOW HIVES", "show databases"),
            ("SHOW BOXES IN h", "SHOW SCHEMAS FROM h"),
            ("SHOW FRAMES IN h.b", "SHOW TABLES FROM h.b"),
            ("DESCRIBE FRAME a.b.c", "DESC a.b.c"),
            (
                "CREATE HIVE IF NOT EXISTS h",
                "CREATE DATABASE IF NOT EXISTS h",
            ),
            ("CREATE BOX h.b", "CREATE SCHEMA h.b"),
            (
                "CREATE FRAME t (a INT NOT NULL)",
                "CREATE TABLE t (a INTEGER NOT NULL)",
            ),
            ("DROP HIVE h CASCADE", "DROP DATABASE h CASCADE"),
            ("DROP BOX IF EXISTS b", "DROP SCHEMA IF EXISTS b RESTRICT"),
            ("DROP FRAME t PURGE", "DROP TABLE t PURGE"),
            (
                "ATTACH FRAME t LOCATION 'x/y'",
                "ATTACH TABLE t LOCATION 'x/y'",
            ),
        ];
        for (bee, sql) in same {
            assert_eq!(format!("{:?}", one(bee)), format!("{:?}", one(sql)));
        }
    }

    #[test]
    fn quoted_names_keep_their_case_and_may_hold_anything() {
        let Statement::Describe { frame } = one("DESCRIBE Hive.\"My Box\".\"select;from\"") else {
            panic!()
        };
        assert_eq!(frame, ["hive", "My Box", "select;from"]);
        let Statement::UseHive(hive) = one("USE HIVE \"HIVE\"") else {
            panic!()
        };
        assert_eq!(hive, "HIVE");
    }

    #[test]
    fn a_frame_is_partitioned_before_or_behind_and_with_or_without_types() {
        let Statement::CreateFrame {
            frame,
            schema,
            partition_by,
            if_not_exists,
        } = one(
            "CREATE TABLE IF NOT EXISTS b.T (\"Id\" BIGINT NOT NULL, d DATE, p VARCHAR(10)) PARTITIONED BY (d, p)",
        )
        else {
            panic!()
        };
        assert!(if_not_exists);
        assert_eq!(frame, ["b", "t"]);
        assert_eq!(partition_by, ["d", "p"]);
        assert_eq!(schema.field(0).name(), "Id");
        assert!(!schema.field(0).is_nullable() && schema.field(1).is_nullable());

        let Statement::CreateFrame {
            schema,
            partition_by,
            ..
        } = one("CREATE TABLE t (a INT) PARTITIONED BY (day DATE, kind TEXT)")
        else {
            panic!()
        };
        assert_eq!(partition_by, ["day", "kind"]);
        assert_eq!(schema.fields().len(), 3);

        for text in [
            "CREATE TABLE t PARTITIONED BY (a) AS SELECT 1 AS a, 'PARTITIONED BY (b)' AS b",
            "CREATE TABLE t AS SELECT 1 AS a, 2 AS b PARTITIONED BY (a)",
        ] {
            let Statement::CreateFrameAs { partition_by, .. } = one(text) else {
                panic!()
            };
            assert_eq!(partition_by, ["a"], "{text}");
        }
    }

    #[test]
    fn column_types_of_sql_and_of_arrow_are_understood() {
        use arrow::datatypes::{DataType, TimeUnit};
        let Statement::CreateFrame { schema, .. } = one(
            "CREATE TABLE t (a DECIMAL(12,2), b TIMESTAMP, c TIMESTAMP WITH TIME ZONE, d INT[], \
             e STRUCT<x INT, y TEXT>, f uint32, g DOUBLE PRECISION, h BYTEA, i timestamp_ns, \
             j BIGINT UNSIGNED, k MAP(TEXT, INT), l ARRAY<DOUBLE>, m int64, n TIMESTAMP(9))",
        ) else {
            panic!()
        };
        let types: Vec<_> = schema
            .fields()
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        assert_eq!(types[0], DataType::Decimal128(12, 2));
        assert_eq!(types[1], DataType::Timestamp(TimeUnit::Microsecond, None));
        assert_eq!(
            types[2],
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        );
        assert!(matches!(&types[3], DataType::List(item) if *item.data_type() == DataType::Int32));
        assert!(matches!(&types[4], DataType::Struct(fields) if fields.len() == 2));
        assert_eq!(types[5], DataType::UInt32);
        assert_eq!(types[7], DataType::Binary);
        assert_eq!(types[8], DataType::Timestamp(TimeUnit::Nanosecond, None));
        assert_eq!(types[9], DataType::UInt64);
        assert!(matches!(&types[10], DataType::Map(..)));
        assert!(refusal("CREATE TABLE t (a INTERVAL)").contains("INTERVAL of column a"));
        assert!(refusal("CREATE TABLE t (a DECIMAL(39,2))").contains("DECIMAL(39,2)"));
    }

    #[test]
    fn an_insert_knows_its_columns_and_whether_it_replaces() {
        let Statement::Insert {
            frame,
            columns,
            overwrite,
            ..
        } = one("INSERT INTO a.b.c (x, \"Y\") SELECT 1, 2 FROM s")
        else {
            panic!()
        };
        assert_eq!(
            (frame.len(), columns, overwrite),
            (3, vec!["x".to_string(), "Y".to_string()], false)
        );
        for text in [
            "INSERT OVERWRITE t VALUES (1)",
            "INSERT OVERWRITE TABLE t SELECT 1",
        ] {
            assert!(
                matches!(
                    one(text),
                    Statement::Insert {
                        overwrite: true,
                        ..
                    }
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (text, name) in [
            ("DELETE FROM t", "DELETE"),
            ("UPDATE t SET a = 1", "UPDATE"),
            (
                "MERGE INTO t USING s ON a = b WHEN MATCHED THEN DELETE",
                "MERGE",
            ),
            ("ALTER TABLE t ADD COLUMN a INT", "ALTER"),
            ("COPY t TO 'x'", "COPY"),
            ("CREATE VIEW v AS SELECT 1", "CREATE VIEW"),
            ("CREATE OR REPLACE TABLE t (a INT)", "CREATE OR REPLACE"),
            (
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x'",
                "CREATE EXTERNAL TABLE",
            ),
            ("CREATE INDEX i ON t (a)", "CREATE INDEX"),
            (
                "CREATE FUNCTION f() RETURNS INT RETURN 1",
                "CREATE FUNCTION",
            ),
            ("CREATE TABLE t (a INT PRIMARY KEY)", "PRIMARY KEY"),
            ("CREATE TABLE t LIKE s", "LIKE"),
            ("SET datafusion.execution.batch_size = 1", "SET"),
            ("TRUNCATE TABLE t", "TRUNCATE"),
            ("DROP VIEW v", "DROP VIEW"),
            ("EXPLAIN DELETE FROM t", "DELETE"),
            ("EXPLAIN INSERT INTO t SELECT 1", "INSERT"),
            (
                "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
                "ON CONFLICT",
            ),
        ] {
            let message = refusal(text);
            assert!(
                message.contains(name) && message.contains("not supported"),
                "{text}: {message}"
            );
        }
        assert!(parse("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a").is_err());
        assert!(parse("WITH a AS (SELECT 1) DELETE FROM t").is_err());
    }

    #[test]
    fn a_syntax_error_says_where() {
        let message = refusal("SELECT 1;\nSELEC 2");
        assert!(
            message.starts_with("SQL error: ") && message.contains("Line: 2, Column: 1"),
            "{message}"
        );
        let message = refusal("SELECT\n a FROM t WHERE AND");
        assert!(message.contains("Line: 2"), "{message}");
        assert!(refusal("SHOW BOXES IN").starts_with("SQL error: "));
        assert!(refusal("SHOW HIVES NOW").contains("NOW"));
        assert!(refusal("SELECT 'open").starts_with("SQL error: "));
        assert!(refusal("DESCRIBE a.b.c.d").contains("more than 3 parts"));
        let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
        assert!(refusal(&deep).contains("nests deeper"));
    }
}
