//! A reader of our own statements: names, `IN`, `LIKE`, `IF EXISTS` and what else they hold.

use super::*;
use datafusion::sql::sqlparser::keywords::Keyword;

/// Reads our own statements.
pub(super) struct Words {
    parser: Parser<'static>,
}

impl Words {
    /// Starts behind the first `skip` tokens.
    pub(super) fn new(tokens: Vec<TokenWithSpan>, skip: usize) -> Self {
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

    pub(super) fn in_or_from(&mut self) -> bool {
        self.take(&["IN", "FROM"])
    }

    pub(super) fn expected<T>(&self, what: &str) -> Result<T> {
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
    pub(super) fn like_to_end(mut self) -> Result<Option<String>> {
        let like = if self.take(&["LIKE"]) {
            Some(self.parser.parse_literal_string().map_err(syntax)?)
        } else {
            None
        };
        self.end()?;
        Ok(like)
    }

    /// A name of one to `most` parts.
    pub(super) fn parts(&mut self, most: usize) -> Result<Vec<String>> {
        let name = self.parser.parse_object_name(false).map_err(syntax)?;
        let parts = name_parts(&name)?;
        if parts.len() > most {
            return Err(Error::rejected(format!(
                "SQL error: {name} has more than {most} parts"
            )));
        }
        Ok(parts)
    }

    pub(super) fn name(&mut self) -> Result<String> {
        let mut parts = self.parts(1)?;
        parts.pop().map_or_else(|| self.expected("a name"), Ok)
    }

    fn if_not_exists(&mut self) -> bool {
        self.parser
            .parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS])
    }

    pub(super) fn use_statement(mut self) -> Result<Statement> {
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

    pub(super) fn describe(mut self) -> Result<Statement> {
        self.take(&["FRAME", "TABLE"]);
        let frame = self.parts(3)?;
        self.end()?;
        Ok(Statement::Describe { frame })
    }

    pub(super) fn create_namespace(mut self) -> Result<Statement> {
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

    pub(super) fn drop_statement(mut self) -> Result<Statement> {
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

    pub(super) fn attach(mut self) -> Result<Statement> {
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
