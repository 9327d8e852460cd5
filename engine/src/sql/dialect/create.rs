//! `CREATE TABLE` and `CREATE FRAME`, with `PARTITIONED BY` in the forms that people write.

use super::words::Words;
use super::*;
use crate::sql::types::column_field;
use arrow::datatypes::{FieldRef, Schema};
use datafusion::sql::sqlparser::ast::{
    ColumnDef, ColumnOption, CreateTable, CreateTableOptions, HiveDistributionStyle,
};

pub(super) fn create(mut tokens: Vec<TokenWithSpan>, what: &str) -> Result<Statement> {
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
