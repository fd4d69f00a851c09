//! Walks a parsed TOML document and the overrides, key by key, and gathers everything that is wrong with them.
//! Knows no key: `sections` asks for each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::bounds::LIST_MAX;
use super::overrides::Overrides;
use super::problem::{Place, Problem, Source};

/// How alike two names must be for one to be offered for the other (Jaro-Winkler, 0 to 1).
const ALIKE_MIN: f64 = 0.75;

/// What the document itself is called where a table has its name.
const THE_FILE: &str = "the file";

/// Why a value cannot be a key's.
#[derive(Debug)]
pub(super) struct Wrong {
    /// What the value must be: the rest of "`key` must be …".
    pub(super) expected: String,
    /// What is wrong with this one; shown at the caret.
    pub(super) label: String,
    pub(super) help: Option<String>,
    /// The element of a list that is wrong, by its place in the text that was parsed.
    pub(super) element: Option<Range<usize>>,
    /// The bytes of the string that are wrong, if not all.
    pub(super) within: Option<Range<usize>>,
}

/// The state of one reading.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    overrides: &'a Overrides,
    pub(super) sources: Vec<Source>,
    pub(super) problems: Vec<Problem>,
    /// Where the value of each key that is set comes from.
    pub(super) places: BTreeMap<String, Place>,
    /// Keys whose value is wrong; they hold their default and prove nothing.
    pub(super) broken: BTreeSet<String>,
    /// Every key that was asked for, dotted.
    pub(super) keys: BTreeSet<String>,
    unknown: Vec<Unknown>,
}

/// A key that no one asked for. What it may have been meant for is known at the end.
#[derive(Debug)]
struct Unknown {
    name: String,
    span: Range<usize>,
    table: String,
    known: Vec<&'static str>,
}

/// One table of the document, while its keys are read.
#[derive(Debug)]
pub(super) struct Section<'r, 'a> {
    pub(super) reader: &'r mut Reader<'a>,
    /// Dotted, with the index of a list's element: `engine.0`. Empty for the document itself.
    path: String,
    /// As it stands in the file: `[[engine]]`.
    title: String,
    table: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// `sources[0]` is the file; the overrides follow in their order.
    pub(super) fn new(file: Source, overrides: &'a Overrides) -> Self {
        let others = overrides.list.iter().map(|one| Source { file: None, text: one.text() });
        Self {
            overrides,
            sources: std::iter::once(file).chain(others).collect(),
            problems: Vec::new(),
            places: BTreeMap::new(),
            broken: BTreeSet::new(),
            keys: BTreeSet::new(),
            unknown: Vec::new(),
        }
    }

    /// The document itself, whose keys are the names of its tables.
    pub(super) fn document(&mut self, table: &'a DeTable<'a>) -> Section<'_, 'a> {
        let (path, title) = (String::new(), THE_FILE.to_owned());
        Section { reader: self, path, title, table: Some(table), known: Vec::new() }
    }

    pub(super) fn problem(&mut self, title: String, span: Range<usize>, label: &str, help: Option<String>) {
        let place = Place { source: 0, span };
        self.problems.push(Problem { title, place, label: label.to_owned(), also: None, help });
    }

    /// Every key and every override must have been asked for.
    pub(super) fn finish(&mut self) {
        for Unknown { name, span, table, known } in std::mem::take(&mut self.unknown) {
            let elsewhere = self.keys.iter().find_map(|key| key.strip_suffix(&format!(".{name}")));
            let help = if let Some(elsewhere) = elsewhere {
                match elsewhere.strip_suffix(".0") {
                    Some(list) => format!("`{name}` is a key of [[{list}]]"),
                    None => format!("`{name}` is a key of [{elsewhere}]"),
                }
            } else if let Some(near) = nearest(&name, known.iter().copied()) {
                format!("did you mean `{near}`?")
            } else {
                format!("{table} takes {}", list(&known))
            };
            let within = if table == THE_FILE { String::new() } else { format!(" in {table}") };
            self.problem(format!("unknown key `{}`{within}", name.escape_debug()), span, "", Some(help));
        }
        for (index, one) in self.overrides.list.iter().enumerate() {
            if self.keys.contains(&one.key) {
                continue;
            }
            let inside = self.keys.iter().find(|key| key.starts_with(&format!("{}.", one.key)));
            let help = match inside {
                Some(key) => Some(format!("it is a table: set one of its keys, such as `{}`", plain(key))),
                None => nearest(&one.key, self.keys.iter().map(String::as_str))
                    .map(|key| format!("did you mean `{}`?", plain(key))),
            };
            // Only `--set` can name a key that does not exist, and there the key ends just before the `=`.
            let end = one.before.len().saturating_sub(1);
            self.problems.push(Problem {
                title: format!("unknown key `{}`", one.written.escape_debug()),
                place: Place { source: index + 1, span: end.saturating_sub(one.written.len())..end },
                label: String::new(),
                also: None,
                help,
            });
        }
    }
}

