//! From the text of an expression to its rule, one character at a time, without looking back.

use grapevine_protocol::{AttributeValue, is_attribute_name};

use super::{Comparison, MAX_SELECT_BYTES, MAX_SELECT_DEPTH, Rule};

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {fault}")]
pub struct SelectError {
    /// Which character, from 1.
    pub at: usize,
    /// What is wrong there.
    pub fault: SelectFault,
}

/// What is wrong at one place of an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectFault {
    /// The expression is too long.
    #[error("the expression has more than {MAX_SELECT_BYTES} bytes; shorten it")]
    TooLong,
    /// Brackets or `not` nest too deep.
    #[error("brackets and `not` nest deeper than {MAX_SELECT_DEPTH}; shorten the expression")]
    TooDeep,
    /// There should be an attribute, `not` or a bracket.
    #[error("expected an attribute such as `mains`, `not` or `(`, found {0}")]
    Operand(String),
    /// There should be `and`, `or`, `)` or nothing.
    #[error("expected `and`, `or` or the end, found {0}")]
    Operator(String),
    /// A bracket is not closed.
    #[error("expected `)`, found {0}")]
    Bracket(String),
    /// There should be a value.
    #[error("expected a value after `{0}`, such as \"north\", 4 or true, found {1}")]
    Value(&'static str, String),
    /// Only numbers have an order.
    #[error("`{0}` compares whole numbers only; use `=` or `!=`")]
    Order(&'static str),
    /// A text is not closed, or cannot be an attribute's.
    #[error("a text ends with `\"`, has at most 32 bytes and no control characters")]
    Text,
    /// A number beyond 64 bits.
    #[error("`{0}` is not a whole number of at most 64 bits")]
    Number(String),
}

/// What stands at the current place.
#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    End,
    Open,
    Close,
    Comparison(Comparison),
    Value(AttributeValue),
    Word(&'a str),
    /// What begins no word of the language.
    Other(char),
}

pub(super) fn parse(text: &str) -> Result<Rule, SelectError> {
    if text.len() > MAX_SELECT_BYTES {
        return Err(SelectError { at: MAX_SELECT_BYTES + 1, fault: SelectFault::TooLong });
    }
    let mut parser = Parser { text, at: 0, next: 0, token: Token::End };
    parser.advance()?;
    let rule = parser.any(0)?;
    match parser.token {
        Token::End => Ok(rule),
        Token::Open | Token::Close | Token::Comparison(_) | Token::Value(_) | Token::Word(_) | Token::Other(_) => {
            Err(parser.error(SelectFault::Operator(parser.found())))
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Where the current token begins.
    at: usize,
    /// Where it ends.
    next: usize,
    token: Token<'a>,
}

impl<'a> Parser<'a> {
    fn any(&mut self, depth: usize) -> Result<Rule, SelectError> {
        let mut rules = vec![self.all(depth)?];
        while self.token == Token::Word("or") {
            self.advance()?;
            rules.push(self.all(depth)?);
        }
        Ok(one_or(rules, Rule::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Rule, SelectError> {
        let mut rules = vec![self.one(depth)?];
        while self.token == Token::Word("and") {
            self.advance()?;
            rules.push(self.one(depth)?);
        }
        Ok(one_or(rules, Rule::All))
    }

    fn one(&mut self, depth: usize) -> Result<Rule, SelectError> {
        if depth > MAX_SELECT_DEPTH {
            return Err(self.error(SelectFault::TooDeep));
        }
        match self.token {
            Token::Word("not") => {
                self.advance()?;
                Ok(Rule::Not(Box::new(self.one(depth + 1)?)))
            }
            Token::Open => {
                self.advance()?;
                let rule = self.any(depth + 1)?;
                if self.token != Token::Close {
                    return Err(self.error(SelectFault::Bracket(self.found())));
                }
                self.advance()?;
                Ok(rule)
            }
            Token::Word(name) if is_attribute_name(name) => {
                self.advance()?;
                self.compared(name)
            }
            Token::End | Token::Close | Token::Comparison(_) | Token::Value(_) | Token::Word(_) | Token::Other(_) => {
                Err(self.error(SelectFault::Operand(self.found())))
            }
        }
    }

    fn compared(&mut self, name: &str) -> Result<Rule, SelectError> {
        let Token::Comparison(comparison) = self.token else { return Ok(Rule::Is(name.to_owned())) };
        self.advance()?;
        let value = match &self.token {
            Token::Value(value) => value.clone(),
            Token::Word("true") => AttributeValue::Flag(true),
            Token::Word("false") => AttributeValue::Flag(false),
            Token::End | Token::Open | Token::Close | Token::Comparison(_) | Token::Word(_) | Token::Other(_) => {
                return Err(self.error(SelectFault::Value(comparison.sign(), self.found())));
            }
        };
        let is_equality = matches!(comparison, Comparison::Equal | Comparison::Unequal);
        if !is_equality && !matches!(value, AttributeValue::Number(_)) {
            return Err(self.error(SelectFault::Order(comparison.sign())));
        }
        self.advance()?;
        Ok(Rule::Compare(name.to_owned(), comparison, value))
    }

    /// Reads the next token.
    fn advance(&mut self) -> Result<(), SelectError> {
        let rest = &self.text[self.next..];
        let trimmed = rest.trim_start();
        self.at = self.text.len() - trimmed.len();
        let (token, length) = self.read(trimmed)?;
        self.token = token;
        self.next = self.at + length;
        Ok(())
    }

    /// The token at the beginning of `rest`, and its length in bytes.
    fn read(&self, rest: &'a str) -> Result<(Token<'a>, usize), SelectError> {
        let Some(first) = rest.chars().next() else { return Ok((Token::End, 0)) };
        let then_equals = rest[first.len_utf8()..].starts_with('=');
        let comparison = |plain, with_equals| {
            let comparison = if then_equals { with_equals } else { plain };
            Ok((Token::Comparison(comparison), 1 + usize::from(then_equals)))
        };
        match first {
            '(' => Ok((Token::Open, 1)),
            ')' => Ok((Token::Close, 1)),
            '=' => Ok((Token::Comparison(Comparison::Equal), 1)),
            '!' if then_equals => Ok((Token::Comparison(Comparison::Unequal), 2)),
            '<' => comparison(Comparison::Less, Comparison::AtMost),
            '>' => comparison(Comparison::More, Comparison::AtLeast),
            '"' => self.read_text(&rest[1..]),
            '-' | '0'..='9' => {
                let digits = span(&rest[1..], |byte| byte.is_ascii_digit());
                let number = &rest[..1 + digits];
                let value = number.parse().map(|value| Token::Value(AttributeValue::Number(value)));
                value.map(|value| (value, number.len())).map_err(|_| self.error(SelectFault::Number(number.to_owned())))
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                let length = span(rest, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
                Ok((Token::Word(&rest[..length]), length))
            }
            other => Ok((Token::Other(other), other.len_utf8())),
        }
    }

    fn read_text(&self, rest: &str) -> Result<(Token<'a>, usize), SelectError> {
        let (text, _) = rest.split_once('"').ok_or_else(|| self.error(SelectFault::Text))?;
        let value = AttributeValue::text(text).map_err(|_| self.error(SelectFault::Text))?;
        Ok((Token::Value(value), text.len() + 2))
    }

    /// The current token for people.
    fn found(&self) -> String {
        match &self.token {
            Token::End => "the end".into(),
            Token::Other(character) => format!("`{}`", character.escape_debug()),
            Token::Open | Token::Close | Token::Comparison(_) | Token::Value(_) | Token::Word(_) => {
                format!("`{}`", &self.text[self.at..self.next])
            }
        }
    }

    fn error(&self, fault: SelectFault) -> SelectError {
        SelectError { at: self.text[..self.at].chars().count() + 1, fault }
    }
}

/// Bytes at the beginning of `text` for which `is_part` holds, all of them ASCII.
fn span(text: &str, is_part: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|byte| is_part(*byte)).count()
}

/// A list of one is that one.
fn one_or(mut rules: Vec<Rule>, join: impl FnOnce(Vec<Rule>) -> Rule) -> Rule {
    match rules.pop() {
        Some(only) if rules.is_empty() => only,
        last => {
            rules.extend(last);
            join(rules)
        }
    }
}
