//! YAML as text with positions: what a scalar means is for its setting to say, so that `0123` can be a password.

use std::{collections::HashMap, sync::Arc};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::problem::Position;

/// A node with its position. Copies are cheap.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: Position,
    pub data: Data,
}

#[derive(Debug, Clone)]
pub(super) enum Data {
    Null,
    Scalar {
        text: String,
        /// Not in quotes and not a block.
        plain: bool,
    },
    List(Arc<Vec<Node>>),
    Map(Arc<Vec<Entry>>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    /// Of the key.
    pub at: Position,
    pub value: Node,
}

impl Node {
    /// The members of a mapping; none for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none if it is something else.
    pub(super) fn items(&self) -> &[Node] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    /// The value of a member that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let entry = self.entries().iter().find(|entry| entry.key == key)?;
        (!matches!(entry.value.data, Data::Null)).then_some(&entry.value)
    }

    /// What the node is, for errors.
    pub(super) fn kind(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Scalar { .. } => "a single value",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }
}

/// What to make of a key that stands twice in a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Twice {
    /// It is an error.
    Error,
    /// The last one counts, as for Python.
    Last,
}

/// The file's one document. Merge keys (`<<`) are carried out; tags are not looked at.
///
/// The error is a position and what is wrong there.
pub(super) fn parse(file: &Arc<str>, text: &str, twice: Twice) -> Result<Node, (Position, String)> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)),
        anchors: HashMap::new(),
        file: file.clone(),
        twice,
    };
    let mut document = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            _ if document.is_some() => return Err((reader.at(span), "a second document: write one".into())),
            event => document = Some(reader.node(event, span)?),
        }
    }
    Ok(document.unwrap_or_else(|| Node {
        at: reader.at(Span::default()),
        data: Data::Null,
    }))
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    file: Arc<str>,
    twice: Twice,
}

impl<'a> Reader<'a> {
    fn at(&self, span: Span) -> Position {
        Position {
            file: self.file.clone(),
            line: span.start.line().max(1),
            column: span.start.col() + 1,
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), (Position, String)> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, Span::default())),
            Some(event) => event.map_err(|e: ScanError| (self.at(Span::empty(*e.marker())), e.info().to_owned())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, (Position, String)> {
        let at = self.at(span);
        let (anchor, data) = match event {
            Event::Scalar(text, style, anchor, _) => (anchor, scalar(&text, style == ScalarStyle::Plain)),
            Event::SequenceStart(anchor, _) => (anchor, self.list()?),
            Event::MappingStart(anchor, _) => (anchor, self.map()?),
            Event::Alias(anchor) => {
                // The parser refuses unknown names; one that stands inside its own anchor is not there yet.
                let node = self.anchors.get(&anchor).cloned();
                return node.ok_or((at, "an alias inside its own anchor".into()));
            }
            _ => (0, Data::Null),
        };
        let node = Node { at, data };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self) -> Result<Data, (Position, String)> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Data::List(Arc::new(items))),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn map(&mut self) -> Result<Data, (Position, String)> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let Node { at, data } = self.node(event, span)?;
            let Data::Scalar { text: key, .. } = data else {
                return Err((at, "a key that is no text".into()));
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            if key == "<<" {
                match &value.data {
                    Data::List(maps) => merged.extend(maps.iter().flat_map(Node::entries).cloned()),
                    _ => merged.extend_from_slice(value.entries()),
                }
                continue;
            }
            if let Some(index) = entries.iter().position(|entry| entry.key == key) {
                if self.twice == Twice::Error {
                    let first = entries[index].at.line;
                    return Err((
                        at,
                        format!("{key:?} is here a second time, the first is in line {first}: keep one"),
                    ));
                }
                entries.remove(index);
            }
            entries.push(Entry { key, at, value });
        }
        for entry in merged {
            if entries.iter().all(|own| own.key != entry.key) {
                entries.push(entry);
            }
        }
        Ok(Data::Map(Arc::new(entries)))
    }
}

fn scalar(text: &str, plain: bool) -> Data {
    if plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Data::Null;
    }
    Data::Scalar {
        text: text.to_owned(),
        plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, twice: Twice) -> Result<Node, String> {
        parse(&"f".into(), text, twice).map_err(|(at, what)| format!("{at}: {what}"))
    }

    fn text(node: &Node) -> &str {
        match &node.data {
            Data::Scalar { text, .. } => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_keep_their_text_and_place() {
        let node = read("a:\n  b: 0123\n  c: \"x y\"\n", Twice::Error).unwrap();
        let b = node.get("a").unwrap().get("b").unwrap();
        assert_eq!((text(b), b.at.to_string().as_str()), ("0123", "f:2:6"));
        assert_eq!(text(node.get("a").unwrap().get("c").unwrap()), "x y");
    }

    #[test]
    fn null_is_nothing_and_an_empty_file_too() {
        assert!(read("a: ~\nb:\nc: null\n", Twice::Error).unwrap().get("a").is_none());
        assert!(matches!(read("# nothing\n", Twice::Error).unwrap().data, Data::Null));
    }

    #[test]
    fn anchors_and_merges() {
        let node = read("x: &x {host: h, db: 1}\ny:\n  <<: *x\n  db: 2\nz: *x\n", Twice::Error).unwrap();
        let y = node.get("y").unwrap();
        assert_eq!((text(y.get("host").unwrap()), text(y.get("db").unwrap())), ("h", "2"));
        assert_eq!(text(node.get("z").unwrap().get("db").unwrap()), "1");
    }

    #[test]
    fn errors_have_places() {
        assert_eq!(
            read("a: 1\nb: 2\na: 3\n", Twice::Error).unwrap_err(),
            "f:3:1: \"a\" is here a second time, the first is in line 1: keep one"
        );
        assert_eq!(text(read("a: 1\na: 3\n", Twice::Last).unwrap().get("a").unwrap()), "3");
        assert!(read("a: [1, 2\nb: 3\n", Twice::Error).unwrap_err().starts_with("f:2:"));
        assert_eq!(
            read("a: 1\n---\nb: 1\n", Twice::Error).unwrap_err(),
            "f:3:1: a second document: write one"
        );
        assert_eq!(
            read("&a [*a]\n", Twice::Error).unwrap_err(),
            "f:1:5: an alias inside its own anchor"
        );
    }
}