impl<'a> Section<'_, 'a> {
    /// The table named `name`; every key of it has its default when it is not there.
    pub(super) fn table<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Section<'_, 'a>) -> T) -> T {
        self.known.push(name);
        let table = self.find(name).and_then(|(key, value)| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                let help = match value.get_ref() {
                    DeValue::Array(_) => format!("write `[{name}]`, once"),
                    _ => format!("write `[{name}]` and its keys below it"),
                };
                self.reader.problem(format!("`{name}` must be a table"), key.span(), "", Some(help));
            }
            table
        });
        // A table within a list's element is written without the element's number.
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let title = format!("[{}]", plain(&format!("{path}.")).trim_end_matches('.'));
        self.child(path, title, table, read)
    }

    /// The tables of the list named `name`, one at least: an absent or empty list is one table of defaults.
    /// If the list is `replaced`, the file's tables are judged, and then make room for one of defaults.
    pub(super) fn tables<T>(
        &mut self,
        name: &'static str,
        replaced: bool,
        mut read: impl FnMut(&mut Section<'_, 'a>) -> T,
    ) -> Vec<T> {
        self.known.push(name);
        let mut tables = Vec::new();
        if let Some((key, value)) = self.find(name) {
            let places: Vec<_> = match value.get_ref() {
                DeValue::Array(list) => list.iter().collect(),
                _ => vec![value],
            };
            let is_list = value.get_ref().is_array();
            tables = places.iter().filter_map(|place| place.get_ref().as_table()).collect();
            if !is_list || tables.len() < places.len() {
                let help = Some(format!("write `[[{name}]]` and its keys below it"));
                self.reader.problem(format!("`{name}` must be a list of tables"), key.span(), "", help);
            }
            for (index, place) in places.iter().enumerate() {
                self.reader.places.insert(format!("{name}.{index}"), Place { source: 0, span: place.span() });
            }
        }
        // `rules` reports a list that is too long.
        let count = tables.len().clamp(1, LIST_MAX);
        let mut element = |index: usize, table| {
            self.child(format!("{name}.{index}"), format!("[[{name}]]"), table, &mut read)
        };
        let tables = tables.into_iter().map(Some).chain(std::iter::repeat(None)).take(count);
        let values = tables.enumerate().map(|(index, table)| element(index, table)).collect();
        if !replaced {
            return values;
        }
        let default = element(0, None);
        let prefix = format!("{name}.");
        self.reader.places.retain(|key, place| !key.starts_with(&prefix) || place.source > 0);
        vec![default]
    }

    /// The value of the key `name`: the last override's, else the file's, else `default`.
    pub(super) fn get<T>(
        &mut self,
        name: &'static str,
        default: T,
        read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> T {
        self.known.push(name);
        let key = format!("{}.{name}", self.path);
        let mut value = default;
        if let Some((_, found)) = self.find(name) {
            let place = Place { source: 0, span: found.span() };
            self.take(&key, place, 0, read(found.get_ref()), &mut value);
        }
        let overrides = self.reader.overrides;
        for (index, one) in overrides.list.iter().enumerate().filter(|(_, one)| one.key == key) {
            let start = one.before.len();
            let place = Place { source: index + 1, span: start..start + one.value.len() };
            match parse_override(&one.value) {
                Ok(found) => self.take(&key, place, start, read(&found), &mut value),
                Err(error) => {
                    let span = error.span().unwrap_or(0..one.value.len());
                    let place = Place { source: index + 1, span: start + span.start..start + span.end };
                    let title = format!("the value of `{}` is not TOML", plain(&key));
                    let label = error.message().to_owned();
                    self.reader.problems.push(Problem { title, place, label, also: None, help: None });
                    self.reader.broken.insert(key.clone());
                }
            }
        }
        self.reader.keys.insert(key);
        value
    }

    /// The value of a key that has no default.
    pub(super) fn find_value<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.get(name, None, |value| read(value).map(Some))
    }

    /// `base` is where the parsed text begins in its source.
    fn take<T>(&mut self, key: &str, place: Place, base: usize, found: Result<T, Wrong>, value: &mut T) {
        match found {
            Ok(found) => {
                *value = found;
                self.reader.places.insert(key.to_owned(), place);
            }
            Err(wrong) => {
                let title = format!("`{}` must be {}", plain(key), wrong.expected);
                let Wrong { label, help, element, within, .. } = wrong;
                let span = element.map_or(place.span, |span| base + span.start..base + span.end);
                let place = self.narrow(Place { span, ..place }, within);
                self.reader.problems.push(Problem { title, place, label, also: None, help });
                self.reader.broken.insert(key.to_owned());
            }
        }
    }

    /// The place of some bytes of a string within the place of its value: past the opening quote, if there is one.
    /// A string with escapes is shown whole: its bytes are not those of the file.
    fn narrow(&self, place: Place, within: Option<Range<usize>>) -> Place {
        let Some(within) = within else { return place };
        let written = &self.reader.sources[place.source].text[place.span.clone()];
        let quotes = usize::from(written.starts_with(['"', '\'']));
        if written.contains('\\') || written.starts_with("\"\"\"") || written.starts_with("'''") {
            return place;
        }
        let start = place.span.start + quotes;
        Place { source: place.source, span: start + within.start..start + within.end }
    }

    fn find(&self, name: &str) -> Option<(&'a Spanned<std::borrow::Cow<'a, str>>, &'a Spanned<DeValue<'a>>)> {
        self.table?.iter().find(|(key, _)| key.get_ref() == name)
    }

    fn child<T>(
        &mut self,
        path: String,
        title: String,
        table: Option<&'a DeTable<'a>>,
        read: impl FnOnce(&mut Section<'_, 'a>) -> T,
    ) -> T {
        let mut section = Section { reader: self.reader, path, title, table, known: Vec::new() };
        let value = read(&mut section);
        section.unknown_keys();
        value
    }

    /// Remembers the keys of the table that no one has asked for.
    pub(super) fn unknown_keys(&mut self) {
        for (key, _) in self.table.into_iter().flatten() {
            if !self.known.contains(&key.get_ref().as_ref()) {
                let name = key.get_ref().as_ref().to_owned();
                let (table, known) = (self.title.clone(), self.known.clone());
                self.reader.unknown.push(Unknown { name, span: key.span(), table, known });
            }
        }
    }
}

/// A value from a flag, a variable or `--set`: TOML, or else a text that needs no quotes.
fn parse_override(text: &str) -> Result<DeValue<'_>, toml::de::Error> {
    let is_meant_as_toml = || text.starts_with(['"', '\'', '[', '{']) && text.parse::<SocketAddr>().is_err();
    match DeValue::parse(text) {
        Ok(value) => Ok(value.into_inner()),
        // `[::]:8800` is an address and no list.
        Err(error) if is_meant_as_toml() => Err(error),
        Err(_) => Ok(DeValue::String(text.into())),
    }
}

/// A dotted key as an operator writes it: without the index of the first listener or engine.
pub(super) fn plain(key: &str) -> String {
    key.replacen(".0.", ".", 1)
}

/// The name most like `name`, if one is like it at all.
pub(super) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let likeness = |candidate: &str| strsim::jaro_winkler(name, candidate);
    let best = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= ALIKE_MIN).then_some(best)
}

/// `a`, `b` and `c`, each in backquotes.
pub(super) fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
